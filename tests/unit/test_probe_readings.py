"""What NVML and the kernel's log tell: sentinels, bits, counters, deltas. The field's known mistakes are tests here."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from torch_probe import conduct, facts, kernel_log, nvml
from torch_probe.plan import Wishes
from torch_probe.report import Gpu, Nvlink, blank


class NvmlError(Exception):
    """As pynvml's, with the code in `value`."""

    def __init__(self, value: int) -> None:
        super().__init__(f"NVML error {value}")
        self.value = value


def fake(**answers: Any) -> nvml.Gauge:
    """A GPU that answers these calls; a number below 0 is NVML's error of that code, what is not named is missing."""
    module: Any = ModuleType("pynvml")
    module.NVMLError = NvmlError

    def make(value: Any) -> Any:
        def call(handle: Any, *arguments: Any) -> Any:
            found = value(*arguments) if callable(value) else value
            if isinstance(found, int) and not isinstance(found, bool) and found < 0:
                raise NvmlError(-found)
            return found

        return call

    for name, value in answers.items():
        setattr(module, name, make(value))
    return nvml.Gauge(module, "handle")


def field_values(**numbers: int) -> Any:
    """nvmlDeviceGetFieldValues of these fields (`f74=...`, a link's as `f161_3`); others are not supported."""

    def call(wanted: Any) -> list[Any]:
        found = []
        for entry in wanted:
            name = f"f{entry[0]}_{entry[1]}" if isinstance(entry, tuple) else f"f{entry}"
            known = name in numbers
            value = SimpleNamespace(ullVal=numbers.get(name, 0), uiVal=7)
            found.append(SimpleNamespace(valueType=3, nvmlReturn=0 if known else 3, value=value))
        return found

    return call


# ------------------------------------------------------------------------------------------------ readings


@pytest.mark.parametrize(
    ("call", "answer", "reading", "value"),
    [
        ("nvmlDeviceGetTemperature", 61, "temperature", 61),
        ("nvmlDeviceGetTemperature", 0xFFFFFFFF, "temperature", None),  # gpu-fryer #11: a sentinel as a reading
        ("nvmlDeviceGetTemperature", 2**64 - 1, "temperature", None),
        ("nvmlDeviceGetTemperature", 200, "temperature", None),
        ("nvmlDeviceGetTemperature", -3, "temperature", None),  # not supported
        ("nvmlDeviceGetTemperature", -4, "temperature", None),  # not permitted
        ("nvmlDeviceGetTemperature", -15, "temperature", None),  # lost
        ("nvmlDeviceGetClockInfo", 1980, "sm_clock", 1980),
        ("nvmlDeviceGetClockInfo", 5001, "sm_clock", None),
        ("nvmlDeviceGetClockInfo", 0, "sm_clock", None),
        ("nvmlDeviceGetCurrentClocksEventReasons", 0, "clock_events", 0),
        ("nvmlDeviceGetCurrentClocksThrottleReasons", 4, "clock_events", 4),  # the older name
        ("nvmlDeviceGetTotalEnergyConsumption", -3, "energy_mj", None),
        ("nvmlDeviceGetFieldValues", field_values(f82=85), "memory_temperature", 85),
        ("nvmlDeviceGetFieldValues", field_values(f82=0), "memory_temperature", None),
        ("nvmlDeviceGetFieldValues", field_values(), "memory_temperature", None),
    ],
)
def test_a_reading_that_is_none_is_none(call: str, answer: Any, reading: str, value: float | None) -> None:
    assert getattr(fake(**{call: answer}), reading)() == value


def test_a_package_without_the_call_is_an_answer_that_is_not_to_be_had() -> None:
    gauge = fake()
    assert gauge.sm_clock() is None
    assert gauge.throttle_ns() == dict.fromkeys(nvml.THROTTLE_FIELDS)
    assert set(nvml.read_power(gauge).values()) == {None}
    assert set(nvml.read_settings(gauge).values()) == {None}
    assert nvml.read_others(gauge)["busy"] is None
    counters = nvml.read_counters(gauge)
    assert {counters[name] for name in ("ecc_mode", "remap_failed", "recovery_action", "inforom_valid")} == {None}
    assert nvml.nvlink(counters, counters) is None
    json.dumps(counters.values)  # a worker passes them to its parent


@pytest.mark.parametrize(
    ("before", "after", "grown"), [(5, 7, 2), (5, 5, 0), (7, 5, None), (None, 5, None), (5, None, None)]
)
def test_delta(before: int | None, after: int | None, grown: int | None) -> None:
    assert nvml.delta(before, after) == grown


def test_remapped_rows_are_read_in_their_order() -> None:
    """Azure reads a fourth column that is not there."""
    values = nvml.read_counters(fake(nvmlDeviceGetRemappedRows=lambda: (1, 2, 0, 1))).values
    assert [values[f"remap_{name}"] for name in ("cor", "unc", "pending", "failed")] == [1, 2, False, True]


