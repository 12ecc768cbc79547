"""Filter plugin: the host plan, for use in Ansible's expressions."""

from __future__ import annotations

DOCUMENTATION = r"""
name: host_plan
short_description: Plan a GPU host from its facts and the wishes
version_added: 0.1.0
description:
  - A pure function of what M(gpufleet.host.gpu_facts) found and what the user wishes.
  - Decides the NVIDIA driver (branch, flavour, source, packages) and the torch channel, forecasts disk and
    downloads, and collects everything that cannot be, each as one sentence with the variable's name and a remedy.
positional: wishes
options:
  _input:
    description: The C(facts) that M(gpufleet.host.gpu_facts) returned.
    type: dict
    required: true
  wishes:
    description: Any of the wishes that C(WISHES) in C(module_utils/host_plan.py) names; a missing one has its default.
    type: dict
    required: true
author:
  - The gpufleet.host contributors (@gpufleet)
"""

EXAMPLES = r"""
- name: Plan with the defaults
  ansible.builtin.set_fact:
    plan: "{{ look.facts | gpufleet.host.host_plan({}) }}"

- name: Plan for a host with several users
  ansible.builtin.set_fact:
    plan: "{{ look.facts | gpufleet.host.host_plan({'channel': 'seed', 'users': ['alice']}) }}"
"""

RETURN = r"""
_value:
  description: The plan; the page docs/data.md names every field.
  type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.gpufleet.host.plugins.module_utils.host_plan import make_plan


def host_plan(facts: Any, wishes: Any) -> dict[str, Any]:
    """Return the plan, with an error that names the filter where its inputs are not facts and wishes."""
    if not isinstance(facts, dict) or not isinstance(wishes, dict):
        raise AnsibleFilterError("gpufleet.host.host_plan needs a dictionary of facts and one of wishes")
    try:
        plan: dict[str, Any] = make_plan(facts, wishes)
    except KeyError as error:
        raise AnsibleFilterError(f"gpufleet.host.host_plan: {error.args[0]} is missing or unknown") from error
    return plan


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"host_plan": host_plan}
