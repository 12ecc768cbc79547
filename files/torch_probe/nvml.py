"""What NVML tells of one GPU: how it is set up, its error counters before and after, and what it does under load.

A reading that is not supported, not permitted, or cannot be (a clock of 0xFFFFFFFF, 200 degrees) is None. A device is
found by its UUID or its place on the bus: NVML's index is not CUDA's number.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import statistics
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import ModuleType, TracebackType
from typing import Any

from torch_probe.report import (
    MemoryHealth,
    Nvlink,
    Others,
    Power,
    Settings,
    ThrottleShare,
    Window,
    Xid,
    blank,
)

NOT_A_NUMBER = (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF, 0x7FFFFFFF)

CLOCK_EVENTS = {
    0x1: "idle",
    0x2: "app_clocks",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "hw_power_brake",
    0x100: "display_clocks",
    0x200: "board_limit",
    0x400: "reliability",
}

# Nanoseconds for which the clock was held down: the field's number, and the policy of the older call for the same.
THROTTLE_FIELDS: dict[str, tuple[int, int | None]] = {
    "sw_power": (74, 0),
    "sw_thermal": (269, 1),
    "hw_thermal": (270, None),
    "power_brake": (271, None),
    "board_limit": (77, 3),
    "reliability": (79, 5),
}
RECOVERY_FIELD = 230
RECOVERY_ACTIONS = (
    "none",
    "gpu_reset",
    "reboot",
    "drain_p2p",
    "drain_and_reset",
    "imex_restart",
    "bus_reset",
    "system_reboot",
)
MEMORY_TEMPERATURE_FIELD = 82
# A field's `scopeId` picks the link: (replays, recoveries, CRC errors) of the data link layer, recoveries that failed.
LINK_REPLAYS, LINK_RECOVERIES, LINK_CRC, LINK_FAILED_RECOVERIES = 161, 162, 163, 214
MOST_LINKS = 18
FABRIC_STATES = ("not_supported", "not_started", "in_progress", "completed")

SM_CLOCK, MEMORY_CLOCK = 1, 2
CORRECTED, UNCORRECTED = 0, 1
VOLATILE, AGGREGATE = 0, 1


def sane(value: Any, low: float, high: float) -> float | None:
    """A reading between its limits, else None: drivers answer with all bits set where they have no value."""
    if value is None or isinstance(value, bool) or value in NOT_A_NUMBER:
        return None
    number = float(value)
    return number if low <= number <= high else None


def count(value: Any) -> int | None:
    """An error counter. One that is all bits set counts nothing."""
    number = sane(value, 0, 2**62)
    return None if number is None else int(number)


def delta(before: int | None, after: int | None) -> int | None:
    """The growth of a counter; one that fell was reset meanwhile and says nothing."""
    return after - before if before is not None and after is not None and after >= before else None


class Gauge:
    """One GPU in NVML."""

    def __init__(self, nvml: ModuleType, handle: Any) -> None:
        self.nvml, self.handle = nvml, handle

    def ask(self, name: str, *arguments: Any) -> Any:
        """The answer of one NVML call, None where this driver, device or package has none."""
        function = getattr(self.nvml, name, None)
        if function is None:
            return None
        try:
            return function(self.handle, *arguments)
        except self.nvml.NVMLError:
            return None

    def flag(self, name: str) -> bool | None:
        """A yes or no."""
        value = self.ask(name)
        return None if value is None else bool(value)

    def fields(self, wanted: Sequence[int | tuple[int, int]]) -> list[int | None]:
        """Field values, each with its own success. Their union is read by the type that it says it has."""
        answers = self.ask("nvmlDeviceGetFieldValues", list(wanted))
        if answers is None:
            return [None] * len(wanted)
        names = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
        values: list[int | None] = []
        for answer in answers:
            name = names[answer.valueType] if 0 <= answer.valueType < len(names) else None
            raw = getattr(answer.value, name, None) if name and answer.nvmlReturn == 0 else None
            values.append(count(raw))
        return values

    def field(self, wanted: int) -> int | None:
        """One field value."""
        return self.fields([wanted])[0]

    # ---------------------------------------------------------------------------------------------- under load

    def sm_clock(self) -> float | None:
        """MHz."""
        return sane(self.ask("nvmlDeviceGetClockInfo", SM_CLOCK), 1, 5000)

    def memory_clock(self) -> float | None:
        """MHz."""
        return sane(self.ask("nvmlDeviceGetClockInfo", MEMORY_CLOCK), 1, 20000)

    def temperature(self) -> float | None:
        """Degrees of the core."""
        return sane(self.ask("nvmlDeviceGetTemperature", 0), -20, 150)

    def memory_temperature(self) -> float | None:
        """Degrees of the memory; 0 is what a GPU without that sensor says."""
        return sane(self.field(MEMORY_TEMPERATURE_FIELD), 1, 150)

    def clock_events(self) -> int | None:
        """The bits that hold the clock down, under the new name of the call or the old one."""
        value = self.ask("nvmlDeviceGetCurrentClocksEventReasons")
        if value is None:
            value = self.ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return count(value)

    def energy_mj(self) -> int | None:
        """Millijoules since the driver was loaded; a reading of the power itself sees only a part of the time."""
        return count(self.ask("nvmlDeviceGetTotalEnergyConsumption"))

    def throttle_ns(self) -> dict[str, int | None]:
        """The cumulative counters, which cannot miss a short event between two samples."""
        values = dict(zip(THROTTLE_FIELDS, self.fields([number for number, _ in THROTTLE_FIELDS.values()])))
        for name, (_, policy) in THROTTLE_FIELDS.items():
            if values[name] is None and policy is not None:
                status = self.ask("nvmlDeviceGetViolationStatus", policy)
                values[name] = count(getattr(status, "violationTime", None))
        return values

    def pcie_generation(self) -> int | None:
        """The link's present generation."""
        return count(self.ask("nvmlDeviceGetCurrPcieLinkGeneration"))


