"""The verdict on speed: each metric of each GPU against the reference, its equals in the host, and its own past.

The worst of the three wins. A known cause explains a loss (status `explained`); then the efficiency at the clock judges
instead. What is compared are ratios, so `value` and `limit` of these checks have no unit; `evidence` has the figures.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch_probe.causes import Cause, busy, explanation, likely_cause, part
from torch_probe.history import Baseline, History, key_of
from torch_probe.policy import Policy
from torch_probe.reference import HALF_PRECISION, Expectation, Reference, Row, is_mig
from torch_probe.report import Check, Severity, Status

Gpu = dict[str, Any]

# Pinned host copies (GB/s, by PCIe generation, 16 lanes): the floors of Azure's health checks.
LINK_GB_S = {3: 10.0, 4: 21.0, 5: 48.0, 6: 96.0}
COPIES = ("device_copy", "h2d", "d2h")
EFFICIENCY_DTYPES = (*HALF_PRECISION, "fp8")


@dataclass(frozen=True)
class Metric:
    """One rate of one GPU. `row` is the matmul row that it is of; empty for copies."""

    name: str
    unit: str
    value: float
    expected: Expectation | None
    row: dict[str, Any]
    noise: float = 0.0


@dataclass(frozen=True)
class Limits:
    """Shares of what is expected: below `warn` a warning, below `fail` a failure. None: this kind never fails."""

    warn: float
    fail: float | None

    def status(self, ratio: float) -> Status:
        """Written so that NaN is the worst."""
        if ratio >= self.warn:
            return "pass"
        return "warn" if self.fail is None or ratio >= self.fail else "fail"

    def data(self) -> dict[str, float]:
        """As a check holds it."""
        return {"warn": self.warn} if self.fail is None else {"warn": self.warn, "fail": self.fail}


class Speed:
    """All GPUs of one report, judged together, because equals are compared."""

    def __init__(
        self, report: Mapping[str, Any], reference: Reference | None, policy: Policy, history: History
    ) -> None:
        self.report, self.reference, self.policy, self.history = report, reference, policy, history
        self.gpus: list[Gpu] = list(report.get("gpus") or [])
        self.why_row: dict[int, str] = {}
        self.rows: dict[int, Row | None] = {}
        for index, gpu in enumerate(self.gpus):
            self.rows[index], self.why_row[index] = self._find(gpu)
        self.metrics = [self._metrics(index) for index in range(len(self.gpus))]

    # ------------------------------------------------------------------------------------------- what is compared

    def _find(self, gpu: Gpu) -> tuple[Row | None, str]:
        if self.reference is None:
            return None, "the reference was switched off (--no-reference)"
        row, why = self.reference.find(gpu)
        gpu["reference_row"] = (
            {"id": row.id, "confidence": row.data["confidence"], "sources": list(row.data["sources"])} if row else None
        )
        return row, why

    def _metrics(self, index: int) -> dict[str, Metric]:
        gpu, row = self.gpus[index], self.rows[index]
        found = {}
        for dtype, matmul in primary_rows(gpu).items():
            rates = part(matmul, "tflops")
            expected = row.tflops(dtype) if row else None
            if expected and row and is_mig(gpu):
                expected = _slice(expected, gpu, row)
            self._explain(gpu, row, matmul, expected)
            value = rates.get("sustained")
            if value is not None:
                noise = float(matmul.get("noise") or 0.0)
                found[f"matmul.{dtype}"] = Metric(f"matmul.{dtype}", "TFLOP/s", value, expected, matmul, noise)
        copies = part(gpu, "bandwidth")
        for name in COPIES:
            value = copies.get(f"{name}_gb_s")
            if value is not None:
                expected = self._copy_expectation(gpu, row, name)
                found[f"bandwidth.{name}"] = Metric(f"bandwidth.{name}", "GB/s", value, expected, {})
        return found

    def _explain(self, gpu: Gpu, row: Row | None, matmul: dict[str, Any], expected: Expectation | None) -> None:
        """Fill in the row: what was expected, how efficient it was at its clock, and what the loss is due to."""
        value = part(matmul, "tflops").get("sustained")
        clock = _clock(matmul)
        matmul["expected_tflops"] = round(expected.value, 1) if expected else None
        ratio = matmul["ratio"] = {"reference": None, "peers": None, "history": None, "rated": None}
        matmul["efficiency_at_clock"], matmul["loss"] = None, {"clock": None, "kernel": None}
        if value is None:
            return
        if expected:
            ratio["reference"] = round(value / expected.value, 4)
        rated = row.data["dense_tflops"].get(matmul["dtype"]) if row else None
        if rated:
            ratio["rated"] = round(value / rated, 4)
        per_clock = self.reference.flops_per_clock(gpu, matmul["dtype"]) if self.reference else None
        if not (clock and per_clock and gpu.get("sm_count")):
            return
        efficiency = value * 1e12 / (gpu["sm_count"] * per_clock * clock * 1e6)
        matmul["efficiency_at_clock"] = round(efficiency, 4)
        boost = row.data["boost_mhz"] if row else None
        lost = round(max(0.0, 1 - clock / boost), 4) if boost else None
        matmul["loss"] = {"clock": lost, "kernel": round(max(0.0, 1 - efficiency), 4)}

    def _copy_expectation(self, gpu: Gpu, row: Row | None, name: str) -> Expectation | None:
        if name == "device_copy":
            return row.copy_gb_s() if row and not is_mig(gpu) else None
        pcie = part(gpu, "pcie")
        if row and row.data["pcie"] is None:  # NVLink-C2C: what NVML says of a PCIe link there is no measure
            return None
        # The link that is there: that it is narrower or slower than it could be is a check of its own.
        floor, width = LINK_GB_S.get(int(pcie.get("gen_under_load") or 0)), pcie.get("width")
        if floor is None or not width:
            return None
        return Expectation(floor * int(width) / 16, "measured", f"floor of PCIe {pcie['gen_under_load']}x{width}")

    # ------------------------------------------------------------------------------------------- the baselines

    def judge(self) -> Iterator[Check]:
        """Yield the checks of every GPU."""
        for index, gpu in enumerate(self.gpus):
            cause = explanation(gpu, self.policy)
            for metric in self.metrics[index].values():
                found = [
                    self._reference(index, metric, cause),
                    self._peers(index, metric, cause),
                    self._history(index, metric, cause),
                ]
                yield from found
                dtype: str | None = metric.row.get("dtype")
                if dtype:
                    # With no reference in force the efficiency at the clock is the absolute judge.
                    in_force = found[0].status not in ("explained", "skipped", "not_run", "unknown")
                    shared = busy(gpu, self.policy) is not None  # then nothing measured is this GPU's own
                    judges = dtype in EFFICIENCY_DTYPES and not in_force and not shared
                    yield self._efficiency(gpu, metric, judges)
                    yield self._together(gpu, dtype, cause)

    def _reference(self, index: int, metric: Metric, cause: Cause | None) -> Check:
        gpu, check_id = self.gpus[index], f"{metric.name}.reference"
        if metric.expected is None:
            why = self._why_no_expectation(index, metric)
            return Check(
                check_id, "skipped", why, gpu=key(gpu), evidence={"measured": metric.value, "unit": metric.unit}
            )
        limits = self._reference_limits(metric)
        return self._compare(
            gpu,
            metric,
            check_id,
            metric.expected.value,
            f"what {'this GPU model' if metric.row else 'this link or memory'} should give",
            limits,
            None if metric.name.startswith("bandwidth.h") or metric.name == "bandwidth.d2h" else cause,
            {"confidence": metric.expected.confidence, "source": metric.expected.source},
        )

    def _reference_limits(self, metric: Metric) -> Limits:
        assert metric.expected is not None  # noqa: S101 - for mypy; the caller has looked
        policy, confidence = self.policy, metric.expected.confidence
        if confidence == "low":
            return Limits(policy["warn.low"], None)
        if confidence == "derived":
            return Limits(policy["warn.derived"], policy["fail.derived"])
        if not metric.row:
            return Limits(policy["warn.bandwidth"], policy["fail.bandwidth"])
        return Limits(policy["warn.reference"], policy["fail.reference"])

    def _why_no_expectation(self, index: int, metric: Metric) -> str:
        if metric.name == "matmul.fp32":
            return "true float32 has no reference: published figures of one model differ by a third"
        if metric.name in ("bandwidth.h2d", "bandwidth.d2h"):
            return "the PCIe link under load is not known"
        if self.rows[index] is None:
            return f"no reference: {self.why_row[index]}"
        return "the table has no figure for this"

    def _peers(self, index: int, metric: Metric, cause: Cause | None) -> Check:
        gpu, check_id, policy = self.gpus[index], f"{metric.name}.peers", self.policy
        group = [self.metrics[other].get(metric.name) for other in range(len(self.gpus)) if self._equal(index, other)]
        values = [other.value for other in group if other and other.value is not None]
        if len(values) < 2:
            return Check(check_id, "skipped", "no equal GPU in this host to compare with", gpu=key(gpu))
        if len(values) == 2:
            limits, middle = Limits(1 - policy["warn.peers_pair"], None), max(values)
            against = "the other of two equal GPUs"
        else:
            middle = statistics.median(values)
            spread = 1.4826 * statistics.median(abs(value - middle) for value in values)
            sigma = max(spread, policy["floor.peers_sigma"] * middle)
            outlier = middle - metric.value > policy["fail.peers_sigmas"] * sigma
            limits = Limits(1 - policy["warn.peers"], 1 - policy["fail.peers"] if outlier else None)
            against = f"the median of {len(values)} equal GPUs"
        if metric.row and middle > 0:
            metric.row["ratio"]["peers"] = round(metric.value / middle, 4)
        return self._compare(gpu, metric, check_id, middle, against, limits, cause, {"group": len(values)})

    def _equal(self, one: int, other: int) -> bool:
        return all(
            self.gpus[one].get(name) == self.gpus[other].get(name)
            for name in ("name", "sm_count", "memory_total_bytes")
        )

    def _history(self, index: int, metric: Metric, cause: Cause | None) -> Check:
        gpu, check_id, policy = self.gpus[index], f"{metric.name}.history", self.policy
        run_key = key_of(self.report, gpu)
        past = self.history.baseline(run_key, metric.name) if run_key else None
        if past is None:
            why = self.history.problem or "no pass of this GPU with this software and these limits is on record"
            return Check(check_id, "skipped", why, gpu=key(gpu))
        noise = 1 - policy["noise.history"] * max(past.noise, metric.noise)
        limits = Limits(min(policy["warn.history"], noise), min(policy["fail.history"], noise))
        if metric.row and past.median > 0:
            metric.row["ratio"]["history"] = round(metric.value / past.median, 4)
        found = self._compare(
            gpu, metric, check_id, past.median, f"its own median of {_times(past)}", limits, cause, {"best": past.best}
        )
        if found.status == "pass" and metric.value < policy["warn.history_best"] * past.best:
            creep = Limits(policy["warn.history_best"], None)
            against = "the best it ever gave, a slow decline"
            return self._compare(gpu, metric, check_id, past.best, against, creep, cause, {"median": past.median})
        return found

    def _efficiency(self, gpu: Gpu, metric: Metric, judges: bool) -> Check:
        check_id, value = f"{metric.name}.efficiency", metric.row.get("efficiency_at_clock")
        if value is None:
            if not judges:
                return Check(
                    check_id, "skipped", "not known, and not needed: no clock, or no rate for it", gpu=key(gpu)
                )
            why = "not known: the clock under load was not read, or the architecture's rate is not in the table"
            return Check(check_id, "unknown", why, gpu=key(gpu))
        clock = _clock(metric.row)
        words = f"{value:.0%} of what {gpu['sm_count']} SMs can do at {clock:.0f} MHz"
        if not judges:
            return Check(check_id, "info", words, gpu=key(gpu), value=value)
        limits = Limits(self.policy["warn.efficiency"], self.policy["fail.efficiency"])
        status = limits.status(value)
        if status == "pass":
            return Check(check_id, status, words, gpu=key(gpu), value=value, limit=limits.data())
        cause = likely_cause(gpu, metric.row)
        severity: Severity = "isolate" if status == "fail" else "monitor"
        evidence = {"cause": cause.words, "measured": metric.value, "unit": metric.unit}
        return Check(
            check_id,
            status,
            f"{who(gpu)}: {metric.name} does {words}",
            cause.remedy,
            key(gpu),
            severity,
            value,
            None,
            limits.data(),
            evidence,
        )

    def _together(self, gpu: Gpu, dtype: str, cause: Cause | None) -> Check:
        """Alone good and together bad is shared power or cooling; alone bad is this GPU."""
        check_id = f"matmul.{dtype}.together"
        rates = {row.get("mode"): part(row, "tflops").get("sustained") for row in _rows_of(gpu, dtype)}
        alone, together = rates.get("alone"), rates.get("together")
        if not alone or together is None:
            return Check(check_id, "skipped", "not measured both alone and together", gpu=key(gpu))
        limits = Limits(1 - self.policy["warn.together"], 1 - self.policy["fail.together"])
        metric = Metric(f"matmul.{dtype}", "TFLOP/s", together, None, dict(_rows_of(gpu, dtype)[0]))
        shared = Cause("shared power or cooling: it is good alone and slower when all work", f"{COOLING_AND_SUPPLY}")
        return self._compare(
            gpu, metric, check_id, alone, "what it gives alone, while all GPUs work", limits, cause, {}, shared
        )

    def _compare(
        self,
        gpu: Gpu,
        metric: Metric,
        check_id: str,
        expected: float,
        against: str,
        limits: Limits,
        cause: Cause | None,
        evidence: Mapping[str, Any],
        likely: Cause | None = None,
    ) -> Check:
        ratio = metric.value / expected if expected > 0 else 0.0
        figures = f"{metric.value:.4g} of {expected:.4g} {metric.unit}"
        words = f"{ratio:.0%} of {against} ({figures})"
        status, facts = limits.status(ratio), {"measured": metric.value, "expected": expected, "unit": metric.unit}
        facts.update(evidence)
        base = Check(check_id, status, words, gpu=key(gpu), value=round(ratio, 4), limit=limits.data(), evidence=facts)
        if status == "pass":
            return base
        message = f"{who(gpu)}: {metric.name} is {words}"
        found = cause or likely or self._compared_with_equals(gpu, metric) or likely_cause(gpu, metric.row)
        facts["cause"] = found.words
        severity: Severity = "config" if cause else "isolate" if status == "fail" else "monitor"
        status = "explained" if cause else status
        return Check(check_id, status, message, found.remedy, key(gpu), severity, base.value, None, base.limit, facts)

    def _compared_with_equals(self, gpu: Gpu, metric: Metric) -> Cause | None:
        """8 % slower at equal efficiency is hot or short of power; with less efficiency it is broken or shared."""
        if not metric.row:
            return None
        index = next(place for place, other in enumerate(self.gpus) if other is gpu)
        equals = [
            self.metrics[other][metric.name].row
            for other in range(len(self.gpus))
            if other != index and self._equal(index, other) and metric.name in self.metrics[other]
        ]
        clocks = [clock for row in equals if (clock := _clock(row))]
        mine = _clock(metric.row)
        if not mine or not clocks or any_throttle(gpu):
            return None
        theirs = statistics.median(clocks)
        if mine < 0.97 * theirs:
            words = f"a lower clock than its equals ({mine:.0f} against {theirs:.0f} MHz): heat or power"
            return Cause(words, COOLING_AND_SUPPLY)
        words = f"the same clock as its equals ({mine:.0f} MHz) and less done: a defect, or something else on the GPU"
        return Cause(words, "Look for other processes; else take it out of use and run `dcgmi diag -r 3`.")


COOLING_AND_SUPPLY = (
    "Compare temperature, power draw and power limit with its neighbours under load (`nvidia-smi -q -d "
    "TEMPERATURE,POWER,PERFORMANCE`); check airflow, heat sink and power cables."
)


def any_throttle(gpu: Gpu) -> bool:
    """Whether the GPU itself tells of heat or of a power brake."""
    return likely_cause(gpu, {"loss": {}}).words.startswith(("the ", "the power"))


def primary_rows(gpu: Gpu) -> dict[str, dict[str, Any]]:
    """One row a dtype: the one that was measured alone where there are both, because a neighbour cannot spoil it."""
    rows: dict[str, dict[str, Any]] = {}
    for row in gpu.get("matmul") or []:
        if row["dtype"] not in rows or row.get("mode") == "alone":
            rows[row["dtype"]] = row
    return rows


def _rows_of(gpu: Gpu, dtype: str) -> Sequence[Mapping[str, Any]]:
    return [row for row in gpu.get("matmul") or [] if row["dtype"] == dtype]


def _clock(row: Mapping[str, Any]) -> float | None:
    """Mean SM clock of the window: NVML's samples, else the spin kernel's own count."""
    window = part(row, "window")
    mean = part(window, "sm_clock_mhz").get("mean") or window.get("sm_clock_spin_mhz")
    return float(mean) if mean else None


def _slice(expected: Expectation, gpu: Gpu, row: Row) -> Expectation | None:
    """What a MIG slice should give: its share of the SMs."""
    mine, whole = gpu.get("sm_count"), row.data["sm_count"]
    if not mine or not whole:
        return None
    return Expectation(expected.value * mine / whole, "derived", f"{expected.source}, times {mine} of {whole} SMs")


def _times(past: Baseline) -> str:
    return f"{min(past.count, 5)} earlier pass{'' if past.count == 1 else 'es'}"


def key(gpu: Gpu) -> str:
    """What a check's `gpu` names it by."""
    return str(gpu.get("uuid") or gpu.get("pci_bus_id") or gpu.get("index"))


def who(gpu: Gpu) -> str:
    """A GPU in a sentence."""
    return f"GPU {gpu.get('index')}"
