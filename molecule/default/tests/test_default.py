"""The whole site, as the people use it who got the host."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from guide import GUIDE, Command, commands

VENV = "/opt/uv/venv"
WORKSPACE = "/workspaces/torch_starter"


def login(host: Any, user: str, command: str) -> Any:
    """Run a command as a person does after logging in, with the environment activated."""
    return host.run("su - %s -c %s", user, f". {VENV}/bin/activate && {command}")


@pytest.mark.parametrize("command", commands(GUIDE.read_text()), ids=lambda command: command.name)
def test_the_guides_own_commands_word_for_word(host: Any, command: Command) -> None:
    """As the workspace's user, in the workspace, with its own environment active."""
    if "gpu" in command.needs:
        pytest.skip(f"{command.line}: this host has no GPU")
    done = host.run("su - alice -c %s", f"cd {WORKSPACE} && source .venv/bin/activate && {command.line}")
    assert done.rc == 0, done.stdout + done.stderr


def test_torch_computes_with_the_planned_threads(host: Any) -> None:
    plan = json.loads(host.file("/var/lib/gpufleet/record.json").content_string)["plan"]
    done = login(
        host,
        "bob",
        "python -c 'import torch as t; print(t.get_num_threads(), (t.ones(64, 64) @ t.ones(64, 64)).sum().item())'",
    )
    assert done.rc == 0, done.stderr
    threads, total = done.stdout.split()
    assert int(threads) == plan["resources"]["threads"]
    assert float(total) == 64.0**3


def test_an_engine_runs_that_reads_specifications(host: Any) -> None:
    done = host.run("docker info --format '{{json .CDISpecDirs}} {{.LiveRestoreEnabled}}'")
    assert done.rc == 0, done.stderr
    if not host.system_info.release.startswith("12"):  # there the stand-in of Docker's own engine is an older one
        assert done.stdout == '["/etc/cdi","/var/run/cdi"] true\n'


def test_two_people_share_a_model_cache(host: Any) -> None:
    model = '"$HF_HUB_CACHE/models--x"'
    done = login(host, "alice", f"umask 077 && mkdir {model} && echo alice > {model}/w")
    assert done.rc == 0, done.stderr
    done = login(host, "bob", f"cat {model}/w && echo bob >> {model}/w && rm -r {model}")
    assert done.rc == 0, done.stderr
    assert "alice" in done.stdout


def test_the_probe_measured_and_judged(host: Any) -> None:
    record = json.loads(host.file("/var/lib/gpufleet/record.json").content_string)
    report = json.loads(host.file("/var/lib/gpufleet/probe.json").content_string)
    assert record["probe"]["status"] == report["status"] == "pass"
    checks = {check["id"]: check for check in report["checks"]}
    assert checks["cpu.matmul.fp32.correct"]["status"] == "pass"
    assert checks["cpu.matmul.fp32.throughput"]["value"] > 1
    assert "no NVIDIA GPU" in json.dumps([check for check in report["checks"] if check["status"] == "skipped"])


def test_the_probe_notices_planted_faults(host: Any) -> None:
    """With the real torch: a flipped bit, a scaled row, a slow device. A silent TF32 needs a GPU."""
    done = login(host, "alice", "python /opt/gpufleet/torch_probe.py --self-test")
    assert done.rc == 0, done.stdout + done.stderr
    assert "PASS  3 of 4 planted faults noticed" in done.stdout


def test_the_fleet_playbook_measures_this_host_too_and_leaves_it_alone(
    again: Callable[..., Any], tmp_path: Path
) -> None:
    run = again(playbook="../../playbooks/probe.yml", probe_report_path=str(tmp_path / "probe.json"))
    assert run.ok, run.sentence
    assert run.changed == 0
    assert json.loads((tmp_path / "probe.json").read_text())["status"] == "pass"


def test_a_converged_host_is_left_alone_within_the_budget(again: Callable[..., Any]) -> None:
    count = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "module-count.txt"
    run = again()
    assert run.ok, run.sentence
    assert run.changed == 0
    executed = count.read_text().rpartition("run converge.yml\n")[2].splitlines()
    table = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"]) / ".cache/module-count.txt"
    table.parent.mkdir(exist_ok=True)
    table.write_text("\n".join([f"{len(executed)} module executions of a converged site.yml", *executed]) + "\n")
    assert 0 < len(executed) <= 20, Counter(line.split("\t")[1] for line in executed)


def test_check_mode_finds_nothing_on_a_converged_host(again: Callable[..., Any]) -> None:
    run = again("--check", "--diff")
    assert run.ok, run.sentence
    assert run.changed == 0


def test_the_plan_is_quick_and_changes_nothing(again: Callable[..., Any]) -> None:
    begun = time.monotonic()
    run = again(playbook="../../playbooks/plan.yml", gpufleet_users=["nobody-here"])
    assert time.monotonic() - begun < 10
    assert run.ok, run.sentence
    assert run.changed == 0
    assert "no user 'nobody-here'" in json.dumps(run.result), "refusals are shown, not failed on"
