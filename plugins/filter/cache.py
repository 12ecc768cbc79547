# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible filters: the layout of the shared cache."""

from __future__ import annotations

DOCUMENTATION = r"""
name: cache_entries
short_description: Lay out the shared cache as entries for gpufleet.host.tree
version_added: 0.1.0
description:
  - For the role P(gpufleet.host.ml_cache#role). C(cache_absent_entries) and C(cache_owner) take the same input.
author:
  - The gpufleet.host contributors
positional: _input, users
options:
  _input:
    description: The role's wishes.
    type: dict
    required: true
  users:
    description: The fact of the same name.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Make the cache true
  gpufleet.host.tree:
    entries: "{{ __ml_cache_wishes | gpufleet.host.cache_entries(__gpufleet_facts.users) }}"
"""

RETURN = r"""
_value:
  description: Entries, parents first.
  type: list
  elements: dict
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils.cache_layout import (
    cache_absent_entries,
    cache_entries,
    cache_owner,
)


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names."""
        return {
            "cache_absent_entries": cache_absent_entries,
            "cache_entries": cache_entries,
            "cache_owner": cache_owner,
        }
