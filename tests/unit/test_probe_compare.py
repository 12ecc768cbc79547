"""The comparison of a fleet, on recorded hosts."""

from __future__ import annotations

import copy
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from torch_probe import cli

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ROOT / "tests/fixtures/probe"
compare = importlib.import_module("ansible_collections.gpufleet.host.plugins.filter.probe_compare")


@pytest.fixture
def result_of(tmp_path: Path) -> Any:
    """The registered result of a probe on a recorded host, whose GPUs are slower by a factor."""

    def read(name: str, factor: float = 1.0) -> dict[str, Any]:
        recording = json.loads((HOSTS / f"{name}.json").read_text(encoding="utf-8"))
        for gpu in recording["gpus"]:
            for row in gpu.get("matmul") or []:
                row["tflops"]["sustained"] *= factor
        (tmp_path / "host.json").write_text(json.dumps(recording))
        out = tmp_path / "report.json"
        code = cli.main(["--simulate", str(tmp_path / "host.json"), "--json", str(out), "--format", "none"])
        return {"rc": code, "stdout": out.read_text(encoding="utf-8"), "stderr": ""}

    return read


def test_a_straggler_is_named_across_hosts_that_pass_by_themselves(result_of: Any) -> None:
    """One GPU a host has no equals there, and at 91 % it passes its reference too."""
    fleet = compare.probe_compare(
        {f"n{number}": result_of("peers_1", 0.915 if number == 3 else 1.0) for number in range(5)}
    )
    assert {host["status"] for host in fleet["hosts"].values()} == {"pass"}
    assert fleet["status"] == "warn"
    assert {(row["host"], row["gpu"], row["status"]) for row in fleet["stragglers"]} == {("n3", 0, "warn")}
    assert [problem["text"].split(":")[0] for problem in fleet["problems"]] == ["n3"]
    assert "of the median of 5 equal GPUs in the fleet" in fleet["problems"][0]["text"]
    assert fleet["models"][0]["medians"]["matmul.bf16"] == 780.0
    assert fleet["models"][0]["hosts"] == ["n0", "n1", "n2", "n3", "n4"]
    json.dumps(fleet)


@pytest.mark.parametrize(
    ("factors", "status", "slow"),
    [
        ([1.0], "pass", []),
        ([1.0, 0.97], "pass", []),
        ([1.0, 0.91], "warn", ["n1"]),
        ([1.0, 1.0, 0.94], "warn", ["n2"]),
        ([1.0, 1.0, 1.0, 0.6], "fail", ["n3"]),
    ],
)
def test_rules_of_one_two_and_more(result_of: Any, factors: list[float], status: str, slow: list[str]) -> None:
    results = {f"n{number}": result_of("peers_1", factor) for number, factor in enumerate(factors)}
    fleet = compare.probe_compare(results)
    assert fleet["status"] == status
    assert sorted({row["host"] for row in fleet["stragglers"]}) == slow


def test_a_cap_explains_a_straggler(result_of: Any) -> None:
    fleet = compare.probe_compare({"a": result_of("peers_1"), "b": result_of("peers_1"), "c": result_of("h100_capped")})
    row = next(row for row in fleet["stragglers"] if row["metric"] == "matmul.bf16")
    assert (row["host"], row["status"]) == ("c", "explained")
    assert "capped by configuration" in row["cause"]


def test_gpus_of_another_kind_are_not_compared(result_of: Any) -> None:
    fleet = compare.probe_compare({"a": result_of("peers_1"), "b": result_of("rtx4090"), "c": result_of("mig")})
    assert (fleet["stragglers"], len(fleet["models"])) == ([], 3)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (
            {"rc": 2, "stdout": "", "msg": "[Errno 2] No such file or directory: b'/opt/uv/venv/bin/python'"},
            "No such file",
        ),
        ({"rc": 1, "stdout": "", "stderr": "Traceback\nSyntaxError: no"}, "SyntaxError: no"),
        ({"msg": "unreachable"}, "unreachable"),
        ({"stdout": "[1]"}, "it said nothing"),
        (None, "it said nothing"),
    ],
)
def test_a_host_without_a_report_is_an_error_and_not_silent(result_of: Any, result: Any, words: str) -> None:
    fleet = compare.probe_compare({"good": result_of("no_gpu"), "bad": result})
    assert fleet["status"] == "error"
    assert words in fleet["hosts"]["bad"]["summary"]
    assert fleet["problems"] == [{"status": "error", "text": f"bad: {fleet['hosts']['bad']['summary']}"}]


def test_a_failed_host_comes_first(result_of: Any) -> None:
    fleet = compare.probe_compare({"a": result_of("h100_busy"), "b": result_of("nvml_18")})
    assert [problem["status"] for problem in fleet["problems"]] == ["fail", "warn"]
    assert fleet["status"] == "fail"


def test_wrong_input_names_the_filter() -> None:
    with pytest.raises(AnsibleFilterError, match="probe_compare"):
        compare.probe_compare([])
    assert compare.probe_compare({})["status"] == "skipped"


def test_thresholds_are_the_probes_own() -> None:
    from torch_probe import policy

    source = Path(str(compare.__file__)).read_text(encoding="utf-8")
    for name in ("warn.peers", "fail.peers", "fail.peers_sigmas", "floor.peers_sigma", "warn.peers_pair"):
        assert f'"{name}"' in source
        assert name in policy.load().values


@pytest.mark.parametrize(("slow", "code"), [(False, 0), (True, 2)])
def test_the_playbook_measures_and_leaves_nothing(tmp_path: Path, slow: bool, code: int) -> None:
    """On this machine in the place of two hosts, each a Python that plays a recorded one."""
    for name in ("fast", "slow"):
        script = tmp_path / name
        recording = HOSTS / ("peers_3.json" if slow and name == "slow" else "peers_1.json")
        # -c PROGRAM comes first; the options of the probe follow.
        script.write_text(f'#!/bin/sh\nexec {sys.executable} "$@" --simulate {recording}\n')
        script.chmod(0o755)
    hosts = {name: {"torch_probe_python": str(tmp_path / name)} for name in ("fast", "slow")}
    shared = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory = tmp_path / "hosts.json"
    inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": shared}}))
    (tmp_path / "tmp").mkdir()
    command = [
        str(Path(sys.executable).parent / "ansible-playbook"),
        "-i",
        str(inventory),
        str(ROOT / "playbooks/probe.yml"),
    ]
    environment = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "TMPDIR": str(tmp_path / "tmp")}
    environment["PWD"] = str(tmp_path)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "changed=0" in done.stdout
    report = json.loads((tmp_path / "reports/probe.json").read_text(encoding="utf-8"))
    assert set(report["hosts"]) == {"fast", "slow"}
    assert report["hosts"]["fast"]["report"]["tool"]["args"][-2:] == ["--simulate", str(HOSTS / "peers_1.json")]
    assert [path for path in (tmp_path / "tmp").iterdir() if path.name.startswith("torch_probe")] == []
    if slow:
        assert "GPU 2" in done.stdout


def test_results_are_left_alone(result_of: Any) -> None:
    results = {"a": result_of("peers_1")}
    before = copy.deepcopy(results)
    compare.probe_compare(results)
    assert results == before
