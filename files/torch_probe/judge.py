"""From what was measured to verdicts: a pure function of the report's data, so that a recorded host is judged alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from torch_probe import beside, health, history, policy, reference
from torch_probe.arithmetic import ARITHMETIC
from torch_probe.checks import CATALOGUE, CPU_DTYPES, GPU_CHECKS, GPU_DTYPES
from torch_probe.common import EXIT_CANNOT_RUN, EXIT_FAIL, EXIT_OK, plural
from torch_probe.report import Check, CpuMatmul, Gpu, Matmul, Measured, Rates, Status, Step, gpu_key
from torch_probe.verdict import Speed


@dataclass(frozen=True)
class Rules:
    """What the judge holds the data against."""

    policy: policy.Policy = field(default_factory=policy.load)
    reference: reference.Reference | None = field(default_factory=reference.load)
    history: history.History = field(default_factory=history.History)
    strict: bool = False
    profile: str = "quick"

    def describe(self) -> dict[str, Any]:
        """The report's `policy` and `reference`."""
        table = self.reference
        return {
            "policy": {"source": self.policy.source, "version": None, "sha256": self.policy.sha256},
            "reference": table and {"source": table.source, "version": table.version, "sha256": table.sha256},
        }


# ------------------------------------------------------------------------------------------------ from many to one


# What --strict takes for a failure: whatever is neither good nor left out on purpose.
STRICT = {"warn", "unknown", "explained", "not_run"}


def is_measurement(check: Check) -> bool:
    """Whether a pass of this check rests on arithmetic that was done, not on a fact that was read."""
    return check.id.startswith(("matmul.", "cpu.matmul.")) and check.id.endswith(".correct")


def overall(checks: Sequence[Check], strict: bool = False) -> tuple[str, int]:
    """Overall status and exit code. The worst wins; `pass` needs a measurement that passed."""
    statuses = {check.status for check in checks}
    if "fail" in statuses or (strict and statuses & STRICT):
        return "fail", EXIT_FAIL
    if "error" in statuses:
        return "error", EXIT_CANNOT_RUN
    for status in ("pending_reboot", "warn"):
        if status in statuses:
            return status, EXIT_OK
    if any(is_measurement(check) and check.status == "pass" for check in checks):
        return "pass", EXIT_OK
    return "skipped", EXIT_OK


ORDER: tuple[Status, ...] = ("fail", "error", "unknown", "warn", "pending_reboot", "not_run", "pass", "skipped")


def worst(statuses: Iterable[Status]) -> Status:
    """Status of one GPU or one dtype from those of its checks; `info` says nothing about health."""
    found = set(statuses)
    return next((status for status in ORDER if status in found), "not_run")


# ------------------------------------------------------------------------------------------------ one product

WRONG_REMEDY = {
    "cpu": "Do not compute on this host: test its memory (memtester, EDAC counters) and CPU, and reinstall torch.",
    "gpu": "Take this GPU out of use and run `dcgmi diag -r 3`; replace it if the fault comes back.",
}
PRECISION_REMEDY = {
    "cpu": "Unset ONEDNN_DEFAULT_FPMATH_MODE and DNNL_DEFAULT_FPMATH_MODE: they lower the precision of float32.",
    "gpu": "Unset NVIDIA_TF32_OVERRIDE and TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, then probe again.",
}


