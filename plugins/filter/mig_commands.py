"""Filter plugin: the commands that cut GPUs into MIG instances as wished."""

from __future__ import annotations

DOCUMENTATION = r"""
name: mig_commands
short_description: The commands that cut GPUs into MIG instances as wished
version_added: 0.1.0
description:
  - Compares what C(nvidia-smi -L) lists with the wish, and returns the commands that are left to run, none where the
    GPUs are cut so already.
author:
  - The gpufleet.host contributors
positional: wished, modes
options:
  _input:
    description: The text that C(nvidia-smi -L) wrote.
    type: str
    required: true
  wished:
    description: A list of C(gpus) (V(all), or a list of indices and UUIDs) and C(profiles).
    type: list
    elements: dict
    required: true
  modes:
    description: For each UUID whether MIG is on.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show what would be run
  ansible.builtin.debug:
    msg: "{{ listing.stdout | gpufleet.host.mig_commands([{'gpus': 'all', 'profiles': ['1g.10gb']}], {}) }}"
"""

RETURN = r"""
_value:
  description: Commands, each as a list of words.
  type: list
  elements: list
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils.mig_geometry import commands_for


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"mig_commands": commands_for}
