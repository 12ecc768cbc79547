"""The installed probe as a user of the host runs it. There is no torch here: `default` has the real one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROBE = "/usr/bin/python3 /opt/gpufleet/torch_probe.py"
REPORT = "/var/lib/gpufleet/probe.json"
RECORD = "/var/lib/gpufleet/record.json"
HISTORY = "/var/lib/gpufleet/probe_history.json"


def read(host: Any, path: str) -> Any:
    return json.loads(host.file(path).content_string)


def as_nobody(host: Any, command: str) -> Any:
    return host.run("setpriv --reuid=65534 --regid=65534 --clear-groups env -i PATH=/usr/bin:/bin sh -c %s", command)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ("--version", 0, "torch_probe 0."),
        ("--list-checks", 0, "software.kernel"),
        ("--explain software.nvml", 0, "differ in version"),
        ("", 2, "torch not importable"),
        ("--require-gpu", 1, "no NVIDIA GPU"),
        ("--expect-gpus 2", 1, "expected 2 NVIDIA GPUs, found 0"),
        ("--profile forever", 2, "invalid choice"),
        ("--simulate /opt/recorded/h100_x8_straggler.json", 1, "FAIL  8 GPUs: 7 pass, 1 fail; GPU 5"),
        ("--json /nowhere/report.json", 2, "/nowhere does not exist"),
    ],
)
def test_a_plain_user_runs_the_probe_without_torch(host: Any, options: str, code: int, words: str) -> None:
    done = as_nobody(host, f"{PROBE} {options}")
    assert (done.rc, words in done.stdout + done.stderr) == (code, True), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "do: " in done.stdout or "--" in options  # a verdict comes with its remedy


def test_the_schema_is_json_and_needs_no_torch(host: Any) -> None:
    schema = json.loads(as_nobody(host, f"{PROBE} --schema").stdout)
    assert "checks" in schema["required"]


def test_the_report_says_that_it_could_not_measure_and_why(host: Any) -> None:
    report = read(host, REPORT)
    checks = {check["id"]: check for check in report["checks"]}
    assert (report["status"], report["exit_code"]) == ("error", 2)
    assert checks["software.torch"]["status"] == "error"
    assert checks["software.torch"]["remedy"]
    assert checks["gpu.present"]["status"] == "skipped"
    assert checks["cpu.matmul.fp32.correct"]["status"] == "not_run"  # never a pass


def test_the_record_points_to_the_report(host: Any) -> None:
    record = read(host, RECORD)
    assert (record["probe"]["status"], record["probe"]["path"]) == ("error", REPORT)
    assert [check["id"] for check in record["probe"]["checks"]] == ["software.torch"]
    assert record["versions"]["before"] == record["versions"]["after"]  # the role alone brings none of these
    assert (record["actions"], record["rebooted"]) == ([], False)
    assert record["facts"]["system"]["distribution"] == "debian"
    assert {"schema", "time", "collection", "plan"} <= set(record)


def test_the_fleets_report_reads_the_record(host: Any, again: Callable[..., Any], tmp_path: Path) -> None:
    assert again(torch_probe_python="/opt/recorded/h100_x8_straggler").ok
    report = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"]) / "playbooks/report.yml"
    run = again(playbook=str(report), report_path=str(tmp_path))
    assert (run.ok, run.changed) == (True, 0)
    (row,) = json.loads((tmp_path / "fleet.json").read_text())["hosts"]
    assert (row["state"], row["status"], row["speed"]["dtype"]) == ("ok", "fail", "bf16")
    assert any(note["kind"] == "problem" and "GPU 5" in note["text"] for note in row["notes"])
    assert again().ok


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({}, ["software.torch: torch not importable", "(torch_probe_python=/usr/bin/python3)", "role uv_python"]),
        ({"torch_probe_expect_gpus": 2}, ["expected 2 NVIDIA GPUs, found 0 (torch_probe_expect_gpus=2)"]),
        ({"torch_probe_python": "/nowhere/python"}, ["torch_probe_python=/nowhere/python", "run the role uv_python"]),
    ],
)
def test_a_failure_is_one_sentence_and_leaves_its_report(
    host: Any, again: Callable[..., Any], wishes: dict[str, Any], words: list[str]
) -> None:
    run = again(torch_probe_fail_on="fail", **wishes)
    assert not run.ok
    assert (run.changed > 0) == ("torch_probe_python" in wishes)  # the timer's unit names the Python
    assert "\n" not in run.sentence.strip()
    for word in words:
        assert word in run.sentence
    assert read(host, REPORT)["status"] in ("error", "fail")


@pytest.mark.parametrize(
    ("recorded", "wishes", "ok", "words"),
    [
        (
            "h100_x8",
            {"torch_probe_expect_gpus": 4},
            False,
            ["expected 4 NVIDIA GPUs, found 8 (torch_probe_expect_gpus=4)"],
        ),
        ("h100_x8_straggler", {}, False, ["matmul.bf16.peers: GPU 5", "88% of the median of 8", "dcgmi diag -r 3"]),
        ("h100_capped", {"torch_probe_fail_on": "warn"}, True, []),
        ("nvml_18", {}, False, ["software.nvml", "differ in version (18)", "Reboot"]),
    ],
)
def test_the_verdict_of_a_recorded_host_ends_the_run_or_not(
    host: Any, again: Callable[..., Any], recorded: str, wishes: dict[str, Any], ok: bool, words: list[str]
) -> None:
    run = again(**{"torch_probe_fail_on": "fail", "torch_probe_python": f"/opt/recorded/{recorded}", **wishes})
    assert run.ok is ok, run.sentence
    for word in words:
        assert word in run.sentence
    report = read(host, REPORT)
    assert report["tool"]["args"][:2] == ["--simulate", f"/opt/recorded/{recorded}.json"]
    textfile = host.file("/var/lib/textfile/gpu_probe.prom")
    assert f'gpu_probe_status{{status="{report["status"]}",profile="quick"}} 1' in textfile.content_string
    assert textfile.mode == 0o644


def test_what_passed_is_kept_as_the_hosts_own_past(host: Any, again: Callable[..., Any]) -> None:
    for _ in range(2):
        run = again(torch_probe_python="/opt/recorded/h100_x8")
        assert run.ok
    assert run.changed == 0  # a measurement is no change, and neither is its history
    runs = read(host, HISTORY)["runs"]
    kept = {key: len(metrics["matmul.bf16"]["values"]) for key, metrics in runs.items() if key.endswith("|700 W")}
    assert len(kept) == 8
    assert min(kept.values()) >= 2  # GPUs that passed while another one failed are kept too
    history = [check for check in read(host, REPORT)["checks"] if check["id"] == "matmul.bf16.history"]
    assert {check["status"] for check in history} == {"pass"}


@pytest.mark.parametrize(
    ("stand_in", "ok", "words"),
    [
        ("exec /opt/recorded/h100_x8", True, ""),
        ("exec /opt/recorded/h100_capped", False, "this one GPU-"),
    ],
)
def test_the_container_has_to_come_to_the_same_verdict(
    host: Any, again: Callable[..., Any], stand_in: str, ok: bool, words: str
) -> None:
    """The stand-in for `docker run IMAGE` drops the image and the Python, and runs the program as it was told."""
    script = f'#!/bin/sh\nshift 2\n{stand_in} "$@"\n'
    host.run("printf '%%s' %s > /opt/recorded/run && chmod +x /opt/recorded/run", script)
    run = again(
        torch_probe_fail_on="fail",
        torch_probe_python="/opt/recorded/h100_x8",
        torch_probe_container_command=["/opt/recorded/run", "image of ours"],
    )
    assert run.ok is ok, run.sentence
    checks = {check["id"]: check for check in read(host, REPORT)["checks"]}
    assert (checks["beside.agrees"]["status"] == "pass") is ok
    if not ok:
        assert words in run.sentence
        assert "torch_probe_container_command=/opt/recorded/run image of ours" in run.sentence


def test_the_timer_runs_the_probe_with_no_rights_when_the_gpus_are_idle(host: Any, again: Callable[..., Any]) -> None:
    assert again().ok
    assert host.service("gpufleet-probe.timer").is_running
    assert host.service("gpufleet-probe.timer").is_enabled
    host.run("rm -f /var/lib/gpufleet/probe_timer.json")
    done = host.run("systemctl start gpufleet-probe.service")
    assert done.rc != 0  # there is no torch here: the unit fails, and that shows in `systemctl --failed`
    assert read(host, "/var/lib/gpufleet/probe_timer.json")["exit_code"] == 2
    shown = host.check_output(
        "systemctl show -p CapabilityBoundingSet,NoNewPrivileges,ProtectSystem gpufleet-probe.service"
    )
    assert set(shown.splitlines()) == {"CapabilityBoundingSet=", "NoNewPrivileges=yes", "ProtectSystem=strict"}


def test_the_timer_stays_away_from_somebody_elses_work(host: Any) -> None:
    host.run("rm -f /var/lib/gpufleet/probe_timer.json")
    host.run("printf '#!/bin/sh\necho 4711\n' > /usr/bin/nvidia-smi && chmod +x /usr/bin/nvidia-smi")
    try:
        assert host.run("systemctl start gpufleet-probe.service").rc == 0
        assert not host.file("/var/lib/gpufleet/probe_timer.json").exists
    finally:
        host.run("rm /usr/bin/nvidia-smi")


def test_the_timer_goes_when_it_is_not_wished(host: Any, again: Callable[..., Any]) -> None:
    assert again(torch_probe_timer=False).ok
    assert not host.file("/etc/systemd/system/gpufleet-probe.timer").exists
    assert not host.service("gpufleet-probe.timer").is_running
    assert again(torch_probe_timer=False).changed == 0
    assert again().ok
    assert host.service("gpufleet-probe.timer").is_running


def test_check_mode_measures_and_writes_nothing(host: Any, again: Callable[..., Any]) -> None:
    before = host.file(REPORT).content_string
    run = again("--check")
    assert run.ok
    assert run.changed == 0
    assert host.file(REPORT).content_string == before


def test_absent_removes_what_the_role_put_there(host: Any, again: Callable[..., Any]) -> None:
    host.run("touch /var/lib/gpufleet/of-another-role")
    assert again(torch_probe_state="absent").ok
    owned = ("/opt/gpufleet/torch_probe.py", REPORT, RECORD, HISTORY, "/var/lib/textfile/gpu_probe.prom")
    for path in (*owned, "/etc/systemd/system/gpufleet-probe.service", "/etc/systemd/system/gpufleet-probe.timer"):
        assert not host.file(path).exists
    assert host.file("/var/lib/gpufleet/of-another-role").exists
    assert again(torch_probe_state="absent").changed == 0
    bare = again("--check")
    assert bare.ok  # the probe is not there: nothing to measure with
    assert bare.changed > 0
    assert again().ok
    assert host.file(REPORT).exists
