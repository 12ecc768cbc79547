"""The verdict on what is no speed: integrity, throttling, the link, the memory's errors, NVLink, Xids, settings.

A reading that is None was not to be had: its check is `unknown` where it should have been, and left to the plan's
steps where it was not asked for. Wrong results, new errors and hangs fail without appeal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch_probe import causes
from torch_probe.causes import COOLING, SEATING, SUPPLY, part
from torch_probe.common import plural
from torch_probe.history import History
from torch_probe.policy import Policy
from torch_probe.report import Check, Severity, Status

Record = dict[str, Any]

REPLACE = "Take this GPU out of use, run `dcgmi diag -r 3`, and replace it if the fault comes back."
RESET = "Drain the GPU and reset it (`nvidia-smi --gpu-reset`), or reboot; replace it if the error comes back."
# Beyond this multiple of a dtype's ordinary worst error an element is wrong: rounding does not reach it.
ELEMENT_BOUND = 4.0

# NVIDIA's catalogue of Xids, by what has to be done.
XID_RESET = {46, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158}
XID_WORKFLOW = {45, 48, 74, *range(144, 151)}
XID_LOST, XID_POWER, XID_SUPPORT = 79, 54, 142
XID_WARN = {63, 92, 94}
XID_IGNORED = {37, 38, 43, 44, 66, 67, 93, 106, 107, 121, 137, 141, 152, 153, 157, 160, 161}

RECOVERY = {
    "gpu_reset": "Reset the GPU (`nvidia-smi --gpu-reset`).",
    "reboot": "Reboot the host.",
    "system_reboot": "Reboot the host.",
    "bus_reset": "Reset the bus: power the host off and on.",
    "drain_p2p": "End what uses peer-to-peer, then reset the GPU.",
    "drain_and_reset": "Drain the GPU, then reset it.",
    "imex_restart": "Restart the IMEX service (nvidia-imex) on every node of the domain.",
}


class Verdicts:
    """Makes the checks of one GPU; every check is worded in one place."""

    def __init__(self, gpu: Record, policy: Policy, seconds: float) -> None:
        self.gpu, self.policy, self.seconds = gpu, policy, seconds
        self.key = str(gpu.get("uuid") or gpu.get("pci_bus_id") or gpu.get("index"))
        self.who = f"GPU {gpu.get('index')}"

    def good(self, check_id: str, message: str = "ok", value: float | None = None, status: Status = "pass") -> Check:
        """A check with nothing to do about it."""
        return Check(check_id, status, message, gpu=self.key, value=value)

    def bad(
        self,
        check_id: str,
        status: Status,
        message: str,
        remedy: str,
        severity: Severity,
        value: float | None = None,
        limit: dict[str, float] | None = None,
        cause: str | None = None,
    ) -> Check:
        """A check with something to do about it."""
        evidence = {"cause": cause} if cause else {}
        return Check(
            check_id, status, f"{self.who}: {message}", remedy, self.key, severity, value, None, limit, evidence
        )

    def count(
        self, check_id: str, found: int | None, status: Status, what: str, remedy: str, severity: Severity
    ) -> Check:
        """A counter that has to be 0."""
        if found is None:
            return self.good(check_id, f"not told: {what}", status="skipped")
        if found == 0:
            return self.good(check_id, value=0)
        return self.bad(check_id, status, f"{found} {what}", remedy, severity, found, {status: 1})


# ------------------------------------------------------------------------------------------------ integrity


def integrity(v: Verdicts, golden: str | None, key: str | None) -> Iterator[Check]:
    """Truth, repeats, the vote and the digest of earlier runs."""
    data = part(v.gpu, "integrity")
    if not data:
        return
    ratio = data.get("max_elementwise_ratio")
    if ratio is not None:
        words = (
            f"the worst of {data.get('fp64_rows') or 0} rows x all columns errs {ratio:.2g} times the ordinary worst"
        )
        if ratio <= ELEMENT_BOUND:
            yield Check("integrity.truth", "pass", words, None, v.key, "none", ratio, None, {"fail": ELEMENT_BOUND})
        else:
            yield v.bad("integrity.truth", "fail", words, REPLACE, "isolate", ratio, {"fail": ELEMENT_BOUND})
    if data.get("repeat_digests"):
        what = f"of {data['repeat_digests']} repeats differ bit by bit"
        yield v.count("integrity.repeat", data.get("repeat_mismatches"), "fail", what, REPLACE, "isolate")
    yield from _vote_check(v, data.get("vote"))
    yield from _digest_check(v, data.get("digest") if key else None, golden)
    if data.get("memory_test_bytes"):
        tested = f"words of {data['memory_test_bytes'] / 2**30:.1f} GiB read back wrong"
        yield v.count("integrity.memory", data.get("memory_test_errors"), "fail", tested, REPLACE, "replace")
    verified = part(v.gpu, "bandwidth").get("copies_verified")
    if verified is not None:
        if verified:
            yield v.good("integrity.copies", "every copy had the digest of its source")
        else:
            remedy = "Check ACS and IOMMU settings for peer-to-peer, the host's memory, and the GPU."
            yield v.bad("integrity.copies", "fail", "a copy differs from its source", remedy, "isolate")


def _vote_check(v: Verdicts, vote: str | None) -> Iterator[Check]:
    if vote == "alone":
        yield v.good("integrity.vote", "no equal GPU in this host to vote with", status="skipped")
    elif vote == "agree":
        yield v.good("integrity.vote", "its results are bit by bit those of its equals")
    elif vote is not None:
        words = (
            "its results differ bit by bit from those of its equals, which agree"
            if vote == "odd"
            else ("its results and its equal's differ bit by bit, and two cannot tell which is wrong")
        )
        yield v.bad("integrity.vote", "fail", words, REPLACE, "isolate")


def _digest_check(v: Verdicts, digest: str | None, golden: str | None) -> Iterator[Check]:
    if not digest or not golden:
        return
    if digest == golden:
        yield v.good("integrity.history", "the results are bit by bit those of its earlier passes")
    else:
        words = "its results differ bit by bit from those of its earlier passes with the same software"
        yield v.bad("integrity.history", "fail", words, REPLACE, "isolate")


def vote(gpus: Sequence[Record]) -> None:
    """Fill in each GPU's `vote`: equal work on equal GPUs has equal bits; three or more name the odd one."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for gpu in gpus:
        data = gpu.get("integrity")
        if data and data.get("digest"):
            groups.setdefault((gpu.get("name"), gpu.get("sm_count"), data.get("digest_key")), []).append(data)
    for group in groups.values():
        votes = Counter(data["digest"] for data in group)
        winner, count = votes.most_common(1)[0]
        for data in group:
            if len(group) == 1:
                data["vote"] = "alone"
            elif len(votes) == 1:
                data["vote"] = "agree"
            elif 2 * count > len(group):
                data["vote"] = "agree" if data["digest"] == winner else "odd"
            else:
                data["vote"] = "disagree"


