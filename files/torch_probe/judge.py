"""From what was measured to verdicts: a pure function of the report's data, so that a recorded host is judged alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch_probe.arithmetic import ARITHMETIC
from torch_probe.checks import CATALOGUE, CPU_DTYPES, GPU_DTYPES
from torch_probe.common import EXIT_CANNOT_RUN, EXIT_FAIL, EXIT_OK
from torch_probe.report import Check, CpuMatmul, Gpu, Matmul, Measured, Rates, Status, Step, gpu_key

# ------------------------------------------------------------------------------------------------ from many to one


def is_measurement(check: Check) -> bool:
    """Whether a pass of this check rests on arithmetic that was done, not on a fact that was read."""
    return check.id.startswith(("matmul.", "cpu.matmul.")) and check.id.endswith(".correct")


def overall(checks: Sequence[Check], strict: bool = False) -> tuple[str, int]:
    """Overall status and exit code. The worst wins; `pass` needs a measurement that passed."""
    statuses = {check.status for check in checks}
    if "fail" in statuses or (strict and statuses & {"warn", "unknown", "explained"}):
        return "fail", EXIT_FAIL
    if "error" in statuses:
        return "error", EXIT_CANNOT_RUN
    for status in ("pending_reboot", "warn"):
        if status in statuses:
            return status, EXIT_OK
    if any(is_measurement(check) and check.status == "pass" for check in checks):
        return "pass", EXIT_OK
    return "skipped", EXIT_OK


def worst(statuses: Iterable[Status]) -> Status:
    """Status of one GPU or one dtype from those of its checks; `info` says nothing about health."""
    order: tuple[Status, ...] = ("fail", "error", "unknown", "warn", "not_run", "pass", "skipped")
    found = set(statuses)
    return next((status for status in order if status in found), "not_run")


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
    parts = {"correct": base, "precision": base, "throughput": idle, "reference": idle}
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
        parts["reference"] = replace(idle, message="no reference data yet")
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
STEP_REMEDY = "Read `dmesg | grep -i -e nvrm -e xid`; for deeper tests run `dcgmi diag -r 3`."


def judge_measured(measured: Measured) -> list[Check]:
    """Every verdict on what was measured, and a row for each check of the catalogue that could not be judged.

    Fills the `status` fields of the data as well.
    """
    checks: list[Check] = []
    for gpu in measured["gpus"]:
        mine = list(_gpu_checks(gpu, measured["steps"]))
        # That there is no reference yet is no verdict on the GPU.
        gpu["status"] = worst(check.status for check in mine if not check.id.endswith(".reference"))
        checks += mine
    if not measured["gpus"]:
        checks += _whole_step(measured["steps"], "gpu", "matmul.")
    for row in measured["cpu"]["matmul"] if measured["cpu"] else []:
        mine = product_checks(row, "the CPU", None)
        row["status"] = worst(check.status for check in mine)
        checks += mine
    return checks + _cpu_rest(measured, {check.id for check in checks})


def _gpu_checks(gpu: Gpu, steps: Sequence[Step]) -> Iterator[Check]:
    key = gpu_key(gpu)
    if any(step["gpu"] is None and step["step"] == "gpu" for step in steps):
        yield from _whole_step(steps, "gpu", "matmul.", key)
        return
    for dtype in GPU_DTYPES:
        rows = [row for row in gpu["matmul"] if row["dtype"] == dtype]
        if rows:
            checks = product_checks(rows[-1], f"GPU {gpu['index']}", key)
            rows[-1]["status"] = worst(check.status for check in checks if not check.id.endswith(".reference"))
            yield from checks
            continue
        step = next((step for step in steps if step["gpu"] == key and step["step"] == f"matmul.{dtype}"), None)
        yield from _unjudged(step, f"matmul.{dtype}.", key)


def _unjudged(step: Step | None, prefix: str, key: str | None) -> Iterator[Check]:
    """Rows for the checks that have no data: the step's outcome on the first of them, `not_run` on the others."""
    ids = [check_id for check_id in CATALOGUE if check_id.startswith(prefix)]
    message = (step["message"] if step else None) or "the probe stopped before"
    status = OUTCOMES.get(step["outcome"] if step else "not_run", "not_run")
    bad = status in ("fail", "unknown")
    for place, check_id in enumerate(ids):
        if bad and place:
            yield Check(check_id, "not_run", "the product did not run", gpu=key)
        else:
            remedy, severity = (STEP_REMEDY, "isolate") if bad else (None, "none")
            yield Check(check_id, status, message, remedy, key, severity)  # type: ignore[arg-type]


def _whole_step(steps: Sequence[Step], name: str, prefix: str, key: str | None = None) -> Iterator[Check]:
    step = next((step for step in steps if step["gpu"] is None and step["step"] == name), None)
    yield from _unjudged(step, prefix, key)


def _cpu_rest(measured: Measured, judged: set[str]) -> list[Check]:
    rest: list[Check] = []
    for dtype in CPU_DTYPES:
        prefix = f"cpu.matmul.{dtype}."
        if not any(check_id.startswith(prefix) for check_id in judged):
            own = f"cpu.matmul.{dtype}"
            name = own if any(step["step"] == own for step in measured["steps"]) else "cpu"
            rest += _whole_step(measured["steps"], name, prefix)
    return rest


def summary(measured: Measured, checks: Sequence[Check], status: str) -> str:
    """The verdict in one sentence."""
    telling = ("fail", "error", "pending_reboot", "warn")
    bad = [check for check in checks if check.status == status and status in telling]
    if bad:
        more = len({check.id for check in bad}) - 1
        rest = f" (and {more} more)" if more and status in ("fail", "error", "warn") else ""
        return bad[0].message + rest
    if status == "fail":
        judged = [check for check in checks if check.status in ("warn", "unknown", "explained")]
        return f"--strict: {judged[0].message}"
    count = len(measured["gpus"])
    if any(gpu["matmul"] for gpu in measured["gpus"]):
        return (
            f"{count} GPU{'' if count == 1 else 's'} computed right; speed is reported, not judged (no reference data)"
        )
    why = next((check.message for check in checks if check.id == "gpu.present"), "no GPU was looked for")
    return f"the CPU computed right; {why}" if status == "pass" else f"nothing was measured; {why}"


def verdict(measured: Measured, look: Sequence[Check], strict: bool) -> dict[str, Any]:
    """The report's `status`, `exit_code`, `summary` and `checks`; `look` are the checks made before measuring."""
    checks = [*look, *judge_measured(measured)]
    checks.sort(key=lambda check: list(CATALOGUE).index(check.id))
    status, code = overall(checks, strict)
    return {"status": status, "exit_code": code, "summary": summary(measured, checks, status), "checks": checks}