def open_gauge(uuid: str | None, bus_id: str | None) -> Gauge | None:
    """The GPU with this UUID or bus id; None without nvidia-ml-py, without NVML, or when it does not answer."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # no package, or any of NVML's errors: the chain has told it already
        return None
    for name, key in (("nvmlDeviceGetHandleByUUID", uuid), ("nvmlDeviceGetHandleByPciBusId", bus_id)):
        if not key:
            continue
        for form in (key, key.encode()):  # older versions of the package want bytes
            with contextlib.suppress(nvml.NVMLError, TypeError, AttributeError):
                return Gauge(nvml, getattr(nvml, name)(form))
    return None


# ------------------------------------------------------------------------------------------------ how it is set up


def watts(value: Any) -> float | None:
    """NVML has milliwatts."""
    number = sane(value, 1, 5_000_000)
    return None if number is None else number / 1000


def read_power(gauge: Gauge) -> Power:
    """Limits, never set by this program."""
    limits = gauge.ask("nvmlDeviceGetPowerManagementLimitConstraints") or (None, None)
    return {
        "limit_w": watts(gauge.ask("nvmlDeviceGetEnforcedPowerLimit")),
        "default_limit_w": watts(gauge.ask("nvmlDeviceGetPowerManagementDefaultLimit")),
        "min_limit_w": watts(limits[0]),
        "max_limit_w": watts(limits[1]),
    }


def read_settings(gauge: Gauge) -> Settings:
    """Modes and limits."""
    return {
        "persistence": gauge.flag("nvmlDeviceGetPersistenceMode"),
        "compute_mode": count(gauge.ask("nvmlDeviceGetComputeMode")),
        "virtualization": count(gauge.ask("nvmlDeviceGetVirtualizationMode")),
        "display_active": gauge.flag("nvmlDeviceGetDisplayActive"),
        "sm_clock_max_mhz": sane(gauge.ask("nvmlDeviceGetMaxClockInfo", SM_CLOCK), 1, 5000),
        "memory_clock_max_mhz": sane(gauge.ask("nvmlDeviceGetMaxClockInfo", MEMORY_CLOCK), 1, 20000),
        "slowdown_temp_c": sane(gauge.ask("nvmlDeviceGetTemperatureThreshold", 1), 1, 150),
        "throttle_temp_margin_c": sane(gauge.ask("nvmlDeviceGetMarginTemperature"), -100, 150),
    }


def read_others(gauge: Gauge) -> Others:
    """Other processes, before this program has used the GPU. A display server is no compute process."""
    ours = {os.getpid(), os.getppid()}
    found = gauge.ask("nvmlDeviceGetComputeRunningProcesses")
    others = None if found is None else [process for process in found if process.pid not in ours]
    memory = gauge.ask("nvmlDeviceGetMemoryInfo")
    rates = gauge.ask("nvmlDeviceGetUtilizationRates")
    busy_percent = sane(getattr(rates, "gpu", None), 0, 100)
    share = None
    if memory is not None and others is not None:
        used = [count(getattr(process, "usedGpuMemory", None)) for process in others]
        # Without the right to see it, a process's memory is unknown; then all that is used is the upper bound.
        known = sum(value for value in used if value is not None) if None not in used else int(memory.used)
        share = round(known / memory.total, 4) if memory.total else None
    utilization = None if busy_percent is None else busy_percent / 100
    busy = None if share is None and utilization is None else (share or 0) > 0.10 or (utilization or 0) > 0.05
    processes = None if others is None else len(others)
    return {"processes": processes, "memory_share": share, "sm_utilization": utilization, "busy": busy}


def text(value: Any) -> str | None:
    """NVML's strings are bytes in older versions of the package."""
    if value is None:
        return None
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