# ------------------------------------------------------------------------------------------------ throttling


def throttling(v: Verdicts) -> Iterator[Check]:
    """By the cumulative counters, which miss nothing, and by the sampled bits, whichever is worse."""
    if not any(part(row, "window") for row in v.gpu.get("matmul") or ()):
        return
    mask = causes.event_mask(v.gpu)
    thermal = causes.throttle_share(v.gpu, "sw_thermal")
    limits = {"warn": v.policy["warn.sw_thermal"], "fail": v.policy["fail.sw_thermal"]}
    share = thermal or 0.0
    if share > limits["warn"] or (thermal is None and mask & causes.SW_THERMAL):
        status: Status = "fail" if share > limits["fail"] else "warn"
        words = f"slowed by the driver for heat {share:.0%} of the time" if thermal else "slowed by the driver for heat"
        yield v.bad("throttle.thermal", status, words, COOLING, "monitor", thermal, limits, _heat(v.gpu))
    else:
        yield v.good("throttle.thermal", "not slowed for heat", thermal)
    yield from _hardware(v, mask)
    if mask & causes.LOCKED:
        remedy = "Nothing, if wished; else `nvidia-smi -rgc -rac` as root."
        yield v.bad("throttle.locked", "warn", "its clocks are locked by configuration", remedy, "config")
    else:
        yield v.good("throttle.locked", "its clocks are free")
    power = causes.throttle_share(v.gpu, "sw_power")
    if mask & causes.SW_POWER or power:
        yield v.good("throttle.power", "at its power limit, as a busy GPU is", power, "info")
    else:
        yield v.good("throttle.power", "below its power limit", power)


