"""The installed probe as a user of the host runs it. There is no torch here: `default` has the real one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

PROBE = "/usr/bin/python3 /opt/gpufleet/torch_probe.py"
REPORT = "/var/lib/gpufleet/probe.json"
RECORD = "/var/lib/gpufleet/record.json"


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
        ("--profile soak", 2, "invalid choice"),
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
    assert record["probe"] == {"status": "error", "path": REPORT}
    assert record["facts"]["system"]["distribution"] == "debian"
    assert {"schema", "time", "collection", "plan"} <= set(record)


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
    assert run.changed == 0
    assert "\n" not in run.sentence.strip()
    for word in words:
        assert word in run.sentence
    assert read(host, REPORT)["status"] in ("error", "fail")


def test_check_mode_measures_and_writes_nothing(host: Any, again: Callable[..., Any]) -> None:
    before = host.file(REPORT).content_string
    run = again("--check")
    assert run.ok
    assert run.changed == 0
    assert host.file(REPORT).content_string == before


def test_absent_removes_what_the_role_put_there(host: Any, again: Callable[..., Any]) -> None:
    host.run("touch /var/lib/gpufleet/of-another-role")
    assert again(torch_probe_state="absent").ok
    for path in ("/opt/gpufleet/torch_probe.py", REPORT, RECORD):
        assert not host.file(path).exists
    assert host.file("/var/lib/gpufleet/of-another-role").exists
    assert again(torch_probe_state="absent").changed == 0
    bare = again("--check")
    assert bare.ok  # the probe is not there: nothing to measure with
    assert bare.changed > 0
    assert again().ok
    assert host.file(REPORT).exists
