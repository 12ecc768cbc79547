"""The verdict on recorded hosts, and its laws: a worse number is never a better verdict, nothing unrun is a pass."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from torch_probe import causes, cli, health, judge, policy, reference, simulate
from torch_probe import report as reports
from torch_probe.checks import CATALOGUE, GPU_CHECKS

HOSTS = Path(__file__).parents[1] / "fixtures" / "probe"
Report = dict[str, Any]

_SPEC = importlib.util.spec_from_file_location("make_hosts", HOSTS / "make.py")
assert _SPEC
assert _SPEC.loader
MAKE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(MAKE)
RECORDINGS: dict[str, Report] = MAKE.recordings()


def verdict(recording: Report, rules: judge.Rules | None = None) -> Report:
    """The whole report of a recorded host."""
    recorded = simulate.Recording(copy.deepcopy(recording))
    found = judge.verdict(recorded.measured, recorded.look, rules or judge.Rules())
    checks = [dataclasses.asdict(check) for check in found["checks"]]
    return {**recorded.measured, **found, "checks": checks}


def rows(report: Report, check_id: str) -> dict[int, Report]:
    """A check's rows by the GPU's index."""
    keys = {gpu["uuid"] or gpu["pci_bus_id"]: gpu["index"] for gpu in report["gpus"]}
    return {keys[check["gpu"]]: check for check in report["checks"] if check["id"] == check_id and check["gpu"]}


@pytest.fixture
def simulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Report, str]]:
    """Run the command line on a recording."""

    def run(name: str, *options: str) -> tuple[int, Report, str]:
        target = tmp_path / "report.json"
        code = cli.main(["--simulate", str(HOSTS / f"{name}.json"), "--json", str(target), *options])
        report = json.loads(target.read_text(encoding="utf-8"))
        jsonschema.validate(report, reports.schema(list(CATALOGUE)), cls=jsonschema.Draft202012Validator)
        assert report["exit_code"] == code
        return code, report, capsys.readouterr().out

    return run


def test_the_recordings_are_what_their_maker_makes() -> None:
    files = {path.stem: path.read_text(encoding="utf-8") for path in HOSTS.glob("*.json")}
    assert files == {name: MAKE.text(recording) for name, recording in RECORDINGS.items()}


# Host, exit code, status, and for each GPU that is not good: the check, its status, words of message and cause.
HEALTHY = [(0, "pass")]
CASES: list[tuple[str, int, str, str, int | None, str, str]] = [
    # name, code, status, check, GPU, status of the check, words
    ("h100_x8", 0, "pass", "matmul.bf16.peers", 3, "pass", "of the median of 8 equal GPUs"),
    ("h100_x8_straggler", 1, "fail", "matmul.bf16.peers", 5, "fail", "the same clock as its equals"),
    ("h100_x8_hot", 1, "fail", "throttle.thermal", 2, "fail", "88 °C"),
    ("h100_x8_hot", 1, "fail", "matmul.bf16.peers", 2, "fail", "the driver slowed it for heat"),
    ("h100_capped", 0, "pass", "matmul.bf16.reference", 0, "explained", "capped by configuration at 400 of 700 W"),
    ("h100_capped", 0, "pass", "matmul.bf16.efficiency", 0, "pass", "1050 MHz"),
    ("h100_combined_bits", 1, "fail", "throttle.hardware", 0, "fail", "heat"),
    ("h100_power_brake", 1, "fail", "throttle.hardware", 0, "fail", "power supply's brake (8.0% of the time)"),
    ("h100_power_brake", 1, "fail", "matmul.bf16.reference", 0, "warn", "power cable"),
    ("h100_slow_alone", 1, "fail", "matmul.bf16.reference", 0, "fail", "33% lost"),
    ("h100_x8_link", 1, "fail", "pcie.width", 0, "fail", "x8, GPU and slot can do x16"),
    ("h100_silent_tf32", 1, "fail", "matmul.fp32.precision", 0, "fail", "that of tf32, not of fp32"),
    ("h100_x4_odd_vote", 1, "fail", "integrity.vote", 3, "fail", "its equals, which agree"),
    ("h100_memory", 1, "fail", "memory.ecc", 0, "fail", "1 uncorrectable memory error during the run"),
    ("h100_memory", 1, "fail", "memory.remap", 0, "fail", "criterion to replace"),
    ("h100_memory", 1, "fail", "xid.run", 0, "fail", "Xid 48"),
    ("h100_hang", 1, "fail", "steps.complete", 1, "fail", "no answer within 20 s"),
    ("h100_busy", 0, "warn", "settings.exclusive", 0, "warn", "1 other process"),
    ("h100_busy", 0, "warn", "matmul.bf16.reference", 0, "explained", "1 other process"),
    ("mig", 0, "pass", "matmul.bf16.reference", 0, "pass", "60 of 132 SMs"),
    ("rtx4060_x8_by_design", 0, "pass", "pcie.width", 0, "pass", "all that this GPU has"),
    ("rtx4060_x8_by_design", 0, "pass", "bandwidth.h2d.reference", 0, "pass", "PCIe 4x8"),
    ("rtx4090", 0, "pass", "matmul.bf16.reference", 0, "pass", "100%"),
    ("laptop", 0, "pass", "matmul.bf16.reference", 0, "skipped", "Laptop GPU is not in the table"),
    ("laptop", 0, "pass", "matmul.bf16.efficiency", 0, "pass", "76 SMs"),
    ("unknown_gpu", 0, "pass", "matmul.bf16.efficiency", 0, "pass", "60 SMs"),
    ("unknown_gpu_slow", 1, "fail", "matmul.bf16.efficiency", 0, "fail", "a wrong kernel"),
    ("export_part", 0, "pass", "matmul.bf16.efficiency", 0, "unknown", "not in the table"),
    ("peers_1", 0, "pass", "matmul.bf16.peers", 0, "skipped", "no equal GPU in this host"),
    ("peers_2", 0, "warn", "matmul.bf16.peers", 1, "warn", "the other of two equal GPUs"),
    ("peers_3", 1, "fail", "matmul.bf16.peers", 2, "fail", "the median of 3 equal GPUs"),
    ("nvml_18", 1, "fail", "software.nvml", None, "fail", "differ in version (18)"),
    ("lost_gpu", 1, "fail", "software.pci", None, "fail", "does not answer"),
    ("cpu_wheel", 1, "fail", "software.torch", None, "fail", "CPU-only wheel"),
    ("no_gpu", 0, "pass", "matmul.bf16.correct", None, "skipped", "no NVIDIA GPU"),
]


@pytest.mark.parametrize(("name", "code", "status", "check_id", "index", "check_status", "words"), CASES)
def test_a_recorded_host(
    simulated: Callable[..., tuple[int, Report, str]],
    name: str,
    code: int,
    status: str,
    check_id: str,
    index: int | None,
    check_status: str,
    words: str,
) -> None:
    got, report, text = simulated(name)
    assert (got, report["status"]) == (code, status), report["summary"]
    found = rows(report, check_id)
    if index is None:
        check = next(check for check in report["checks"] if check["id"] == check_id and check["gpu"] is None)
    else:
        check = found.pop(index)
        # Nobody else is accused.
        assert {other["status"] for other in found.values()} <= {"pass", "skipped", "not_run"}
    told = f"{check['message']} {check['evidence'].get('cause')} {check['evidence'].get('source')} {check['remedy']}"
    assert (check["status"], words in told) == (check_status, True), told
    assert {check["id"] for check in report["checks"]} == set(CATALOGUE)
    if check_status in ("fail", "warn", "explained"):
        assert check["remedy"]
        assert check["severity"] != "none"
    if code:
        assert f"\nFAIL  {report['summary']}" in text
        assert "do: " in text
    assert len(text.splitlines()) < 40  # one screen


def test_every_recording_is_judged_by_a_case() -> None:
    assert {case[0] for case in CASES} == set(RECORDINGS)


def test_an_uneven_group_warns_where_an_even_one_fails() -> None:
    """13 % below the median is an outlier among equals that agree, and none among equals that scatter by 8 %."""
    for scatter, status in (((1.0, 1.0, 1.0, 1.0), "fail"), ((1.08, 1.0, 0.92, 1.07), "warn")):
        recording = copy.deepcopy(RECORDINGS["h100_x8"])
        recording["gpus"] = recording["gpus"][:5]
        for gpu, factor in zip(recording["gpus"], (*scatter, 0.87)):
            MAKE.scale(gpu, factor)
        assert rows(verdict(recording), "matmul.bf16.peers")[4]["status"] == status


def test_the_loss_is_split_into_clock_and_kernel() -> None:
    gpu = verdict(RECORDINGS["h100_capped"])["gpus"][0]
    row = next(row for row in gpu["matmul"] if row["dtype"] == "bf16")
    assert row["expected_tflops"] == 790.8
    assert row["ratio"]["reference"] == pytest.approx(546 / 790.75, abs=1e-4)
    assert row["ratio"]["rated"] == pytest.approx(546 / 989, abs=1e-4)
    assert row["loss"] == {"clock": pytest.approx(1 - 1050 / 1830, abs=1e-4), "kernel": pytest.approx(0.0383, abs=1e-3)}
    assert row["efficiency_at_clock"] * 1050 / 1830 == pytest.approx(row["ratio"]["rated"], rel=2e-3)
    assert gpu["reference_row"]["id"] == "h100-sxm"


def test_a_straggler_that_is_hot_and_one_that_is_broken_are_told_apart() -> None:
    recording = copy.deepcopy(RECORDINGS["h100_x8_straggler"])
    for row in recording["gpus"][5]["matmul"]:
        row["window"]["sm_clock_mhz"]["mean"] *= 0.88
    check = rows(verdict(recording), "matmul.bf16.peers")[5]
    assert "a lower clock than its equals (1320 against 1500 MHz)" in check["evidence"]["cause"]


def test_alone_good_and_together_bad_is_shared_power_or_cooling() -> None:
    recording = copy.deepcopy(RECORDINGS["h100_x8"])
    for gpu in recording["gpus"]:
        alone = [{**copy.deepcopy(row), "mode": "alone"} for row in gpu["matmul"]]
        gpu["matmul"] = [*alone, *MAKE.scale(gpu, 0.7)["matmul"]]
    report = verdict(recording)
    assert {check["status"] for check in rows(report, "matmul.bf16.together").values()} == {"fail"}
    assert {check["status"] for check in rows(report, "matmul.bf16.reference").values()} == {"pass"}  # alone is judged
    assert "shared power or cooling" in rows(report, "matmul.bf16.together")[0]["evidence"]["cause"]


def test_strict_fails_on_what_is_neither_good_nor_left_out() -> None:
    strict = judge.Rules(strict=True)
    assert verdict(RECORDINGS["h100_capped"], strict)["status"] == "fail"
    assert verdict(RECORDINGS["h100_x8"])["status"] == "pass"


def test_no_reference_leaves_peers_and_history() -> None:
    report = verdict(RECORDINGS["h100_x8_straggler"], judge.Rules(reference=None))
    assert report["reference"] is None
    assert rows(report, "matmul.bf16.reference")[5]["status"] == "skipped"
    assert rows(report, "matmul.bf16.peers")[5]["status"] == "fail"


def test_a_recording_without_nvml_has_unknown_health_and_a_known_speed() -> None:
    recording = copy.deepcopy(RECORDINGS["peers_1"])
    recording["gpus"][0].update(memory_health=None, pcie=None, nvlink=None, settings=None, power=None, others=None)
    recording["gpus"][0]["matmul"] = [{**row, "window": None} for row in recording["gpus"][0]["matmul"]]
    report = verdict(recording)
    assert report["status"] == "pass"
    for check_id in ("memory.ecc", "pcie.width", "throttle.hardware", "xid.run"):
        assert rows(report, check_id)[0]["status"] == "unknown"
    assert verdict(recording, judge.Rules(strict=True))["status"] == "fail"


# ------------------------------------------------------------------------------------------------ bits, Xids, link


@pytest.mark.parametrize("extra", [0x1, 0x4, 0x10, 0x100, 0x800])
@pytest.mark.parametrize(("bit", "words"), [(0x8, "heat or power"), (0x40, "heat"), (0x80, "brake")])
def test_a_bit_is_seen_in_any_combination(bit: int, words: str, extra: int) -> None:
    """gpu-fryer and Azure compare the mask with ==, and miss every combination."""
    recording = copy.deepcopy(RECORDINGS["peers_1"])
    recording["gpus"][0]["matmul"][2]["window"]["clock_event_mask_or"] = bit | extra
    check = rows(verdict(recording), "throttle.hardware")[0]
    assert check["status"] == "fail"
    assert words in check["message"]


def test_locked_clocks_are_named_and_explain() -> None:
    recording = copy.deepcopy(RECORDINGS["peers_1"])
    gpu = MAKE.load_all(recording["gpus"][0], MAKE.window(900, 300, 40, 0x2), 0.6)
    recording["gpus"] = [gpu]
    report = verdict(recording)
    assert (report["status"], rows(report, "throttle.locked")[0]["status"]) == ("warn", "warn")
    assert rows(report, "matmul.bf16.reference")[0]["status"] == "explained"


@pytest.mark.parametrize(
    ("number", "own", "status", "severity"),
    [
        (79, False, "fail", "replace"),
        (54, False, "fail", "isolate"),
        (48, False, "fail", "reset"),
        (74, False, "fail", "reset"),
        (95, False, "fail", "reset"),
        (119, False, "fail", "reset"),
        (142, False, "fail", "replace"),
        (63, False, "warn", "monitor"),
        (94, False, "warn", "monitor"),
        (31, False, "info", "none"),
        (31, True, "fail", "isolate"),
        (43, True, "pass", "none"),
    ],
)
def test_xids(number: int, own: bool, status: str, severity: str) -> None:
    got, remedy, grade = health.judge_xid(number, own)
    assert (got, grade) == (status, severity)
    assert bool(remedy) == (status in ("fail", "warn"))


@pytest.mark.parametrize(
    ("changes", "check_id", "status"),
    [
        ({"width": 8, "width_max": 16, "width_slot_max": 8}, "pcie.width", "info"),
        ({"width": 4, "width_max": 16, "width_slot_max": 8}, "pcie.width", "fail"),
        ({"width": 4, "width_max": 16, "width_slot_max": None}, "pcie.width", "fail"),
        ({"gen_under_load": 3}, "pcie.generation", "warn"),
        ({"gen_under_load": 4, "gen_system_max": 4, "gen_device_max": 5}, "pcie.generation", "info"),
        ({"replays_delta": 3}, "pcie.errors", "info"),
        ({"replays_delta": 3000}, "pcie.errors", "warn"),
        ({"aer_fatal_delta": 1}, "pcie.errors", "fail"),
    ],
)
def test_the_link(changes: dict[str, Any], check_id: str, status: str) -> None:
    recording = copy.deepcopy(RECORDINGS["peers_1"])
    recording["gpus"][0]["pcie"].update(changes)
    assert rows(verdict(recording), check_id)[0]["status"] == status


@pytest.mark.parametrize(
    ("changes", "check_id", "status"),
    [
        ({"ecc_cor_delta": 1}, "memory.ecc", "info"),
        ({"ecc_cor_delta": 50}, "memory.ecc", "warn"),
        ({"ecc_unc_aggregate": 2}, "memory.ecc", "warn"),
        ({"ecc_unc_volatile": 1}, "memory.ecc", "fail"),
        ({"sram_threshold_exceeded": True}, "memory.ecc", "fail"),
        ({"ecc_mode": False}, "memory.ecc", "info"),
        ({"ecc_mode": None, "ecc_unc_volatile": None}, "memory.ecc", "skipped"),
        ({"ecc_unc_volatile": None, "ecc_unc_delta": None}, "memory.ecc", "unknown"),
        ({"remap": {"pending": True, "failed": False}}, "memory.remap", "warn"),
        ({"remap": {"pending": True, "failed": True}}, "memory.remap", "fail"),
        ({"remap": {"pending": False, "failed": False, "banks_none": 1}}, "memory.remap", "warn"),
        ({"retired_pages": {"single_bit": 40, "double_bit": 20}}, "memory.retired", "fail"),
        ({"retired_pages": {"single_bit": 1, "double_bit": 0, "pending": True}}, "memory.retired", "warn"),
        ({"inforom_valid": False}, "memory.inforom", "warn"),
        ({"recovery_action": "drain_p2p"}, "memory.recovery", "fail"),
    ],
)
def test_memory(changes: dict[str, Any], check_id: str, status: str) -> None:
    recording = copy.deepcopy(RECORDINGS["peers_1"])
    recording["gpus"][0]["memory_health"].update(changes)
    assert rows(verdict(recording), check_id)[0]["status"] == status


@pytest.mark.parametrize(
    ("change", "check_id", "status"),
    [
        ({"nvlink": {"links_up": 17}}, "nvlink.links", "fail"),
        ({"nvlink": {"links_up": 18, "errors_delta": 4}}, "nvlink.errors", "warn"),
        ({"nvlink": {"links_up": 18, "recoveries_failed_delta": 1}}, "nvlink.errors", "fail"),
        ({"nvlink": {"links_up": 18, "fabric_state": "in_progress"}}, "nvlink.fabric", "fail"),
        ({"nvlink": {"links_up": 18, "fabric_state": "completed", "fabric_status": 0}}, "nvlink.fabric", "pass"),
        ({"vbios": "96.00.00.00.00"}, "settings.vbios", "warn"),
        ({"settings": {"persistence": False, "display_active": False}}, "settings.persistence", "warn"),
        ({"settings": {"persistence": False, "display_active": True}}, "settings.persistence", "pass"),
        ({"training": {"autocast": {"finite": False}}}, "training.autocast", "fail"),
        (
            {"training": {"autocast": {"finite": True, "loss_error": 0.001, "loss_fell": True}}},
            "training.autocast",
            "pass",
        ),
        ({"training": {"compile": {"outcome": "failed", "message": "no compiler"}}}, "training.compile", "warn"),
    ],
)
def test_the_rest_of_a_gpu(change: dict[str, Any], check_id: str, status: str) -> None:
    recording = copy.deepcopy(RECORDINGS["h100_x8"])
    recording["gpus"][4].update(change)
    assert rows(verdict(recording), check_id)[4]["status"] == status


@pytest.mark.parametrize(
    ("changes", "check_id", "status"),
    [
        ({"p2p": {"matrix_gb_s": [[None, 300.0]], "access": [[None, True]], "verified": True}}, "p2p.copies", "pass"),
        ({"p2p": {"matrix_gb_s": [[None, 300.0]], "access": [[None, True]], "verified": False}}, "p2p.copies", "fail"),
        ({"p2p": {"matrix_gb_s": [], "access": [[None, False]], "verified": None}}, "p2p.copies", "fail"),  # has NVLink
        ({"nccl": {"ranks": 8, "busbw_gb_s": {"1024": 460.0}, "verified": True}}, "nccl.allreduce", "pass"),
        ({"nccl": {"ranks": 8, "busbw_gb_s": {"1024": 460.0}, "verified": False}}, "nccl.allreduce", "fail"),
        ({}, "nccl.allreduce", "skipped"),
    ],
)
def test_what_is_of_several_gpus(changes: dict[str, Any], check_id: str, status: str) -> None:
    report = verdict({**RECORDINGS["h100_x8"], **changes})
    assert next(check["status"] for check in report["checks"] if check["id"] == check_id) == status


@pytest.mark.parametrize(
    ("outcome", "status"),
    [("skipped", "skipped"), ("not_run", "not_run"), ("unknown", "unknown"), ("failed", "fail"), ("hang", "fail")],
)
@pytest.mark.parametrize(("step", "check_id"), [("p2p", "p2p.copies"), ("nccl", "nccl.allreduce")])
def test_a_step_of_several_gpus_that_left_nothing(step: str, check_id: str, outcome: str, status: str) -> None:
    recording = copy.deepcopy(RECORDINGS["h100_x8"])
    recording["steps"].append({"gpu": None, "step": step, "outcome": outcome, "message": "why"})
    report = verdict(recording)
    check = next(check for check in report["checks"] if check["id"] == check_id)
    assert (check["status"], check["message"]) == (status, "why")
    assert (report["status"] == "fail") == (status == "fail")


# ------------------------------------------------------------------------------------------------ the laws

ORDER = ("pass", "skipped", "info", "explained", "unknown", "not_run", "warn", "error", "fail")
HOST_ORDER = ("pass", "skipped", "pending_reboot", "warn", "error", "fail")


def worse_numbers(gpu: Report, chance: random.Random) -> None:
    """One number of a GPU gets worse by a random amount."""
    row = chance.choice(gpu["matmul"])
    window = row["window"]

    def slower() -> None:
        factor = chance.uniform(0.2, 0.999)
        row["tflops"] = {k: v * factor if k not in ("cv", "batches") else v for k, v in row["tflops"].items()}

    def throttled() -> None:
        name = chance.choice(["sw_thermal", "hw_thermal", "power_brake"])
        window["throttle_share"][name] = min(1.0, (window["throttle_share"].get(name) or 0.0) + chance.uniform(0, 0.4))

    def bits() -> None:
        window["clock_event_mask_or"] |= chance.choice([0x8, 0x20, 0x40, 0x80])

    def copies() -> None:
        name = chance.choice(["device_copy_gb_s", "h2d_gb_s", "d2h_gb_s"])
        if gpu["bandwidth"][name]:
            gpu["bandwidth"][name] *= chance.uniform(0.2, 0.999)

    def counters() -> None:
        name = chance.choice(["ecc_unc_volatile", "ecc_unc_delta", "ecc_cor_delta", "ecc_unc_aggregate"])
        gpu["memory_health"][name] = (gpu["memory_health"].get(name) or 0) + chance.randrange(1, 100)

    def links() -> None:
        name = chance.choice(["replays_delta", "aer_fatal_delta", "aer_nonfatal_delta"])
        gpu["pcie"][name] = (gpu["pcie"].get(name) or 0) + chance.randrange(1, 5000)

    def xid() -> None:
        gpu["xids"] = [
            *gpu["xids"],
            {"xid": chance.randrange(1, 160), "during_run": True, "own": None, "source": "nvml"},
        ]

    def wrong() -> None:
        gpu["integrity"]["repeat_mismatches"] += 1
        gpu["integrity"]["max_elementwise_ratio"] *= chance.uniform(1, 8)

    chance.choice([slower, slower, slower, throttled, bits, copies, counters, links, xid, wrong])()


@pytest.mark.parametrize(
    "name", ["h100_x8", "peers_1", "peers_2", "peers_3", "h100_capped", "h100_x8_hot", "mig", "rtx4090"]
)
def test_a_worse_number_never_gives_a_better_verdict(name: str) -> None:
    """Walks of ever worse numbers on one GPU: its own verdict and the host's only ever get worse.

    The others' comparison with it may improve, because a median is relative; so the host's verdict is looked at where
    nobody else is accused.
    """
    chance = random.Random(f"torch_probe {name}")  # noqa: S311 - reproducible on purpose
    rules = judge.Rules()
    for _ in range(12):
        recording = copy.deepcopy(RECORDINGS[name])
        index = chance.randrange(len(recording["gpus"]))
        before = verdict(recording, rules)
        for _ in range(12):
            worse_numbers(recording["gpus"][index], chance)
            after = verdict(recording, rules)
            status = [report["gpus"][index]["status"] for report in (before, after)]
            assert ORDER.index(status[1]) >= ORDER.index(status[0]), (name, index, status, after["summary"])
            if all(gpu["status"] == "pass" for gpu in before["gpus"] if gpu["index"] != index):
                host = [HOST_ORDER.index(report["status"]) for report in (before, after)]
                assert host[1] >= host[0], (before["summary"], after["summary"])
            before = after


@pytest.mark.parametrize("ratio", [1.2, 1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.6, 0.3, 0.0, float("nan")])
def test_each_check_of_a_slower_gpu_is_at_least_as_bad(ratio: float) -> None:
    for name in ("h100_x8", "peers_2", "rtx4090", "unknown_gpu"):
        statuses = []
        for factor in (ratio * 1.05, ratio):
            recording = copy.deepcopy(RECORDINGS[name])
            MAKE.scale(recording["gpus"][-1], factor)
            report = verdict(recording)
            mine = report["gpus"][-1]["uuid"]
            statuses.append({c["id"]: c["status"] for c in report["checks"] if c["gpu"] == mine})
        for check_id, status in statuses[1].items():
            assert ORDER.index(status) >= ORDER.index(statuses[0][check_id]), (name, check_id, ratio)
        if ratio != ratio:  # NaN is the worst of all
            assert "fail" in statuses[1].values()


def test_nothing_that_did_not_run_is_a_pass() -> None:
    """Take away data at random: a check whose data are gone is never a pass."""
    chance = random.Random("gone")  # noqa: S311 - reproducible on purpose
    needs = {
        "matmul": ("matmul.", "throttle."),
        "integrity": ("integrity.truth", "integrity.repeat", "integrity.vote"),
        "bandwidth": ("bandwidth.",),
        "pcie": ("pcie.",),
        "memory_health": ("memory.",),
        "power": ("power.",),
    }
    for _ in range(60):
        recording = copy.deepcopy(RECORDINGS[chance.choice(["h100_x8", "peers_1", "rtx4090", "mig"])])
        gone = chance.sample(sorted(needs), chance.randrange(1, len(needs)))
        recording["steps"] = chance.choice([recording["steps"], []])
        for gpu in recording["gpus"]:
            for name in gone:
                gpu[name] = [] if name == "matmul" else None
        report = verdict(recording)
        for check in report["checks"]:
            if check["gpu"] and check["id"].startswith(tuple(prefix for name in gone for prefix in needs[name])):
                assert check["status"] in ("not_run", "skipped", "unknown"), check
        if "matmul" in gone:
            assert report["status"] != "pass"
            assert {gpu["status"] for gpu in report["gpus"]} != {"pass"}


def test_an_empty_recording_is_no_pass() -> None:
    report = verdict({})
    assert report["status"] == "skipped"
    assert {check["status"] for check in report["checks"]} <= {"not_run", "skipped"}
    assert {check["id"] for check in report["checks"]} == set(CATALOGUE)
    only_gpus = verdict({"gpus": [{"index": 0, "uuid": "GPU-1"}]})
    assert only_gpus["status"] == "skipped"
    assert set(GPU_CHECKS) <= {check["id"] for check in only_gpus["checks"] if check["gpu"] == "GPU-1"}


@pytest.mark.parametrize("outcome", ["skipped", "not_run", "unknown", "failed", "hang", "pending_reboot"])
def test_a_step_that_did_not_end_is_told_and_is_no_pass(outcome: str) -> None:
    recording = copy.deepcopy(RECORDINGS["peers_1"])
    gpu = recording["gpus"][0]
    gpu["matmul"], gpu["bandwidth"] = gpu["matmul"][:2], None
    gone = ("matmul.bf16", "bandwidth")
    recording["steps"] = [step for step in recording["steps"] if step["step"] not in gone]
    recording["steps"] += [{"gpu": gpu["uuid"], "step": name, "outcome": outcome, "message": "why"} for name in gone]
    report = verdict(recording)
    bad = outcome in ("failed", "hang")
    assert (report["status"] == "fail") == bad
    assert rows(report, "matmul.bf16.correct")[0]["status"] == judge.OUTCOMES[outcome]
    assert rows(report, "bandwidth.h2d.peers")[0]["status"] in ("not_run", "skipped", "pending_reboot")
    assert rows(report, "steps.complete")[0]["status"] == {"failed": "fail", "hang": "fail"}.get(
        outcome, outcome if outcome in ("unknown", "not_run") else "pass"
    )


# ------------------------------------------------------------------------------------------------ the policy


def test_every_threshold_has_a_reason_and_is_used() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in Path(judge.__file__).parent.glob("*.py"))
    found = policy.load()
    for name, why in found.reasons.items():
        assert why.endswith("."), name
        assert f'"{name}"' in source, name
    assert found.describe()["source"] == "builtin"


def test_a_threshold_turns_the_verdict() -> None:
    tight = judge.Rules(policy=policy.load(changes=["warn.reference=0.999"]))
    assert verdict(RECORDINGS["peers_1"])["status"] == "pass"
    assert verdict(RECORDINGS["peers_1"], tight)["status"] == "warn"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("warn.peers", "write NAME=NUMBER"),
        ("warn.colour=1", "there is no such threshold"),
        ("warn.peers=much", "is no number"),
        ("warn.peers=nan", "is no number"),
        ("warn.peers=-1", "is no number"),
        ("warn.peers=0.5", "fail.peers 0.1 would be reached before warn.peers 0.5"),
        ("fail.reference=0.95", "fail.reference 0.95 would be reached before"),
    ],
)
def test_a_wrong_threshold_is_one_sentence(change: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--set", change])
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


def test_a_policy_file_names_what_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_text('{"warn.peers": 0.03, "fail.peers": {"value": 0.2, "why": "Our fleet is uneven."}}')
    found = policy.load(path, ["warn.peers=0.04"])
    assert (found["warn.peers"], found["fail.peers"], found["warn.reference"]) == (0.04, 0.2, 0.90)
    assert found.reasons["fail.peers"] == "Our fleet is uneven."
    assert str(path) in found.source
    assert found.sha256 != policy.load().sha256
    for text, words in (("[]", "no JSON object"), ("{", "line 1"), ('{"x": 1}', "no such threshold")):
        path.write_text(text)
        with pytest.raises(policy.PolicyError, match=words):
            policy.load(path)


def test_causes_are_in_words() -> None:
    assert causes.likely_cause({"matmul": []}).words.startswith("not known")
    assert reference.is_mig({"name": "NVIDIA A100 MIG 1g.5gb"})