def _hardware(v: Verdicts, mask: int) -> Iterator[Check]:
    limit = v.policy["fail.hw_slowdown"]
    found, remedies = [], []
    for bit, name, words, remedy in (
        (causes.POWER_BRAKE, "power_brake", "the power supply's brake", SUPPLY),
        (causes.HW_THERMAL, "hw_thermal", "heat", COOLING),
    ):
        share = causes.throttle_share(v.gpu, name) or 0.0
        if share > limit or mask & bit:
            found.append(words + (f" ({share:.1%} of the time)" if share else ""))
            remedies.append(remedy)
    if not found and mask & causes.HW_SLOWDOWN:
        found, remedies = ["heat or power"], [COOLING, SUPPLY]
    if found:
        words = f"slowed by the hardware itself: {' and '.join(found)}"
        heat = _heat(v.gpu) if COOLING in remedies else None
        yield v.bad("throttle.hardware", "fail", words, " ".join(remedies), "isolate", None, {"fail": limit}, heat)
    else:
        yield v.good("throttle.hardware", "the hardware did not brake it")


def _heat(gpu: Record) -> str | None:
    peaks = [part(part(row, "window"), "temp_c").get("max") for row in gpu.get("matmul") or ()]
    known = [peak for peak in peaks if peak is not None]
    return f"the core reached {max(known):.0f} °C" if known else None


# ------------------------------------------------------------------------------------------------ the link


def link(v: Verdicts) -> Iterator[Check]:
    """Width and generation under load against what GPU and slot can do together, and the link's errors."""
    pcie = part(v.gpu, "pcie")
    width, wanted = pcie.get("width"), pcie.get("width_max")
    slot = pcie.get("width_slot_max")
    if width and wanted:
        able = min(int(wanted), int(slot or wanted))
        if width < able:
            words = f"PCIe runs at x{width}, GPU and slot can do x{able}"
            yield v.bad("pcie.width", "fail", words, SEATING, "config", width, {"fail": able}, "a bad contact or riser")
        elif able < wanted:
            words = f"x{width}: all that this slot has, the GPU could do x{wanted}"
            yield v.good("pcie.width", words, width, "info")
        else:
            yield v.good("pcie.width", f"x{width}, all that this GPU has", width)
    generation, system = pcie.get("gen_under_load"), pcie.get("gen_system_max")
    if generation and system:
        device = pcie.get("gen_device_max") or system
        if generation < system:
            words = f"PCIe runs at generation {generation} under load, {system} is possible here"
            yield v.bad("pcie.generation", "warn", words, SEATING, "config", generation, {"warn": system})
        elif system < device:
            words = f"generation {generation}: all that this board has, the GPU could do {device}"
            yield v.good("pcie.generation", words, generation, "info")
        else:
            yield v.good("pcie.generation", f"generation {generation} under load", generation)
    yield from _link_errors(v, pcie)


def _link_errors(v: Verdicts, pcie: Mapping[str, Any]) -> Iterator[Check]:
    fatal = [pcie.get("aer_fatal_delta"), pcie.get("aer_nonfatal_delta")]
    hard = sum(count for count in fatal if count)
    replays, rate = pcie.get("replays_delta"), v.policy["warn.replays_per_s"]
    if hard:
        yield v.bad("pcie.errors", "fail", f"{hard} PCIe errors during the run", SEATING, "isolate", hard, {"fail": 1})
    elif replays and replays > rate * max(v.seconds, 1.0):
        words = f"{replays} PCIe replays in {v.seconds:.0f} s"
        yield v.bad("pcie.errors", "warn", words, SEATING, "monitor", replays, {"warn": rate * max(v.seconds, 1.0)})
    elif replays:
        yield v.good("pcie.errors", f"{replays} PCIe replays", replays, "info")
    elif replays is not None:
        yield v.good("pcie.errors", "no replays", 0)


