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
from ansible_collections.gpufleet.host.plugins.action import run_lock as action
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
    assert [left.name for left in path.parent.iterdir()] == ["run.lock"]
    assert (path.parent / "run.lock").stat().st_mode & 0o777 == 0o600
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
        ({"pid": 2**70}, False),
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


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the controller's part, on a clock of its own, with the answers of a host in turn; the last one stays."""
    clock = iter(range(0, 10**6, 5))
    monkeypatch.setattr(action.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(action.time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(action.ActionBase, "run", lambda *_arguments: {})
    asked: list[str] = []

    def run(*answers: dict[str, Any], timeout: int = 60) -> tuple[dict[str, Any], list[str]]:
        left = list(answers)

        def execute(_name: str, arguments: dict[str, Any], task_vars: Any = None) -> dict[str, Any]:
            asked.append(arguments["over"])
            return left.pop(0) if len(left) > 1 else left[0]

        part = object.__new__(action.ActionModule)
        part._task = type("Task", (), {"args": {"timeout": timeout}})()
        part._execute_module = execute
        return part.run(None, {"inventory_hostname": "gpu01"}), asked

    return run


DEAD = {"pid": 2**22, "machine": machine(), "started": "1"}
HELD = {"held": True, "holder": run_of("me")}


def test_who_was_killed_while_he_waited_takes_nothing(controller: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    parents = iter([4711, 4711, 4711, 1])
    monkeypatch.setattr(action.os, "getppid", lambda: next(parents, 1))
    answer, asked = controller({"held": False, "holder": run_of("bob")})
    assert answer["failed"]
    assert len(asked) == 2


def test_the_free_host_is_held_at_once(controller: Any) -> None:
    assert controller(HELD) == ({**HELD, "waited": False}, [""])


def test_who_waits_says_for_whom_once_a_minute(controller: Any, capsys: Any) -> None:
    answer, asked = controller(*[{"held": False, "holder": run_of("bob")}] * 14, HELD, timeout=1000)
    assert (answer["held"], answer["waited"], len(asked)) == (True, True, 15)
    said = capsys.readouterr().err.splitlines()
    assert said == ["gpu01: waits for the run of bob@controller (process 1), since None"] * 2


def test_a_dead_run_of_this_controller_is_followed_without_waiting(controller: Any) -> None:
    answer, asked = controller({"held": False, "holder": run_of("dead", **DEAD)}, HELD)
    assert (answer["held"], answer["waited"], asked) == (True, False, ["", "dead"])


def test_a_host_that_names_dead_runs_for_ever_is_told_when_the_time_is_over(controller: Any) -> None:
    liars = [{"held": False, "holder": run_of(f"dead {number}", **DEAD)} for number in range(50)]
    answer, asked = controller(*liars)
    assert answer["failed"]
    assert "Found this host held by the run of dead" in answer["msg"]
    assert "preflight_lock_timeout=60 seconds are over" in answer["msg"]
    assert len(asked) < 20


@pytest.mark.parametrize(
    "lie",
    [
        {},
        {"held": False},
        {"held": False, "holder": "eve"},
        {"failed": True, "msg": "no Python"},
        {"unreachable": True},
    ],
)
def test_an_answer_that_is_none_is_handed_on(controller: Any, lie: dict[str, Any]) -> None:
    answer, asked = controller(lie)
    assert answer == {**lie, "waited": False}
    assert len(asked) == 1
