"""By ansible-runner, as AWX and ansible-navigator run us: its events are whole with our callbacks on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ansible_runner
import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("console", ["ansible.builtin.default", "gpufleet.host.calm"])
def test_events_and_artifacts_are_readable(tmp_path: Path, console: str) -> None:
    ran = ansible_runner.run(
        private_data_dir=str(tmp_path),
        playbook=str(ROOT / "playbooks/plan.yml"),
        inventory="localhost ansible_connection=local",
        extravars={"ansible_become": False, "ansible_python_interpreter": sys.executable},
        cmdline="--check",
        envvars={
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
            "ANSIBLE_STDOUT_CALLBACK": console,
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        },
        quiet=True,
    )
    artifacts = Path(ran.config.artifact_dir)
    said = (artifacts / "stdout").read_text()
    assert (ran.status, ran.rc) == ("successful", 0), said
    events = [json.loads(path.read_text()) for path in (artifacts / "job_events").glob("*.json")]
    tasks = [event for event in events if event["event"] == "runner_on_ok"]
    assert "Print the plan" in {event["event_data"]["task"] for event in tasks}
    plan = next(event for event in tasks if event["event_data"]["task"] == "Print the plan")
    assert "torch" in plan["event_data"]["res"]["msg"]
    (end,) = [event for event in events if event["event"] == "playbook_on_stats"]
    assert end["event_data"]["failures"] == {}
    assert ran.stats["ok"]["localhost"] >= len({event["event_data"]["task"] for event in tasks})
    # Nothing of a moving console is in the log, and the table of what differs is.
    assert "\x1b[J" not in said
    assert "DRIFT: 1 host looked at, 1 differs" in said
