"""Which run of ansible-playbook this is, and whether another one is still alive; on the controller and on the host."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

Run = dict[str, Any]
# Names the run that holds the host; a restart empties its file system.
PATH = "/run/gpufleet-run.json"


def machine() -> str:
    """Return where a process number holds: this start of the kernel and this namespace; empty where it is unknown."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux
        return ""


def started(pid: int) -> str:
    """Return when a process was started, in ticks of its kernel; empty where that cannot be read."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def is_gone(run: Run) -> bool:
    """Whether a run was of this machine and its process is gone; False where that cannot be known from here."""
    pid = run.get("pid")
    if not isinstance(pid, int) or not 0 < pid < 2**31 or not run.get("machine") or run["machine"] != machine():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # another user's, and alive
    # The number may be another process's by now.
    now = started(pid)
    return bool(now) and bool(run.get("started")) and now != run["started"]