def product_checks(row: Matmul | CpuMatmul, who: str, gpu: str | None) -> list[Check]:
    """The verdicts on one product, for the CPU (`gpu` None) and for a GPU alike."""
    place = "gpu" if gpu else "cpu"
    dtype, why = row["dtype"], row["why"]
    prefix = f"matmul.{dtype}" if gpu else f"cpu.matmul.{dtype}"
    high = ARITHMETIC[dtype].high
    base = Check("", "pass", why, gpu=gpu, value=row["rel_error"], limit={"fail": high})
    idle = Check("", "not_run", "no speed of a wrong result", gpu=gpu)
    parts = {"correct": base, "precision": base, "throughput": idle}
    rates: Rates = row["tflops"] if "tflops" in row else row["gflops"]  # type: ignore[typeddict-item]
    speed = rates["sustained"]
    if not row["correct"]:
        message = f"{who}: the {dtype} matrix product is wrong: {why}"
        parts["correct"] = replace(base, status="fail", message=message, remedy=WRONG_REMEDY[place], severity="isolate")
        parts["precision"] = idle
    elif not row["precision_verified"]:
        # A higher precision than asked for is right but no measurement of what its name says.
        lower = row["rel_error"] is not None and row["rel_error"] > high
        message = f"{who}: {dtype} was asked for; {why}"
        parts["precision"] = replace(
            base,
            status="fail" if lower else "warn",
            message=message,
            remedy=PRECISION_REMEDY[place],
            severity="config",
        )
    elif speed is not None:
        unit = "TFLOP/s" if gpu else "GFLOP/s"
        parts["throughput"] = Check("", "info", f"{speed:.4g} {unit}", gpu=gpu, value=speed, unit=unit)
    return [replace(check, id=f"{prefix}.{part}") for part, check in parts.items() if f"{prefix}.{part}" in CATALOGUE]


# ------------------------------------------------------------------------------------------------ the whole host

OUTCOMES: dict[str, Status] = {
    "skipped": "skipped",
    "not_run": "not_run",
    "unknown": "unknown",
    "failed": "fail",
    "hang": "fail",
    "pending_reboot": "pending_reboot",
}
HANG_REMEDY = "Read `dmesg | grep -i xid`; a GPU that hangs needs a reset or a reboot. Then run `dcgmi diag -r 3`."
STEP_REMEDY = "Read `dmesg | grep -i -e nvrm -e xid`; for deeper tests run `dcgmi diag -r 3`."


def judge_measured(measured: Measured, rules: Rules) -> list[Check]:
    """Every verdict on what was measured, and a row for each check of the catalogue that could not be judged.

    Fills the `status` fields of the data as well, and what else is the judge's.
    """
    checks: list[Check] = []
    gpus = cast("list[dict[str, Any]]", measured["gpus"])
    report = {**measured, "tool": {"profile": rules.profile}}
    health.vote(gpus)
    speed = list(Speed(report, rules.reference, rules.policy, rules.history).judge())
    log_read = measured["host"].get("kernel_log") == "read"
    for gpu, record in zip(measured["gpus"], gpus):
        mine = list(_products(gpu))
        mine += [check for check in speed if check.gpu == gpu_key(gpu)]
        seconds = sum(row["window"]["seconds"] or 0.0 for row in gpu["matmul"] if row["window"])
        key = history.key_of(report, record)
        mine += health.judge(record, gpus, rules.policy, rules.history, key, log_read, seconds)
        mine.append(_complete(gpu, measured["steps"]))
        mine += _rest(mine, gpu, measured["steps"])
        gpu["status"] = _gpu_status(mine)
        for row in gpu["matmul"]:
            row["status"] = worst(_telling(check for check in mine if check.id.startswith(f"matmul.{row['dtype']}.")))
        checks += mine
    if not gpus:
        checks += _rest([], None, measured["steps"])
    checks += health.host(cast("dict[str, Any]", measured))
    for cpu_row in measured["cpu"]["matmul"] if measured["cpu"] else []:
        mine = product_checks(cpu_row, "the CPU", None)
        cpu_row["status"] = worst(check.status for check in mine)
        checks += mine
    return checks + _cpu_rest(measured, {check.id for check in checks})


def _telling(checks: Iterable[Check]) -> Iterator[Status]:
    """What counts for a GPU: whatever is bad, and whether it computed. That a reading was not to be had does not."""
    for check in checks:
        if check.status in ("fail", "error", "warn", "pending_reboot") or check.id.endswith(".correct"):
            yield check.status


def _gpu_status(checks: Sequence[Check]) -> Status:
    return worst(_telling(checks))