def test_the_growth_of_error_counters_over_a_run() -> None:
    def errors(corrected: int, uncorrected: int) -> nvml.Counters:
        def total(kind: int, scope: int) -> int:
            return (corrected, uncorrected)[kind] * (scope + 1)

        return nvml.read_counters(fake(nvmlDeviceGetTotalEccErrors=total, nvmlDeviceGetEccMode=lambda: [1, 1]))

    health = nvml.memory_health(errors(10, 0), errors(13, 1))
    assert (health["ecc_mode"], health["ecc_cor_delta"], health["ecc_unc_delta"]) == (True, 3, 1)
    assert (health["ecc_unc_volatile"], health["ecc_unc_aggregate"]) == (1, 2)


@pytest.mark.parametrize("sentinel", [0xFFFFFFFF, 2**64 - 1, 0x7FFFFFFF])
def test_a_counter_with_all_bits_set_counts_nothing(sentinel: int) -> None:
    counters = nvml.read_counters(fake(nvmlDeviceGetTotalEccErrors=sentinel, nvmlDeviceGetPcieReplayCounter=sentinel))
    assert (counters["ecc_unc_volatile"], counters["pcie_replays"]) == (None, None)


@pytest.mark.parametrize(("code", "valid"), [(None, True), (14, False), (3, None), (4, None)])
def test_inforom(code: int | None, valid: bool | None) -> None:
    gauge = fake(nvmlDeviceValidateInforom=-code if code else 1)
    assert nvml.read_counters(gauge)["inforom_valid"] is valid


@pytest.mark.parametrize(("value", "action"), [(0, "none"), (1, "gpu_reset"), (2, "reboot"), (9, "9")])
def test_recovery_action(value: int, action: str) -> None:
    gauge = fake(nvmlDeviceGetFieldValues=field_values(f230=value))
    assert nvml.read_counters(gauge)["recovery_action"] == action


def test_links_and_their_errors() -> None:
    def state(link: int) -> int:
        return -3 if link >= 4 else int(link != 2)

    def read(replays: int) -> nvml.Counters:
        values = field_values(f161_0=replays, f161_1=1, f163_3=2)
        return nvml.read_counters(fake(nvmlDeviceGetNvLinkState=state, nvmlDeviceGetFieldValues=values))

    link = nvml.nvlink(read(0), read(5))
    assert link is not None
    assert (link["links_up"], link["links_supported"], link["replays_delta"], link["errors_delta"]) == (3, 4, 5, 0)


def gpu_with_links(up: int, fabric: str | None = None) -> Gpu:
    gpu: Gpu = blank(Gpu)
    link: Nvlink = blank(Nvlink)
    link.update({"links_up": up, "links_supported": 18, "fabric_state": fabric})
    gpu.update({"name": "H100", "nvlink": link})
    return gpu


@pytest.mark.parametrize(
    ("up", "fabric", "expected"),
    [([18, 18, 17], None, [18] * 3), ([12], None, [12]), ([17], "completed", [18]), ([0, 0], None, [0, 0])],
)
def test_links_that_should_be_up(up: list[int], fabric: str | None, expected: list[int]) -> None:
    gpus = [gpu_with_links(count, fabric) for count in up]
    conduct.expect_links(gpus)
    assert [gpu["nvlink"]["links_expected"] for gpu in gpus if gpu["nvlink"]] == expected


@pytest.mark.parametrize(
    ("paths", "verified"), [((True, True), True), ((False, True), False), ((True, False), False), ((None, True), True)]
)
def test_one_path_that_corrupts_stays_wrong(paths: tuple[bool | None, ...], verified: bool) -> None:
    gpu: Gpu = blank(Gpu)
    gpu["uuid"] = "GPU-a"
    workers: Any = SimpleNamespace()
    conductor = conduct.Conductor([gpu], workers, Wishes(), facts.Roots(), lambda text: None)
    for path in paths:
        conductor._take(gpu, {"bandwidth": {"copies_verified": path}})
    assert gpu["bandwidth"] is not None
    assert gpu["bandwidth"]["copies_verified"] is verified


# ------------------------------------------------------------------------------------------------ under load


def test_clock_events_are_bits_and_not_numbers() -> None:
    """gpu-fryer and Azure compare the mask with `==` and so miss two bits at once."""
    shares = nvml.event_shares([0x8 | 0x40, 0x40, 0x0, 0x4 | 0x1000])
    assert shares == {"sw_power_cap": 0.25, "hw_slowdown": 0.25, "hw_thermal": 0.5, "0x1000": 0.25}