# ------------------------------------------------------------------------------------------------ error counters


@dataclass(frozen=True)
class Counters:
    """Every counter of a GPU at one moment, as JSON passes it between processes."""

    values: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.values.get(name)


def _ecc(gauge: Gauge, kind: int, scope: int) -> int | None:
    return count(gauge.ask("nvmlDeviceGetTotalEccErrors", kind, scope))


def _pages(gauge: Gauge, cause: int) -> int | None:
    pages = gauge.ask("nvmlDeviceGetRetiredPages", cause)
    return None if pages is None else len(pages)


def _sram_threshold(gauge: Gauge) -> bool | None:
    status = getattr(gauge.nvml, "c_nvmlEccSramErrorStatus_v1_t", None)
    if status is None:
        return None
    answer = status()
    if gauge.ask("nvmlDeviceGetSramEccErrorStatus", answer) is None:
        return None
    return bool(answer.bThresholdExceeded)


def _inforom(gauge: Gauge) -> bool | None:
    """A corrupted one answers with error 14; whatever else it answers says nothing."""
    validate = getattr(gauge.nvml, "nvmlDeviceValidateInforom", None)
    if validate is None:
        return None
    try:
        validate(gauge.handle)
    except gauge.nvml.NVMLError as error:
        return False if getattr(error, "value", None) == 14 else None
    return True


def _fabric(gauge: Gauge) -> tuple[str | None, int | None]:
    kind = getattr(gauge.nvml, "c_nvmlGpuFabricInfoV_t", None)
    if kind is None:
        return None, None
    info = kind()
    if gauge.ask("nvmlDeviceGetGpuFabricInfoV", info) is None:
        return None, None
    state = FABRIC_STATES[info.state] if info.state < len(FABRIC_STATES) else str(info.state)
    return state, int(info.status)


def _links(gauge: Gauge) -> dict[str, Any]:
    """Links that answer, those that are up, and the sums of their error counters."""
    states = [gauge.ask("nvmlDeviceGetNvLinkState", link) for link in range(MOST_LINKS)]
    present = [link for link, state in enumerate(states) if state is not None]
    up = [link for link in present if states[link] == 1]
    found: dict[str, Any] = {"links_supported": len(present), "links_up": len(up)}
    for name, number in (
        ("link_replays", LINK_REPLAYS),
        ("link_recoveries", LINK_RECOVERIES),
        ("link_crc", LINK_CRC),
        ("link_failed_recoveries", LINK_FAILED_RECOVERIES),
    ):
        values = [value for value in gauge.fields([(number, link) for link in up]) if value is not None] if up else []
        found[name] = sum(values) if values else None
    return found


