# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible filter: one text for a bug report."""

from __future__ import annotations

DOCUMENTATION = r"""
name: doctor_bundle
short_description: Make one text without secrets for a bug report
version_added: 0.2.0
description:
  - What looks like a secret is hidden, and so is every value of the controller's environment whose name says that it is
    one. Rather too much is hidden than too little.
positional: time, collection, log_path, hide
options:
  _input:
    description:
      - A mapping of host to C(facts), C(plan), C(record), C(trouble) (why it could not be looked at), C(address), and
        C(secrets), whose values are hidden wherever they stand.
    type: dict
    required: true
  time:
    description: Now, in UTC.
    type: str
    required: true
  collection:
    description: Version of the collection.
    type: str
    required: true
  log_path:
    description: File of which the end is taken.
    type: path
    default: ""
  hide:
    description: Hide names of hosts and users, network addresses and the UUIDs of GPUs too.
    type: bool
    default: false
author:
  - The gpufleet.host contributors (@gpufleet)
"""

EXAMPLES = r"""
- name: Show it
  ansible.builtin.debug:
    msg: "{{ {inventory_hostname: {'facts': __gpufleet_facts}} | gpufleet.host.doctor_bundle('now', '0.2.0') }}"
"""

RETURN = r"""
_value:
  description: The text, in Markdown.
  type: str
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.gpufleet.host.plugins.plugin_utils.doctor import bundle


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filter by its name."""
        return {"doctor_bundle": bundle}
