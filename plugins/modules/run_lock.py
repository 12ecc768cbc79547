#!/usr/bin/python
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible module: hold a host for one run at a time."""

from __future__ import annotations

DOCUMENTATION = r"""
module: run_lock
short_description: Hold a host for one run at a time
version_added: 0.2.0
description:
  - Holds the host for this run of ansible-playbook, so that two controllers that converge it at once take turns. While
    another run holds it, this one waits and says for whom.
  - A run that ended without giving the host back does not keep it. Its controller sees that the process is gone, a
    restart of the host empties C(/run), and after O(lease) it counts as dead for everybody.
  - It is an agreement of the runs that ask, as between those of this collection's playbooks, and no barrier for others.
options:
  state:
    description:
      - V(held) waits until this run has the host, V(released) gives it back.
      - A run that does not hold it gives nothing back.
    type: str
    choices: [held, released]
    default: held
  path:
    description: File that names the run that holds the host, on a file system that a restart empties.
    type: path
    default: /run/gpufleet-run.json
  timeout:
    description: How long to wait for another run, in seconds.
    type: int
    default: 1800
  lease:
    description: After how many seconds a run that did not give the host back counts as dead.
    type: int
    default: 21600
  holder:
    description: Who asks. Set by the controller's part of this module.
    type: dict
  over:
    description: The C(id) of a run that is known to be gone. Set by the controller's part of this module.
    type: str
    default: ""
attributes:
  check_mode:
    description: Nothing is held in check mode, as nothing is changed.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
author:
  - The gpufleet.host contributors (@gpufleet)
"""

EXAMPLES = r"""
- name: Change the host, alone
  block:
    - name: Have the host for this run (waits while another run holds it)
      gpufleet.host.run_lock:

    - name: Change it
      ansible.builtin.include_role:
        name: gpufleet.host.uv_python
  always:
    - name: Give the host back
      gpufleet.host.run_lock:
        state: released
"""

RETURN = r"""
held:
  description: Whether this run holds the host now.
  returned: always
  type: bool
waited:
  description: Whether another run held it when this one asked.
  returned: always
  type: bool
holder:
  description: The run that holds the host, null where none does.
  returned: always
  type: dict
  contains:
    id: {description: What tells this run from every other., type: str}
    who: {description: "The user and the name of the controller, for people.", type: str}
    pid: {description: The process of ansible-playbook on the controller., type: int}
    machine: {description: Start and process namespace of the controller; empty where it does not tell., type: str}
    since: {description: "When it began to hold the host, UTC.", type: str}
"""

import contextlib
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpufleet.host.plugins.module_utils.run_lock import PATH, Run, is_gone


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time between reading and writing; the kernel lets go of it when the process ends.

    By a file that root alone may open: whoever may open a file may lock it.
    """
    beside = path.with_suffix(".lock")
    handle = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _read(path: Path, lease: float) -> Run | None:
    """Return the run that holds the host, None where none does or the one that did is dead."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
            age = time.time() - os.fstat(file.fileno()).st_mtime
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("id"), str) or age > lease:
        return None
    return None if is_gone(found) else found


def _write(path: Path, run: Run) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(run, file)
        Path(temporary).rename(path)
    except BaseException:
        Path(temporary).unlink()
        raise


def take(path: Path, run: Run, lease: float, over: str = "") -> Run:
    """Hold the host for ``run`` unless another one holds it; return the one that holds it now.

    Args:
        path: the file that names it.
        run: the one that asks, with its ``id``.
        lease: age in seconds at which a run that did not give the host back counts as dead.
        over: the id of a run that is known to be gone.

    Raises:
        OSError: the file cannot be written.
    """
    with _alone(path):
        found = _read(path, lease)
        if found and found["id"] not in (run["id"], over):
            return found
        _write(path, run)
        return run


def give_back(path: Path, run: Run) -> None:
    """Hold the host no longer, where ``run`` is the one that does.

    Raises:
        OSError: the file cannot be removed.
    """
    with _alone(path):
        found = _read(path, float("inf"))
        if found and found["id"] == run["id"]:
            path.unlink()


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["held", "released"], "default": "held"},
            "path": {"type": "path", "default": PATH},
            "timeout": {"type": "int", "default": 1800},
            "lease": {"type": "int", "default": 21600},
            "holder": {"type": "dict"},
            "over": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    asked: dict[str, Any] = module.params
    run, path = asked["holder"], Path(asked["path"])
    if run is None:
        module.fail_json(
            msg="run_lock came without its controller's part; call it by its full name, gpufleet.host.run_lock"
        )
    if module.check_mode:
        module.exit_json(changed=False, held=False, holder=None)
    try:
        if asked["state"] == "released":
            give_back(path, run)
            module.exit_json(changed=False, held=False, holder=None)
        holder = take(path, run, asked["lease"], asked["over"])
    except OSError as error:
        found = f"Found {asked['path']} not writable ({error.strerror})"
        module.fail_json(msg=f"{found}; wished is to hold the host for this run; run as root")
    # That it is held is no change of the host: nothing of it outlives the run.
    module.exit_json(changed=False, held=holder["id"] == run["id"], holder=holder)


if __name__ == "__main__":
    main()
