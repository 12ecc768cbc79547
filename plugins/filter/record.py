# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible filters: the parts of a host's record."""

from __future__ import annotations

DOCUMENTATION = r"""
name: probe_brief
short_description: Keep of the probe's report what a fleet is compared by
version_added: 0.2.0
description:
  - For the role P(gpufleet.host.torch_probe#role). The fields keep the names of C(docs/probe.schema.json).
  - Of the checks those are kept that a person has to see.
positional: path
options:
  _input:
    description: The report.
    type: dict
    required: true
  path:
    description: Where the whole report is.
    type: str
author:
  - The gpufleet.host contributors (@gpufleet)
"""

EXAMPLES = r"""
- name: Say what the GPUs gave
  ansible.builtin.debug:
    msg: "{{ (report | gpufleet.host.probe_brief('/var/lib/gpufleet/probe.json')).gpus }}"
"""

RETURN = r"""
_value:
  description: The brief report.
  type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils.host_record import actions_of, probe_brief, versions_of


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names."""
        return {"actions_of": actions_of, "probe_brief": probe_brief, "versions_of": versions_of}
