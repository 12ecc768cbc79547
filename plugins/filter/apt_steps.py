"""Filters about package transactions: what one does, and how it is undone.

Each is documented in ``<name>.yml`` beside this file; the work is done in ``module_utils/apt_steps.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils import apt_steps


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {
            "apt_build_error": apt_steps.build_error,
            "apt_errors": apt_steps.errors_of,
            "apt_files_for": apt_steps.files_for,
            "apt_files_without": apt_steps.entries_without,
            "apt_joined": apt_steps.joined,
            "apt_kernels": apt_steps.kernels_in,
            "apt_pins": apt_steps.pins_of,
            "apt_steps": apt_steps.steps_of,
            "apt_undo": apt_steps.undo_of,
        }
