# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The controller's part of the module run_lock: it knows which run this is, waits, and says for whom."""

from __future__ import annotations

import getpass
import os
import socket
import time
from datetime import datetime, timezone
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.gpufleet.host.plugins.module_utils.run_lock import PATH, Run, is_gone, machine, started

ASK_EVERY_S = 5
SAY_EVERY_S = 60

display = Display()


def this_run() -> Run:
    """Return this run of ansible-playbook, whose workers are children of its process."""
    pid = os.getppid()
    where, since = machine(), started(pid)
    name = socket.gethostname()
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in a container
        user = str(os.getuid())
    return {
        "id": f"{where or name} {pid} {since}",
        "who": f"{user}@{name}",
        "pid": pid,
        "machine": where,
        "started": since,
        "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def words(holder: Run) -> str:
    """Return which run it is, for people; a host may say anything, so what it says is made printable."""
    said = f"{holder.get('who')} (process {holder.get('pid')}), since {holder.get('since')}"
    return "".join(character if character.isprintable() else "?" for character in said)


class ActionModule(ActionBase):  # type: ignore[misc]
    """Ask the host until it is free."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's answer, with ``waited``."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        begun, said, over, waited = time.monotonic(), 0.0, "", False
        me = this_run()
        while True:
            if os.getppid() != me["pid"]:  # killed while it waited; this is a worker that nobody awaits
                return {**result, "failed": True, "msg": "The run that asked for this host has ended."}
            arguments = {**self._task.args, "holder": me, "over": over}
            answer = self._execute_module("gpufleet.host.run_lock", arguments, task_vars=task_vars)
            holder = answer.get("holder")
            if answer.get("failed") or answer.get("held") or not isinstance(holder, dict):
                return {**result, **answer, "waited": waited}
            timeout = int(self._task.args.get("timeout", 1800))  # the module has refused what is no number
            spent = time.monotonic() - begun
            if spent >= timeout:
                return {**result, **answer, "failed": True, "msg": self._sentence(holder, timeout)}
            # Once for each that is gone: a host that goes on naming others is waited for like any.
            if is_gone(holder) and not over:
                over = str(holder.get("id"))
                continue
            over = ""
            if not waited or spent - said >= SAY_EVERY_S:
                said, waited = spent, True
                host = (task_vars or {}).get("inventory_hostname", "the host")
                display.display(f"{host}: waits for the run of {words(holder)}", stderr=True)
            time.sleep(ASK_EVERY_S)

    def _sentence(self, holder: Run, timeout: int) -> str:
        path = self._task.args.get("path", PATH)
        return (
            f"Found this host held by the run of {words(holder)}; wished is to work on it alone, and "
            f"preflight_lock_timeout={timeout} seconds are over; wait for it, or remove {path} there if it is dead"
        )