def test_a_window_has_the_clocks_of_the_load() -> None:
    """gcm and Azure look at the clocks of an idle GPU: these are sampled while the body works, and nowhere else."""
    loaded = False
    energy = iter([1_000_000, 1_350_000])
    power = iter([0, 300_000_000])

    def fields(wanted: Any) -> list[Any]:
        found = field_values(f74=next(power))(wanted) if 74 in wanted else field_values()(wanted)
        return list(found)

    gauge = fake(
        nvmlDeviceGetClockInfo=lambda kind: (1500 if kind == 1 else 2619) if loaded else 345,
        nvmlDeviceGetTemperature=lambda sensor: 60,
        nvmlDeviceGetCurrentClocksEventReasons=lambda: 0x4 if loaded else 0x1,
        nvmlDeviceGetTotalEnergyConsumption=lambda: next(energy),
        nvmlDeviceGetFieldValues=fields,
    )
    loaded = True
    with nvml.Sampler(gauge, limit_w=700) as sampler:
        time.sleep(0.5)
    loaded = False
    window = sampler.window
    assert window is not None
    assert window["sm_clock_mhz"] == {"mean": 1500, "min": 1500, "max": 1500}
    assert window["clock_event_mask_or"] == 4
    assert window["samples"] >= 3
    assert window["energy_j"] == 350
    assert window["power_w"] == pytest.approx(700, rel=0.3)
    assert window["throttle_share"]["sw_power"] == pytest.approx(0.6, abs=0.2)
    assert window["throttle_share"]["hw_thermal"] is None  # not told is not 0


def test_the_older_call_stands_in_for_a_missing_counter() -> None:
    gauge = fake(nvmlDeviceGetViolationStatus=lambda policy: SimpleNamespace(violationTime=100 + policy))
    values = gauge.throttle_ns()
    assert (values["sw_power"], values["sw_thermal"], values["hw_thermal"]) == (100, 101, None)


@pytest.mark.parametrize(("grown", "share"), [(0, 0.0), (5 * 10**8, 0.5), (10**9, 1.0), (9 * 10**9, None)])
def test_a_counter_in_another_unit_is_no_share(grown: int, share: float | None) -> None:
    none = dict.fromkeys(nvml.THROTTLE_FIELDS)
    shares = nvml.throttle_shares({**none, "sw_power": 0}, {**none, "sw_power": grown}, 1.0)
    assert shares["sw_power"] == share


def test_a_sampler_without_nvml_does_nothing() -> None:
    with nvml.Sampler(None) as sampler:
        pass
    assert sampler.window is None


@pytest.mark.parametrize(
    ("used", "percent", "busy"),
    [([], 0, False), ([2], 0, False), ([20], 0, True), ([None], 0, True), ([], 50, True), ([], 0xFFFFFFFF, False)],
)
def test_who_else_uses_the_gpu(used: list[int | None], percent: int, busy: bool) -> None:
    processes = [SimpleNamespace(pid=1, usedGpuMemory=None if part is None else part << 30) for part in used]
    gauge = fake(
        nvmlDeviceGetComputeRunningProcesses=lambda: processes,
        nvmlDeviceGetMemoryInfo=lambda: SimpleNamespace(used=30 << 30, total=80 << 30),
        nvmlDeviceGetUtilizationRates=lambda: SimpleNamespace(gpu=percent),
    )
    assert nvml.read_others(gauge)["busy"] is busy


def test_a_gpu_is_found_by_uuid_and_then_by_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """gpu-fryer takes NVML's index for CUDA's number."""
    module: Any = ModuleType("pynvml")
    module.NVMLError, module.nvmlInit = NvmlError, lambda: None

    def by_uuid(uuid: Any) -> str:
        if uuid == "GPU-a":
            return "a"
        raise NvmlError(6)

    module.nvmlDeviceGetHandleByUUID = by_uuid
    module.nvmlDeviceGetHandleByPciBusId = lambda place: f"at {place}"
    monkeypatch.setitem(sys.modules, "pynvml", module)
    for uuid, place, handle in (("GPU-a", "0:1:0", "a"), ("GPU-b", "0:1:0", "at 0:1:0"), (None, "0:2:0", "at 0:2:0")):
        gauge = nvml.open_gauge(uuid, place)
        assert gauge is not None
        assert gauge.handle == handle
    assert nvml.open_gauge(None, None) is None


def test_xids_of_nvml_are_collected() -> None:
    events = [SimpleNamespace(eventType=8, eventData=79), SimpleNamespace(eventType=8, eventData=13)]

    def wait(events_set: Any, milliseconds: int) -> Any:
        if not events:
            raise NvmlError(10)
        return events.pop(0)

    gauge = fake()
    module: Any = gauge.nvml
    module.nvmlEventSetCreate = lambda: "set"
    module.nvmlDeviceRegisterEvents = lambda handle, kind, events_set: None
    module.nvmlEventSetWait_v2 = wait
    watch = nvml.XidWatch(gauge)
    assert [xid["xid"] for xid in watch.collect()] == [79, 13]
    assert watch.collect() == []
    assert nvml.XidWatch(fake()).collect() == []