def read_counters(gauge: Gauge) -> Counters:
    """Every counter and state that a fault moves."""
    rows = gauge.ask("nvmlDeviceGetRemappedRows") or (None,) * 4
    histogram = gauge.ask("nvmlDeviceGetRowRemapperHistogram")
    ecc_mode = gauge.ask("nvmlDeviceGetEccMode")
    action = gauge.field(RECOVERY_FIELD)
    fabric_state, fabric_status = _fabric(gauge)
    pending = gauge.ask("nvmlDeviceGetRetiredPagesPendingStatus")
    return Counters(
        {
            # A pair of present and pending mode, as a list.
            "ecc_mode": None if ecc_mode is None else bool(ecc_mode[0]),
            "ecc_unc_volatile": _ecc(gauge, UNCORRECTED, VOLATILE),
            "ecc_unc_aggregate": _ecc(gauge, UNCORRECTED, AGGREGATE),
            "ecc_cor_volatile": _ecc(gauge, CORRECTED, VOLATILE),
            "sram_threshold_exceeded": _sram_threshold(gauge),
            # In this order: corrected, uncorrected, pending, failed.
            "remap_cor": count(rows[0]),
            "remap_unc": count(rows[1]),
            "remap_pending": None if rows[2] is None else bool(rows[2]),
            "remap_failed": None if rows[3] is None else bool(rows[3]),
            "banks_low": None if histogram is None else count(histogram.low),
            "banks_none": None if histogram is None else count(histogram.none),
            "retired_single": _pages(gauge, 0),
            "retired_double": _pages(gauge, 1),
            "retired_pending": None if pending is None else bool(pending),
            "inforom_valid": _inforom(gauge),
            "recovery_action": None
            if action is None
            else RECOVERY_ACTIONS[action]
            if action < len(RECOVERY_ACTIONS)
            else str(action),
            "pcie_replays": count(gauge.ask("nvmlDeviceGetPcieReplayCounter")),
            "fabric_state": fabric_state,
            "fabric_status": fabric_status,
            **_links(gauge),
        }
    )


def memory_health(before: Counters, after: Counters) -> MemoryHealth:
    """The state at the end of the run, and the growth over it."""

    def grown(name: str) -> int | None:
        return delta(before[name], after[name])

    return {
        "ecc_mode": after["ecc_mode"],
        "ecc_unc_volatile": after["ecc_unc_volatile"],
        "ecc_unc_aggregate": after["ecc_unc_aggregate"],
        "ecc_unc_delta": grown("ecc_unc_volatile"),
        "ecc_cor_volatile": after["ecc_cor_volatile"],
        "ecc_cor_delta": grown("ecc_cor_volatile"),
        "sram_threshold_exceeded": after["sram_threshold_exceeded"],
        "remap": {
            "cor": after["remap_cor"],
            "unc": after["remap_unc"],
            "pending": after["remap_pending"],
            "failed": after["remap_failed"],
            "banks_low": after["banks_low"],
            "banks_none": after["banks_none"],
        },
        "retired_pages": {
            "single_bit": after["retired_single"],
            "double_bit": after["retired_double"],
            "pending": after["retired_pending"],
        },
        "inforom_valid": after["inforom_valid"],
        "recovery_action": after["recovery_action"],
    }


def nvlink(before: Counters, after: Counters) -> Nvlink | None:
    """None on a GPU without NVLink. `links_expected` is filled by who knows the other GPUs."""
    if not after["links_supported"]:
        return None
    crc, recoveries = (
        delta(before["link_crc"], after["link_crc"]),
        delta(before["link_recoveries"], after["link_recoveries"]),
    )
    return {
        "links_up": after["links_up"],
        "links_supported": after["links_supported"],
        "links_expected": None,
        "errors_delta": None if crc is None and recoveries is None else (crc or 0) + (recoveries or 0),
        "replays_delta": delta(before["link_replays"], after["link_replays"]),
        "recoveries_failed_delta": delta(before["link_failed_recoveries"], after["link_failed_recoveries"]),
        "fabric_state": after["fabric_state"],
        "fabric_status": after["fabric_status"],
    }


# ------------------------------------------------------------------------------------------------ under load


@dataclass
class Samples:
    """What a window's samples had, in order."""

    sm_clock: list[float] = field(default_factory=list)
    memory_clock: list[float] = field(default_factory=list)
    temperature: list[float] = field(default_factory=list)
    memory_temperature: list[float] = field(default_factory=list)
    events: list[int] = field(default_factory=list)
    taken: int = 0

    def take(self, gauge: Gauge) -> None:
        """One sample of everything."""
        self.taken += 1
        readings: Iterable[tuple[list[Any], Any]] = (
            (self.sm_clock, gauge.sm_clock()),
            (self.memory_clock, gauge.memory_clock()),
            (self.temperature, gauge.temperature()),
            (self.memory_temperature, gauge.memory_temperature()),
            (self.events, gauge.clock_events()),
        )
        for series, value in readings:
            if value is not None:
                series.append(value)