# ------------------------------------------------------------------------------------------------ memory


def memory(v: Verdicts) -> Iterator[Check]:
    """ECC, remapped rows, retired pages, and what the driver itself recommends."""
    data = part(v.gpu, "memory_health")
    if not data:
        return
    yield _ecc(v, data)
    remap = part(data, "remap")
    if remap.get("failed"):
        words = "a row could not be remapped (NVIDIA's criterion to replace the GPU)"
        yield v.bad("memory.remap", "fail", words, "Replace the GPU (RMA).", "replace")
    elif remap.get("pending"):
        words = "a row waits to be remapped"
        yield v.bad("memory.remap", "warn", words, "Reset the GPU when it is convenient; work may go on.", "reset")
    elif remap.get("banks_none") or remap.get("banks_low"):
        words = "some memory banks have few or no spare rows left"
        yield v.bad("memory.remap", "warn", words, "Plan to replace the GPU.", "monitor")
    elif remap.get("failed") is not None:
        yield v.good("memory.remap", f"{(remap.get('cor') or 0) + (remap.get('unc') or 0)} rows remapped, none pending")
    yield from _pages(v, part(data, "retired_pages"))
    if data.get("inforom_valid") is False:
        words, remedy = "its inforom is corrupted", "Ask the vendor; it can be flashed anew."
        yield v.bad("memory.inforom", "warn", words, remedy, "monitor")
    elif data.get("inforom_valid"):
        yield v.good("memory.inforom")
    action = data.get("recovery_action")
    if action == "none":
        yield v.good("memory.recovery", "the driver recommends nothing")
    elif action:
        remedy = RECOVERY.get(action, f"Do what the driver recommends: {action}.")
        yield v.bad("memory.recovery", "fail", f"the driver recommends: {action.replace('_', ' ')}", remedy, "reset")


def _pages(v: Verdicts, pages: Mapping[str, Any]) -> Iterator[Check]:
    counts = [pages.get("single_bit"), pages.get("double_bit")]
    if all(count is None for count in counts):
        return
    total, limit = sum(count or 0 for count in counts), v.policy["fail.retired_pages"]
    if total >= limit:
        words = f"{total} retired pages"
        yield v.bad("memory.retired", "fail", words, "Replace the GPU (RMA).", "replace", total, {"fail": limit})
    elif pages.get("pending"):
        yield v.bad("memory.retired", "warn", "a page waits to be retired", "Reboot when convenient.", "reset", total)
    else:
        yield v.good("memory.retired", f"{total} retired pages", total)


def _ecc(v: Verdicts, data: Mapping[str, Any]) -> Check:
    check_id = "memory.ecc"
    if data.get("sram_threshold_exceeded"):
        words = "its uncorrectable SRAM errors passed NVIDIA's threshold"
        return v.bad(check_id, "fail", words, "Replace the GPU (RMA).", "replace")
    for name, when in (("ecc_unc_delta", "during the run"), ("ecc_unc_volatile", "since the driver was loaded")):
        if data.get(name):
            words = f"{plural(data[name], 'uncorrectable memory error')} {when}"
            return v.bad(check_id, "fail", words, RESET, "reset", data[name], {"fail": 1})
    if data.get("ecc_unc_aggregate"):
        words = f"{plural(data['ecc_unc_aggregate'], 'uncorrectable memory error')} over its life, none now"
        return v.bad(check_id, "warn", words, "Watch it; replace it if they come back.", "monitor")
    new, rate = data.get("ecc_cor_delta"), v.policy["warn.ecc_corrected_per_min"]
    if new and new > rate * max(v.seconds / 60, 1.0):
        words = f"{plural(new, 'corrected memory error')} in {v.seconds:.0f} s"
        return v.bad(check_id, "warn", words, "Watch it; a stream of them announces a failure.", "monitor", new)
    if new:
        return v.good(check_id, f"{plural(new, 'corrected memory error')} during the run", new, "info")
    if data.get("ecc_mode") is None and data.get("ecc_unc_volatile") is None:
        return v.good(check_id, "this GPU has no ECC", status="skipped")
    if data.get("ecc_mode") is False:
        return v.good(check_id, "ECC is off: memory errors are not counted", status="info")
    if data.get("ecc_unc_volatile") is None:
        return v.good(check_id, "the error counters cannot be read", status="unknown")
    return v.good(check_id, "no memory errors", 0)


