"""What the scenarios' tests share: running the scenario's own playbook again, with other wishes."""

from __future__ import annotations

import json
import os
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
    def sentence(self) -> str:
        """What a failed run says, without the dressing."""
        said = []
        for play in self.result.get("plays", []):
            for task in play["tasks"]:
                said += [str(host.get("msg", "")) for host in task["hosts"].values() if host.get("failed")]
        return "\n".join(said) or self.stderr


@pytest.fixture
def again() -> Callable[..., Run]:
    """Run the scenario's converge.yml on its hosts again: ``again("--check", uv_python_groups=[])``."""
    scenario = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])

    def run(*arguments: str, playbook: str = "converge.yml", **wishes: Any) -> Run:
        command = [
            str(Path(sys.executable).parent / "ansible-playbook"),
            "--inventory",
            os.environ["MOLECULE_INVENTORY_FILE"],
            "--extra-vars",
            json.dumps(wishes),
            *arguments,
            str(scenario / playbook),
        ]
        environment = os.environ | {
            "ANSIBLE_CONFIG": str(Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "ansible.cfg"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_FORCE_COLOR": "0",
        }
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        start = done.stdout.find("{")
        return Run(json.loads(done.stdout[start:]) if start >= 0 else {}, done.stdout[:start] + done.stderr)

    return run