# ------------------------------------------------------------------------------------------------ the kernel's log

KMSG = [
    "4,1001,100000000,-;NVRM: Xid (PCI:0000:1b:00): 63, pid='<unknown>', name=<unknown>, Row\n SUBSYSTEM=pci\n",
    "4,1002,500000000,-;NVRM: Xid (PCI:0000:1b:00): 79, pid=4711, name=python, GPU has fallen off the bus.\n",
    "6,1003,500000001,-;usb 1-1: new device\n",
    "a broken record",
]


def test_xids_of_the_log_by_gpu_and_time() -> None:
    found = kernel_log.find_xids(kernel_log.parse_kmsg(KMSG), 400.0, 1_700_000_000.0, frozenset({4711}))
    assert list(found) == [kernel_log.place("00000000:1B:00.0")]
    first, second = found["0000:1b:00"]
    assert (first["xid"], first["during_run"], first["own"]) == (63, False, None)
    assert (second["xid"], second["during_run"], second["own"]) == (79, True, True)
    assert second["at"] == "2023-11-14T22:21:40Z"
    assert second["message"] == "NVRM: Xid (PCI:0000:1b:00): 79, pid=4711, name=python, GPU has fallen off the bus."


def test_the_journal_has_the_same() -> None:
    message = "NVRM: Xid (PCI:0000:1b:00): 48, x"
    stamps = {"__MONOTONIC_TIMESTAMP": "9", "_SOURCE_MONOTONIC_TIMESTAMP": "7000000"}
    text = "\n".join([json.dumps({"MESSAGE": message, **stamps}), "no json", "[]"])
    assert kernel_log.parse_journal(text) == [kernel_log.LogLine(7.0, message)]


def test_a_log_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_log, "read_journal", lambda: None)
    assert kernel_log.read_log(tmp_path / "kmsg") is None
    (tmp_path / "kmsg").write_text("4,1,5000000,-;hello\n", encoding="utf-8")
    assert kernel_log.read_log(tmp_path / "kmsg") == [kernel_log.LogLine(5.0, "hello")]


def test_the_log_and_nvml_tell_of_one_xid_once() -> None:
    logged = kernel_log.find_xids(kernel_log.parse_kmsg(KMSG), 400.0, 0.0, frozenset())["0000:1b:00"]
    heard: Any = [{**logged[1], "source": "nvml"}, {**logged[1], "xid": 63, "source": "nvml"}]
    merged = kernel_log.merge(logged, heard)
    assert [(xid["xid"], xid["source"]) for xid in merged] == [(63, "kernel"), (79, "kernel"), (63, "nvml")]


# ------------------------------------------------------------------------------------------------ sysfs


def test_the_slot_and_its_errors(tmp_path: Path) -> None:
    port = tmp_path / "devices/pci0000:00/0000:00:01.0"
    card = port / "0000:01:00.0"
    card.mkdir(parents=True)
    (port / "max_link_width").write_text("8\n", encoding="utf-8")
    (card / "aer_dev_fatal").write_text("Undefined 0\nTOTAL_ERR_FATAL 2\n", encoding="utf-8")
    (card / "aer_dev_correctable").write_text("RxErr 1\nTOTAL_ERR_COR 11\n", encoding="utf-8")
    place = tmp_path / "bus/pci/devices"
    place.mkdir(parents=True)
    (place / "0000:01:00.0").symlink_to(card)
    roots = facts.Roots(sysfs=tmp_path)
    assert facts.slot_width(roots, "0000:01:00.0") == 8
    assert facts.link_errors(roots, "0000:01:00.0") == {"fatal": 2, "nonfatal": None, "correctable": 11}
    assert facts.slot_width(roots, None) is None
    assert facts.slot_width(roots, "0000:02:00.0") is None
    (port / "max_link_width").write_text("255\n", encoding="utf-8")
    assert facts.slot_width(roots, "0000:01:00.0") is None


def test_the_driver_in_user_space(tmp_path: Path) -> None:
    roots = facts.Roots(tmp_path / "sys", tmp_path / "proc", tmp_path / "dev")
    assert facts.read_user_space(roots) is None
    libraries = tmp_path / "usr/lib/x86_64-linux-gnu"
    libraries.mkdir(parents=True)
    (libraries / "libnvidia-ml.so.570.86.15").touch()
    (libraries / "libnvidia-ml.so.1").symlink_to("libnvidia-ml.so.570.86.15")
    assert facts.read_user_space(roots) == "570.86.15"
