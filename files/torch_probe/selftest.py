"""Does the probe notice a fault? Each one is planted into real measurements of this host, and has to turn the verdict.

Where there is no GPU the CPU takes its place, in small; a silent TF32 is the one fault that it cannot play.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Callable

from torch_probe import history, judge
from torch_probe.common import EXIT_CANNOT_RUN, EXIT_FAIL, EXIT_OK, TOOL, VERSION
from torch_probe.facts import Host
from torch_probe.measure import canonical_dtype
from torch_probe.report import Check
from torch_probe.run import Options, Run

BAD = ("warn", "fail")


@dataclass(frozen=True)
class Fault:
    """What is planted, and the checks of which one has to notice it. `{dtype}` is the GPU's canonical one."""

    name: str
    plant: Mapping[str, Any]
    noticed_by: tuple[str, ...]
    needs_gpu: bool = False


FAULTS = (
    Fault("one bit of a result flips now and then", {"flip_bit": True}, ("integrity.repeat",)),
    Fault("one row is larger by a 64th", {"scale_row": True}, ("matmul.{dtype}.correct",)),
    Fault("float32 is computed in TF32", {"force_tf32": True}, ("matmul.fp32.precision",), needs_gpu=True),
    Fault("the GPU is slower", {"drag": 0.15}, ("matmul.{dtype}.history",)),
)
# A GPU repeats itself within 1 %. A CPU that others use does not; there the slow one does a tenth, which no neighbour
# explains.
CPU_DRAG = {"drag": 9.0}


@dataclass(frozen=True)
class Finding:
    """What became of one planted fault: `noticed` is None where it could not be planted."""

    fault: str
    noticed: bool | None
    message: str


@dataclass(frozen=True)
class Trial:
    """One run with its verdict."""

    report: dict[str, Any]

    def worst(self, check_id: str) -> Check | None:
        """The worst row of a check, of any GPU."""
        rows = [check for check in self.report["checks"] if check.id == check_id]
        return min(rows, key=lambda check: judge.ORDER.index(judge.worst([check.status])), default=None)


def run(options: Options) -> Iterator[Finding]:
    """Measure once as it is, then once with each fault."""
    options, on_gpu = _prepare(options)
    past = history.History()
    plain = _trial(options, {}, past)
    gpus = plain.report["gpus"]
    if not any(gpu["matmul"] for gpu in gpus):
        raise RuntimeError(f"nothing could be measured: {plain.report['summary']}")
    for gpu in gpus:
        key = history.key_of(plain.report, gpu)
        if key:
            past.add(key, history.metrics_of(gpu), (gpu["integrity"] or {}).get("digest"))
    dtype = canonical_dtype(gpus[0]["compute_capability"] or "0.0")
    for fault in FAULTS:
        if fault.needs_gpu and not on_gpu:
            yield Finding(fault.name, None, "only a GPU can play it")
            continue
        plant = CPU_DRAG if "drag" in fault.plant and not on_gpu else fault.plant
        yield _look(fault, dtype, plain, _trial(options, plant, past))


def _prepare(options: Options) -> tuple[Options, bool]:
    on_gpu = Host(options.roots, lambda _phase, _on_gpu: None).gpu_count > 0
    # What no fault touches is left out, so that it takes less time.
    wishes = dataclasses.replace(
        options.wishes, profile="quick", drop=frozenset({"bandwidth"}), size=None if on_gpu else 256
    )
    return dataclasses.replace(options, profile="quick", wishes=wishes, stand_in=not on_gpu), on_gpu


def _trial(options: Options, plant: Mapping[str, Any], past: history.History) -> Trial:
    wishes = dataclasses.replace(options.wishes, plant=plant or None)
    made = Run(dataclasses.replace(options, wishes=wishes))
    made.progress(f"self-test: {', '.join(plant) or 'as it is'}")
    made.execute()
    # Against its own run of a moment ago alone: a reference would tell of this host, not of the probe.
    rules = dataclasses.replace(options.rules, reference=None, history=past, profile="quick", strict=False)
    measured = made.measured()
    verdict = judge.verdict(measured, made.look, rules)
    return Trial({**measured, **verdict, "tool": {"profile": "quick"}})


def _look(fault: Fault, dtype: str, plain: Trial, planted: Trial) -> Finding:
    for pattern in fault.noticed_by:
        check_id = pattern.format(dtype=dtype)
        before, after = plain.worst(check_id), planted.worst(check_id)
        if before and before.status in BAD:
            return Finding(fault.name, None, f"{check_id} is {before.status} without it: {before.message}")
        if after and after.status in BAD:
            return Finding(fault.name, True, f"{check_id} {after.status}: {after.message}")
    tried = [planted.worst(pattern.format(dtype=dtype)) for pattern in fault.noticed_by]
    saw = ", ".join(f"{check.id} ({check.status}: {check.message})" for check in tried if check)
    names = ", ".join(pattern.format(dtype=dtype) for pattern in fault.noticed_by)
    return Finding(fault.name, False, f"{saw or names} did not notice it")


def main(options: Options, tell: Callable[[str], None] = print) -> int:
    """Say what was noticed. 0 when every fault that could be planted was, 1 when one was missed, 2 when none could."""
    tell(f"{TOOL} {VERSION} self-test")
    findings = []
    try:
        for finding in run(options):
            findings.append(finding)
            word = {True: "NOTICED", False: "MISSED", None: "SKIPPED"}[finding.noticed]
            tell(f"{word:8} {finding.fault}: {finding.message}")
    except RuntimeError as error:
        tell(f"ERROR    {error}")
        return EXIT_CANNOT_RUN
    results = [finding.noticed for finding in findings]
    missed, noticed = results.count(False), results.count(True)
    code = EXIT_FAIL if missed else EXIT_OK if noticed else EXIT_CANNOT_RUN
    tell(f"{'FAIL' if missed else 'PASS' if noticed else 'ERROR'}  {noticed} of {len(findings)} planted faults noticed")
    return code
