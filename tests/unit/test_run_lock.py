"""One run at a time holds a host; a dead one does not keep it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpufleet.host.plugins.action.run_lock import this_run, words
from ansible_collections.gpufleet.host.plugins.module_utils.run_lock import is_gone, machine, started
from ansible_collections.gpufleet.host.plugins.modules.run_lock import give_back, take

ROOT = Path(__file__).resolve().parents[2]
LEASE = 60.0
# Takes the lock, holds it for a moment in which nobody else may, and gives it back.
WORKER = """
import sys, time
from pathlib import Path
from ansible_collections.gpufleet.host.plugins.modules.run_lock import give_back, take
path, mark, run = Path(sys.argv[1]), Path(sys.argv[2]), {"id": sys.argv[3]}
for turn in range(10):
    while take(path, run, 60)["id"] != run["id"]:
        time.sleep(0.01)
    mark.touch(exist_ok=False)
    mark.unlink()
    give_back(path, run)
"""


def run_of(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "who": f"{name}@controller", "pid": 1, "machine": "elsewhere", "started": "1", **more}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.json"


def test_the_first_has_it_until_it_gives_it_back(path: Path) -> None:
    one, other = run_of("one"), run_of("other")
    assert take(path, one, LEASE) == one
    assert take(path, one, LEASE) == one
    assert take(path, other, LEASE) == one
    give_back(path, other)
    assert take(path, other, LEASE) == one
    give_back(path, one)
    assert list(path.parent.iterdir()) == []
    assert take(path, other, LEASE) == other


def test_who_is_known_to_be_gone_is_followed_and_nobody_else(path: Path) -> None:
    take(path, run_of("dead"), LEASE)
    assert take(path, run_of("late"), LEASE, over="another")["id"] == "dead"
    assert take(path, run_of("first"), LEASE, over="dead")["id"] == "first"
    # A second one that saw the same dead run comes too late.
    assert take(path, run_of("second"), LEASE, over="dead")["id"] == "first"


def test_a_lease_ends(path: Path) -> None:
    take(path, run_of("old"), LEASE)
    os.utime(path, (time.time() - LEASE - 1,) * 2)
    assert take(path, run_of("new"), LEASE)["id"] == "new"


@pytest.mark.parametrize("torn", ["", "{", "[]", '{"id": 3}', "null"])
def test_a_file_that_names_nobody_holds_nobody_up(path: Path, torn: str) -> None:
    path.write_text(torn)
    assert take(path, run_of("new"), LEASE)["id"] == "new"
    assert json.loads(path.read_text())["id"] == "new"


def test_a_run_on_the_host_itself_that_was_killed_holds_nobody_up(path: Path) -> None:
    """As by fleet_pull, whose controller is the host."""
    process = subprocess.Popen(["sleep", "60"])
    local = run_of("pull", pid=process.pid, machine=machine(), started=started(process.pid))
    take(path, local, LEASE)
    assert take(path, run_of("other"), LEASE)["id"] == "pull"
    process.kill()
    process.wait()
    assert take(path, run_of("other"), LEASE)["id"] == "other"


@pytest.mark.parametrize(
    ("changed", "gone"),
    [
        ({}, False),
        ({"started": "1"}, True),  # the number is another process's now
        ({"started": ""}, False),
        ({"machine": "elsewhere", "pid": 2**22}, False),
        ({"machine": "", "pid": 2**22}, False),
        ({"pid": 2**22}, True),
        ({"pid": 0}, False),
        ({"pid": "4711"}, False),
        ({"pid": None}, False),
    ],
)
def test_gone_is_only_what_this_machine_knows(changed: dict[str, Any], gone: bool) -> None:
    me = os.getpid()
    assert is_gone({"pid": me, "machine": machine(), "started": started(me), **changed}) is gone


def test_many_at_once_take_turns(path: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}/collections", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", WORKER, str(path), str(tmp_path / "mark")]
    workers = [subprocess.Popen([*command, f"run {number}"], env=environment) for number in range(4)]
    assert [worker.wait(timeout=120) for worker in workers] == [0] * 4


def test_a_run_names_itself_by_the_process_of_all_its_workers() -> None:
    me = this_run()
    assert me["pid"] == os.getppid()
    assert me["machine"] == machine()
    assert not is_gone(me)


def test_what_a_host_says_of_a_run_is_printable() -> None:
    assert words({"who": "eve\x1b[2J", "pid": 3, "since": "now\n"}) == "eve?[2J (process 3), since now?"
