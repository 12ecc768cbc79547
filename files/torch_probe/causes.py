"""Causes in words: what explains less speed beforehand, what probably lies behind a loss, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch_probe.policy import Policy
from torch_probe.reference import is_mig

Gpu = Mapping[str, Any]

# NVML's clock event reasons. They come combined, so they are only ever tested as bits.
IDLE, LOCKED, SW_POWER, HW_SLOWDOWN, SYNC_BOOST, SW_THERMAL, HW_THERMAL, POWER_BRAKE = (1 << bit for bit in range(8))

NEXT_STEP = "If the cause is not found, run `dcgmi diag -r 3`."
COOLING = "Clean filters and heat sinks, check fans, airflow and inlet temperature; then probe again."
SUPPLY = "Check the power supply, its redundancy and every power cable of this GPU; then probe again."
SEATING = "Reseat the GPU, its riser and cables; try another slot; check the firmware's bifurcation setting."


@dataclass(frozen=True)
class Cause:
    """Why, and what to do about it."""

    words: str
    remedy: str


def part(gpu: Gpu, name: str) -> Mapping[str, Any]:
    """A group of readings; empty where it was not read."""
    found = gpu.get(name)
    return found if isinstance(found, Mapping) else {}


def event_mask(gpu: Gpu) -> int:
    """Every clock event reason that was seen in any window of this GPU."""
    mask = 0
    for row in gpu.get("matmul") or ():
        mask |= int(part(row, "window").get("clock_event_mask_or") or 0)
    return mask


def throttle_share(gpu: Gpu, name: str) -> float | None:
    """The largest share of any window that a reason held; None where the counters were not read."""
    shares = [part(part(row, "window"), "throttle_share").get(name) for row in gpu.get("matmul") or ()]
    known = [float(share) for share in shares if share is not None]
    return max(known) if known else None


def explanation(gpu: Gpu, policy: Policy) -> Cause | None:
    """A known reason for less speed, which is no defect: then efficiency at the clock judges in place of the speed."""
    if is_mig(gpu):
        return Cause("a MIG slice has a share of the GPU", "Nothing, if the slice is wished.")
    power = part(gpu, "power")
    enforced, default = power.get("limit_w"), power.get("default_limit_w")
    if enforced and default and enforced < policy["warn.capped_power"] * default:
        words = f"capped by configuration at {enforced:g} of {default:g} W"
        return Cause(words, f"Nothing, if the cap is wished; else `nvidia-smi -pl {default:g}` as root.")
    if event_mask(gpu) & LOCKED:
        return Cause(
            "its clocks are locked by configuration", "Nothing, if wished; else `nvidia-smi -rgc -rac` as root."
        )
    return busy(gpu, policy)


def busy(gpu: Gpu, policy: Policy) -> Cause | None:
    """Something else that was at work on the GPU when the run began."""
    others = part(gpu, "others")
    share = others.get("sm_utilization") or 0.0
    if not others.get("busy") and share <= policy["warn.busy"]:
        return None
    count = others.get("processes") or 0
    words = (
        f"{count} other process{'' if count == 1 else 'es'} used it" if count else f"something used {share:.0%} of it"
    )
    return Cause(words, "Probe when the GPU is free (`nvidia-smi` lists what runs there).")


def likely_cause(gpu: Gpu, row: Mapping[str, Any] | None = None) -> Cause:
    """What most probably lies behind a low rate that nothing explains, the surest sign first."""
    mask = event_mask(gpu)
    for bit, name, cause in (
        (POWER_BRAKE, "power_brake", Cause("the power supply's brake slowed it", SUPPLY)),
        (HW_THERMAL, "hw_thermal", Cause("the hardware slowed it for heat", COOLING)),
        (HW_SLOWDOWN, "hw_slowdown", Cause("the hardware slowed it (heat or power)", f"{COOLING} {SUPPLY}")),
        (SW_THERMAL, "sw_thermal", Cause("the driver slowed it for heat", COOLING)),
    ):
        if mask & bit or (throttle_share(gpu, name) or 0) > 0:
            return cause
    loss = part(row or {}, "loss")
    clock, kernel = loss.get("clock"), loss.get("kernel")
    if kernel is None:
        return Cause(
            "not known: there is no clock reading", f"Watch `nvidia-smi -q -d PERFORMANCE` under load. {NEXT_STEP}"
        )
    if clock is not None and clock >= kernel:
        words = f"a low clock costs {clock:.0%} (power or heat), the kernel {kernel:.0%}"
        return Cause(
            words, f"Compare power limit, temperature and clocks with an equal GPU (`nvidia-smi -q`). {NEXT_STEP}"
        )
    by_clock = f", {clock:.0%} by the clock" if clock else ""
    words = f"at its clock it does too little ({kernel:.0%} lost{by_clock}): a wrong kernel, a shared GPU or a defect"
    return Cause(words, f"Look for other processes and compare torch versions. {NEXT_STEP}")