# ------------------------------------------------------------------------------------------------ NVLink, Xids


def nvlink(v: Verdicts, equals: Sequence[Record]) -> Iterator[Check]:
    """Links against those of equals, errors over the run, and the fabric."""
    data = part(v.gpu, "nvlink")
    up, expected = data.get("links_up"), data.get("links_expected")
    if expected is None:
        expected = max((part(other, "nvlink").get("links_up") or 0 for other in equals), default=None)
    if up is not None and expected is not None:
        if up < expected:
            words = f"{up} of {expected} NVLinks are up"
            yield v.bad("nvlink.links", "fail", words, f"{RESET} Then check bridge or baseboard.", "reset", up)
        else:
            yield v.good("nvlink.links", f"{up} NVLinks are up", up)
    failed, errors, replays = (data.get(f"{name}_delta") for name in ("recoveries_failed", "errors", "replays"))
    if failed:
        yield v.bad("nvlink.errors", "fail", f"{failed} NVLink recoveries failed", RESET, "reset", failed)
    elif errors or replays:
        words = f"{errors or 0} NVLink errors, {replays or 0} replays during the run"
        yield v.bad("nvlink.errors", "warn", words, "Watch it; check the bridge or baseboard if they go on.", "monitor")
    elif errors is not None:
        yield v.good("nvlink.errors", "no NVLink errors", 0)
    state = data.get("fabric_state")
    if state in (None, "not_supported"):
        return
    if state == "completed" and not data.get("fabric_status"):
        yield v.good("nvlink.fabric", "the NVLink fabric is up")
    else:
        remedy = "Start the Fabric Manager of the driver's version (nvidia-fabricmanager) and read its log."
        yield v.bad("nvlink.fabric", "fail", f"the NVLink fabric is {state}", remedy, "config")


def xids(v: Verdicts, log_read: bool) -> Iterator[Check]:
    """The driver's messages, by what has to be done: those of the run, and those of before where the log is open."""
    found = list(v.gpu.get("xids") or ())
    during = [row for row in found if row.get("during_run")]
    before = [row for row in found if not row.get("during_run")]
    yield _xid_check(v, "xid.run", during) or v.good("xid.run", "no Xid during the run")
    worst = _xid_check(v, "xid.before", before)
    if worst:
        yield worst
    elif log_read:
        yield v.good("xid.before", "no Xid since boot" if not before else "no Xid since boot that matters")
    else:
        yield v.good("xid.before", "the kernel's log cannot be read by this user", status="unknown")


def _xid_check(v: Verdicts, check_id: str, rows: Sequence[Mapping[str, Any]]) -> Check | None:
    ranked: list[tuple[int, Status, int, str, Severity]] = []
    for row in rows:
        status, remedy, severity = judge_xid(int(row["xid"]), bool(row.get("own")))
        ranked.append((("pass", "info", "warn", "fail").index(status), status, int(row["xid"]), remedy, severity))
    if not ranked or max(ranked)[0] == 0:
        return None
    _, status, number, remedy, severity = max(ranked)
    words = f"the driver reports Xid {number}" + (f" and {len(ranked) - 1} more" if len(ranked) > 1 else "")
    if status == "info":
        return v.good(check_id, f"{words}, a fault of another program", number, "info")
    return v.bad(check_id, status, words, remedy, severity, number)