def _products(gpu: Gpu) -> Iterator[Check]:
    """Right and precise, for each dtype: of two modes the worse, because one wrong result is enough."""
    for dtype in GPU_DTYPES:
        rows = [row for row in gpu["matmul"] if row["dtype"] == dtype]
        if rows:
            alone_first = sorted(rows, key=lambda row: row["mode"] != "alone")
            found = [product_checks(row, f"GPU {gpu['index']}", gpu_key(gpu)) for row in alone_first]
            yield from min(found, key=lambda checks: ORDER.index(worst(check.status for check in checks)))


def _complete(gpu: Gpu, steps: Sequence[Step]) -> Check:
    """Whether every step of the plan came to its end on this GPU."""
    key = gpu_key(gpu)
    mine = [step for step in steps if step["gpu"] == key]
    for outcome, status in (("hang", "fail"), ("failed", "fail"), ("unknown", "unknown"), ("not_run", "not_run")):
        bad = [step for step in mine if step["outcome"] == outcome]
        if not bad:
            continue
        first = bad[0]["message"] or f"{bad[0]['step']}: {outcome}"
        words = first + (f" (and {len(bad) - 1} more steps)" if len(bad) > 1 else "")
        if status != "fail":
            return Check("steps.complete", cast("Status", status), words, gpu=key)
        severity: Any = "reset" if outcome == "hang" else "isolate"
        return Check("steps.complete", "fail", words, HANG_REMEDY if outcome == "hang" else STEP_REMEDY, key, severity)
    whole = next((step for step in steps if step["gpu"] is None and step["step"] == "gpu"), None)
    if whole:
        return Check("steps.complete", OUTCOMES.get(whole["outcome"], "not_run"), whole["message"] or "-", gpu=key)
    if not mine:
        return Check("steps.complete", "not_run", "the probe stopped before", gpu=key)
    done = sum(step["outcome"] == "done" for step in mine)
    return Check("steps.complete", "pass" if done else "skipped", f"{plural(done, 'step')} done", gpu=key)


# Read from the management library, beside the measuring: without it they are unknown.
READ = ("memory.", "pcie.", "nvlink.", "throttle.", "settings.", "power.", "xid.")


# Checks whose data come from a step of another name.
SOURCES = {
    "bandwidth.device_copy": "bandwidth.device",
    "bandwidth.h2d": "bandwidth.host",
    "bandwidth.d2h": "bandwidth.host",
    "integrity.copies": "bandwidth.host",
    "integrity.memory": "memory_test",
}


def _rest(judged: Sequence[Check], gpu: Gpu | None, steps: Sequence[Step]) -> Iterator[Check]:
    """Rows for the checks that have no data: what became of their step. Nothing that did not run is a pass."""
    key = gpu_key(gpu) if gpu else None
    present = {check.id for check in judged}
    mine = [step for step in steps if step["gpu"] in (key, None)]
    told: set[str] = set()
    for check_id in GPU_CHECKS:
        if check_id in present:
            continue
        step = _step_of(check_id, mine)
        if step is None:
            measured = bool(gpu and gpu["matmul"])
            status: Status = "unknown" if measured and check_id.startswith(READ) else "not_run"
            yield Check(check_id, status, "NVML did not tell it" if status == "unknown" else "not measured", gpu=key)
            continue
        message = step["message"] or "not measured"
        status = OUTCOMES.get(step["outcome"], "skipped")
        if step["outcome"] == "done":
            yield Check(check_id, "skipped", "this GPU or driver does not tell it", gpu=key)
        elif status not in ("fail", "unknown"):
            yield Check(check_id, status, message, gpu=key)
        elif check_id.endswith(".correct") and step["step"] not in told:
            told.add(step["step"])
            yield Check(check_id, status, message, STEP_REMEDY, key, "isolate")
        else:
            yield Check(check_id, "not_run", f"{step['step']} did not come to its end", gpu=key)


def _step_of(check_id: str, steps: Sequence[Step]) -> Step | None:
    """The step that a check's data come from: the longest name that the id begins with, else the GPU as a whole."""
    source = next((SOURCES[part] for part in SOURCES if check_id.startswith(part)), check_id)
    found = [step for step in steps if f"{source}.".startswith(f"{step['step']}.")]
    found = found or [step for step in steps if step["step"] == "gpu"]
    rank = list(OUTCOMES)
    return max(found, key=lambda step: (len(step["step"]), step["outcome"] in rank), default=None)


