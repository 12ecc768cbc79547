"""What the scenarios' tests share: running the scenario's own playbook again, with other wishes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Run:
    """One run of ``ansible-playbook``, from its machine-readable output."""

    result: dict[str, Any]
    stderr: str

    @property
    def _stats(self) -> dict[str, dict[str, int]]:
        stats: dict[str, dict[str, int]] = self.result.get("stats", {})
        return stats

    @property
    def ok(self) -> bool:
        """Whether no host failed and none was unreachable."""
        return bool(self._stats) and all(s["failures"] == s["unreachable"] == 0 for s in self._stats.values())

    @property
    def changed(self) -> int:
        """Tasks that changed something, over all hosts."""
        return sum(s["changed"] for s in self._stats.values())

    @property
    def changes(self) -> set[str]:
        """What was changed, or would be: "role: path" for each path that the module tree names, else "role: task"."""
        found = set()
        for play in self.result.get("plays", []):
            for task in play["tasks"]:
                role, _colon, name = task["task"]["name"].rpartition(" : ")
                for host in task["hosts"].values():
                    if host.get("changed"):
                        paths = [change["path"] for change in host.get("changes") or []]
                        found |= {f"{role.rpartition('.')[2] or 'play'}: {what}" for what in paths or [name]}
        return found

    @property
    def sentence(self) -> str:
        """What a failed run says, without the dressing."""
        said = []
        for play in self.result.get("plays", []):
            for task in play["tasks"]:
                said += [str(host.get("msg", "")) for host in task["hosts"].values() if host.get("failed")]
        return "\n".join(said) or self.stderr


def _playbook(*arguments: str, playbook: str = "converge.yml", **wishes: Any) -> list[str]:
    return [
        str(Path(sys.executable).parent / "ansible-playbook"),
        "--inventory",
        os.environ["MOLECULE_INVENTORY_FILE"],
        "--extra-vars",
        json.dumps(wishes),
        *arguments,
        str(Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"]) / playbook),
    ]


def _environment(callback: str) -> dict[str, str]:
    return os.environ | {
        "ANSIBLE_CONFIG": str(Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "ansible.cfg"),
        "ANSIBLE_STDOUT_CALLBACK": callback,
        "ANSIBLE_FORCE_COLOR": "0",
    }


@pytest.fixture
def killed() -> Callable[..., None]:
    """Start the scenario's converge.yml and kill it, with what it runs, when the named task begins."""

    def run(task: str, **wishes: Any) -> None:
        started = subprocess.Popen(
            _playbook(**wishes),
            stdout=subprocess.PIPE,
            text=True,
            env=_environment("ansible.builtin.default") | {"PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        assert started.stdout is not None
        try:
            assert any(task in line for line in started.stdout if line.startswith("TASK")), f"no task {task!r} began"
        finally:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()

    return run


@pytest.fixture
def started() -> Callable[..., subprocess.Popen[bytes]]:
    """Start a playbook in a session of its own, so that it can be killed with all that it runs here."""

    def run(playbook: str = "converge.yml", **wishes: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            _playbook(playbook=playbook, **wishes),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=_environment("ansible.builtin.default"),
            start_new_session=True,
        )

    return run


@pytest.fixture
def again() -> Callable[..., Run]:
    """Run the scenario's converge.yml on its hosts again: ``again("--check", uv_python_groups=[])``."""

    def run(*arguments: str, playbook: str = "converge.yml", **wishes: Any) -> Run:
        command = _playbook(*arguments, playbook=playbook, **wishes)
        environment = _environment("ansible.posix.json")
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        start = done.stdout.find("{")
        return Run(json.loads(done.stdout[start:]) if start >= 0 else {}, done.stdout[:start] + done.stderr)

    return run