def judge_xid(number: int, own: bool) -> tuple[Status, str, Severity]:
    """Status, remedy and severity of one Xid; a fault that a program causes counts where the program is ours."""
    if number == XID_LOST:
        return "fail", "The GPU fell off the bus: power the machine off and on; check power and seating.", "replace"
    if number == XID_POWER:
        return "fail", SUPPLY, "isolate"
    if number == XID_SUPPORT:
        return "fail", "Contact NVIDIA's support.", "replace"
    if number in XID_RESET:
        return "fail", RESET, "reset"
    if number in XID_WORKFLOW:
        return "fail", f"Follow NVIDIA's Xid catalogue for {number}; drain and reset the GPU first.", "reset"
    if number in XID_WARN:
        return "warn", "Reset the GPU when it is convenient, and watch whether it comes back.", "monitor"
    if number in XID_IGNORED:
        return "pass", "", "none"
    if own:
        return "fail", f"The probe's own kernel raised it: {REPLACE}", "isolate"
    return "info", "", "none"


# ------------------------------------------------------------------------------------------------ settings, training


def settings(v: Verdicts, equals: Sequence[Record]) -> Iterator[Check]:
    """What the GPU is set to: read, never written."""
    power = part(v.gpu, "power")
    limit, default = power.get("limit_w"), power.get("default_limit_w")
    if limit and default:
        if limit < v.policy["warn.capped_power"] * default:
            yield v.good("power.limit", f"capped by configuration at {limit:g} of {default:g} W", limit, "info")
        else:
            yield v.good("power.limit", f"{limit:g} W", limit)
    found = part(v.gpu, "settings")
    if found.get("persistence") is False and found.get("display_active") is False:
        remedy = "Start nvidia-persistenced (role nvidia_driver)."
        words = "persistence mode is off on a GPU without a display: each start is slow"
        yield v.bad("settings.persistence", "warn", words, remedy, "config")
    elif found.get("persistence") is not None:
        yield v.good("settings.persistence", "on" if found["persistence"] else "off, on a GPU with a display")
    cause = causes.busy(v.gpu, v.policy)
    if cause:
        words = f"{cause.words}, so its speed says nothing"
        yield v.bad("settings.exclusive", "warn", words, cause.remedy, "config")
    elif part(v.gpu, "others"):
        yield v.good("settings.exclusive", "nothing else worked on it")
    versions = {str(other["vbios"]) for other in equals if other.get("vbios")}
    if len(versions) > 1:
        others = ", ".join(sorted(versions - {str(v.gpu.get("vbios"))}))
        words = f"VBIOS {v.gpu.get('vbios')}, its equals have {others}"
        yield v.bad("settings.vbios", "warn", words, "Bring equal GPUs to one VBIOS, by the vendor's tool.", "config")
    elif v.gpu.get("vbios") and len(equals) > 1:
        yield v.good("settings.vbios", "the VBIOS of its equals")


def training(v: Verdicts) -> Iterator[Check]:
    """Autocast forward and backward, and `torch.compile`."""
    data = part(v.gpu, "training")
    step = part(data, "autocast")
    if step:
        errors = (step.get("loss_error"), step.get("gradient_error"))
        known = [error for error in errors if error is not None]
        right = bool(step.get("finite")) and step.get("loss_fell") is not False and all(e < 0.05 for e in known)
        if right:
            speed = step.get("steps_per_s")
            yield v.good("training.autocast", f"{speed:.3g} steps/s, right" if speed else "right", speed)
        else:
            words = "a training step under autocast is not right (loss or gradients off, or not finite)"
            yield v.bad("training.autocast", "fail", words, REPLACE, "isolate")
    done = part(data, "compile")
    if done:
        outcome = done.get("outcome")
        if outcome == "done" and (done.get("max_error") is None or done["max_error"] < 0.05):
            yield v.good("training.compile", f"compiled in {done.get('seconds') or 0:.0f} s, and right")
        elif outcome == "done":
            yield v.bad("training.compile", "fail", "a compiled model computes another result", REPLACE, "isolate")
        elif outcome in ("failed", "hang"):
            remedy = "torch.compile needs a C compiler and Triton; read the message, or leave it out."
            words = f"torch.compile does not work: {done.get('message') or outcome}"
            yield v.bad("training.compile", "warn", words, remedy, "config")
        else:
            yield v.good("training.compile", done.get("message") or str(outcome), status="skipped")