def _whole_step(steps: Sequence[Step], name: str, prefix: str) -> Iterator[Check]:
    step = next((step for step in steps if step["gpu"] is None and step["step"] == name), None)
    message = (step["message"] if step else None) or "the probe stopped before"
    status = OUTCOMES.get(step["outcome"] if step else "not_run", "not_run")
    for check_id in CATALOGUE:
        if check_id.startswith(prefix):
            yield Check(check_id, status, message)


def _cpu_rest(measured: Measured, judged: set[str]) -> list[Check]:
    rest: list[Check] = []
    for dtype in CPU_DTYPES:
        prefix = f"cpu.matmul.{dtype}."
        if not any(check_id.startswith(prefix) for check_id in judged):
            own = f"cpu.matmul.{dtype}"
            name = own if any(step["step"] == own for step in measured["steps"]) else "cpu"
            rest += _whole_step(measured["steps"], name, prefix)
    return rest


# The cause before its effects: a summary names the first.
TELLING = ("gpu.", "software.", "steps.", "integrity.", "xid.", "memory.", "throttle.hardware", "throttle.", "nvlink.")


def _weight(check: Check) -> tuple[bool, int]:
    wrong = check.id.endswith((".correct", ".precision"))
    place = next((number for number, prefix in enumerate(TELLING) if check.id.startswith(prefix)), len(TELLING))
    return not wrong, place


def summary(measured: Measured, checks: Sequence[Check], status: str) -> str:
    """The verdict in one sentence."""
    telling = ("fail", "error", "pending_reboot", "warn")
    bad = sorted((check for check in checks if check.status == status and status in telling), key=_weight)
    gpus = measured["gpus"]
    if bad:
        more = len({check.id for check in bad}) - 1
        rest = f" (and {more} more)" if more and status in ("fail", "error", "warn") else ""
        counts = Counter(gpu["status"] for gpu in gpus)
        several = len(gpus) > 1 and bad[0].gpu is not None
        before = f"{len(gpus)} GPUs: {', '.join(f'{n} {name}' for name, n in counts.items())}; " if several else ""
        return before + bad[0].message + rest
    if status == "fail":
        judged = [check for check in checks if check.status in STRICT]
        return f"--strict: {judged[0].id}: {judged[0].message}"
    if any(gpu["matmul"] for gpu in gpus):
        baselines = [check for check in checks if check.id.startswith("matmul.") and check.id.endswith(BASELINES)]
        explained = next((check.evidence["cause"] for check in baselines if check.status == "explained"), None)
        speed = "; there is nothing yet to compare its speed with"
        if explained:
            speed = f"; slower for a known cause: {explained}"
        elif any(check.status == "pass" for check in baselines):
            speed = f" and as fast as {'it' if len(gpus) == 1 else 'they'} should"
        return f"{plural(len(gpus), 'GPU')} computed right{speed}"
    why = next((check.message for check in checks if check.id == "gpu.present"), "no GPU was looked for")
    return f"the CPU computed right; {why}" if status == "pass" else f"nothing was measured; {why}"


BASELINES = (".reference", ".peers", ".history", ".efficiency")


def verdict(measured: Measured, look: Sequence[Check], rules: Rules) -> dict[str, Any]:
    """The report's `status`, `exit_code`, `summary` and `checks`; `look` are the checks made before measuring."""
    place = {check_id: number for number, check_id in enumerate(CATALOGUE)}
    found = [*look, *judge_measured(measured, rules)]
    if all(check.id != beside.CHECK for check in found):
        found.append(Check(beside.CHECK, "skipped", "no other place was named (--beside)"))
    checks = sorted(found, key=lambda check: place[check.id])
    status, code = overall(checks, rules.strict)
    return {
        "status": status,
        "exit_code": code,
        "summary": summary(measured, checks, status),
        **rules.describe(),
        "checks": checks,
    }