class Sampler:
    """Watches one GPU from a thread while the body of `with` loads it."""

    PERIOD = 0.1

    def __init__(self, gauge: Gauge | None, limit_w: float | None = None) -> None:
        self.gauge, self.limit_w = gauge, limit_w
        self.samples = Samples()
        self.over = threading.Event()
        self.thread: threading.Thread | None = None
        self.window: Window | None = None

    def __enter__(self) -> Sampler:
        if self.gauge is None:
            return self
        self.throttle, self.energy = self.gauge.throttle_ns(), self.gauge.energy_mj()
        self.start = time.monotonic()
        self.thread = threading.Thread(target=self._watch, args=(self.gauge,), name="sampler", daemon=True)
        self.thread.start()
        return self

    def _watch(self, gauge: Gauge) -> None:
        while not self.over.is_set():
            self.samples.take(gauge)
            self.over.wait(self.PERIOD)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.gauge is None or self.thread is None:
            return
        self.over.set()
        seconds = time.monotonic() - self.start
        throttle, energy = self.gauge.throttle_ns(), self.gauge.energy_mj()
        self.thread.join(2)
        self.window = self._summary(seconds, throttle, delta(self.energy, energy))

    def _summary(self, seconds: float, throttle: dict[str, int | None], energy: int | None) -> Window:
        samples = self.samples
        window: Window = blank(Window)
        window["seconds"], window["samples"] = round(seconds, 3), samples.taken
        if samples.sm_clock:
            window["sm_clock_mhz"] = {
                "mean": round(statistics.fmean(samples.sm_clock), 1),
                "min": min(samples.sm_clock),
                "max": max(samples.sm_clock),
            }
        if samples.memory_clock:
            window["memory_clock_mhz"] = round(statistics.fmean(samples.memory_clock), 1)
        if samples.temperature:
            window["temp_c"] = {"start": samples.temperature[0], "max": max(samples.temperature)}
        if samples.memory_temperature:
            window["memory_temp_c"] = max(samples.memory_temperature)
        if samples.events:
            seen = 0
            for mask in samples.events:
                seen |= mask
            window["clock_event_mask_or"] = seen
            window["clock_event_share"] = event_shares(samples.events)
        if energy is not None:
            window["energy_j"] = energy / 1000
            power = energy / 1000 / seconds
            window["power_w"] = round(power, 1) if power <= 2 * (self.limit_w or 2500) else None
        window["throttle_share"] = throttle_shares(self.throttle, throttle, seconds)
        return window


def event_shares(masks: Sequence[int]) -> dict[str, float]:
    """Share of the samples in which each bit was set. Bits without a name keep their number."""
    bits = {1 << place for mask in masks for place in range(64) if mask >> place & 1}
    return {
        CLOCK_EVENTS.get(bit, hex(bit)): round(sum(bool(mask & bit) for mask in masks) / len(masks), 3)
        for bit in sorted(bits)
    }


def throttle_shares(before: dict[str, int | None], after: dict[str, int | None], seconds: float) -> ThrottleShare:
    """Share of the window that each counter grew by. One that grew by more than the time is in another unit."""
    shares: ThrottleShare = blank(ThrottleShare)
    for name in THROTTLE_FIELDS:
        grown = delta(before[name], after[name])
        share = None if grown is None else sane(grown / 1e9 / seconds, 0, 1.1)
        shares[name] = None if share is None else round(min(share, 1.0), 4)  # type: ignore[literal-required]
    return shares


# ------------------------------------------------------------------------------------------------ Xids as they come


class XidWatch:
    """Collects Xids from NVML's events while a run lasts. Needs no root."""

    XID_EVENT = 0x8

    def __init__(self, gauge: Gauge) -> None:
        self.gauge = gauge
        self.found: list[int] = []
        self.events: Any = None
        nvml = gauge.nvml
        with contextlib.suppress(nvml.NVMLError, AttributeError):
            events = nvml.nvmlEventSetCreate()
            nvml.nvmlDeviceRegisterEvents(gauge.handle, self.XID_EVENT, events)
            self.events = events

    def collect(self) -> list[Xid]:
        """What has come since the last call."""
        new: list[Xid] = []
        while self.events is not None:
            try:
                event = self.gauge.nvml.nvmlEventSetWait_v2(self.events, 1)
            except self.gauge.nvml.NVMLError:  # a timeout: no more of them
                break
            number = count(event.eventData)
            if event.eventType & self.XID_EVENT and number is not None:
                new.append(
                    {"xid": number, "at": None, "during_run": True, "own": None, "source": "nvml", "message": None}
                )
        return new
