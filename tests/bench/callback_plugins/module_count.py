"""Count what a run really executes on its hosts: the one measure that is the same on every machine."""

from __future__ import annotations

DOCUMENTATION = """
name: module_count
type: aggregate
short_description: Write a line for every module execution on a host
description:
  - Appends C(run PLAYBOOK) at the start, and C(HOST MODULE TASK), separated by tabs, for each module that is executed
    on a host, to the file named by the environment variable E(GPUFLEET_MODULE_COUNT).
  - An action may execute several modules, or none; so the modules are counted where they leave for the host.
"""

import os
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.plugins.callback import CallbackBase


def note(line: str) -> None:
    """Append one line; one write to a file opened for appending is whole, from any worker."""
    with open(os.environ["GPUFLEET_MODULE_COUNT"], "a", encoding="utf-8") as file:
        file.write(line + "\n")


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Counts by wrapping the one method through which every module goes; workers inherit it by fork."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "module_count"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Begin a run in the file and start counting."""
        note(f"run {Path(playbook._file_name).name}")
        original = ActionBase._execute_module

        def counted(action: Any, *args: Any, **options: Any) -> Any:
            module = args[0] if args else options.get("module_name")
            host = (options.get("task_vars") or {}).get("inventory_hostname", "?")
            if action._task.delegate_to is None:
                note(f"{host}\t{module or action._task.action}\t{action._task.get_name()}")
            return original(action, *args, **options)

        ActionBase._execute_module = counted