def judge(
    gpu: Record,
    gpus: Sequence[Record],
    policy: Policy,
    history: History,
    key: str | None,
    log_read: bool,
    seconds: float,
) -> Iterator[Check]:
    """Yield every check of one GPU that is not on speed."""
    v = Verdicts(gpu, policy, seconds)
    equals = [other for other in gpus if other.get("name") == gpu.get("name")]
    yield from integrity(v, history.digests.get(key) if key else None, key)
    for group in (throttling, link, memory, training):
        rule: Callable[[Verdicts], Iterator[Check]] = group
        yield from rule(v)
    if gpu.get("memory_health") is not None or gpu.get("xids"):  # NVML answered for it
        yield from xids(v, log_read)
    yield from nvlink(v, equals)
    yield from settings(v, equals)


def host(measured: Mapping[str, Any]) -> Iterator[Check]:
    """What is of several GPUs: copies between them, and the all-reduce."""
    pairs = measured.get("p2p")
    remedy = "Check ACS and IOMMU settings: with them peer-to-peer can corrupt silently (`nvidia-smi topo -p2p r`)."
    nvlink = any(part(gpu, "nvlink").get("links_up") for gpu in measured.get("gpus") or ())
    if pairs is None:
        yield _missing(measured, "p2p", "p2p.copies", "fewer than two GPUs, or not in this profile")
    elif pairs.get("verified") is False:
        yield Check("p2p.copies", "fail", "a copy between two GPUs differs from its source", remedy, severity="isolate")
    elif not any(able for row in pairs.get("access") or [] for able in row):
        words = "no GPU here can read another's memory"
        if nvlink:
            yield Check("p2p.copies", "fail", f"{words}, though NVLinks are up", remedy, severity="config")
        else:
            yield Check("p2p.copies", "skipped", f"{words}, as on GeForce")
    elif pairs.get("verified"):
        rates = [rate for row in pairs.get("matrix_gb_s") or [] for rate in row if rate is not None]
        slowest = min(rates, default=None)
        words = f"every copy had the digest of its source, the slowest {slowest or 0:.0f} GB/s"
        yield Check("p2p.copies", "pass", words, value=slowest, unit="GB/s")
    else:
        yield Check("p2p.copies", "not_run", "the copies were not compared with their source")
    nccl = measured.get("nccl")
    if nccl is None:
        yield _missing(measured, "nccl", "nccl.allreduce", "fewer than two GPUs, or not asked for")
    elif nccl.get("verified"):
        best = max((rate for rate in nccl["busbw_gb_s"].values() if rate is not None), default=None)
        words = f"the sums are right, bus bandwidth {best or 0:.0f} GB/s"
        yield Check("nccl.allreduce", "pass", words, value=best, unit="GB/s")
    elif nccl.get("verified") is False:
        words = "an all-reduce over every GPU gave a wrong sum"
        yield Check("nccl.allreduce", "fail", words, f"{remedy} Then run nccl-tests with -c 1.", severity="isolate")
    else:
        yield Check("nccl.allreduce", "not_run", "the sums were not looked at")


def _missing(measured: Mapping[str, Any], name: str, check_id: str, otherwise: str) -> Check:
    """What became of a step that left no data: one that hung or broke is a failure, not a gap."""
    rank = ("skipped", "pending_reboot", "not_run", "unknown", "failed", "hang")
    steps = [step for step in measured.get("steps") or () if step["step"] == name and step["outcome"] in rank]
    if not steps:
        return Check(check_id, "skipped", otherwise)
    worst = max(steps, key=lambda step: rank.index(step["outcome"]))
    message = str(worst["message"] or otherwise)
    if worst["outcome"] in ("failed", "hang"):
        remedy = "Read `dmesg | grep -i -e nvrm -e xid`; then run nccl-tests and `dcgmi diag -r 3`."
        return Check(check_id, "fail", message, remedy, severity="isolate")
    status: Status = worst["outcome"]
    return Check(check_id, status, message)
