# Copyright: the gpufleet.host contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible filter: compare the probe's reports of a fleet."""

from __future__ import annotations

DOCUMENTATION = r"""
name: probe_compare
short_description: Compare equal GPUs across the hosts of a fleet
version_added: 0.1.0
description:
  - Holds each rate of each GPU against the median of all GPUs of the same name, number of SMs and memory, on all hosts.
    The medians of a fleet are a better reference than any datasheet.
  - The thresholds are those of the probe for equal GPUs in one host (C(files/torch_probe/policy.json)).
author:
  - The gpufleet.host contributors
options:
  _input:
    description:
      - A mapping of host to the registered result of the command that ran the probe with C(--json -). A result without
        a report is a host that could not be measured.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Name the stragglers
  ansible.builtin.debug:
    msg: "{{ ({'gpu01': first, 'gpu02': second} | gpufleet.host.probe_compare).lines }}"
"""

RETURN = r"""
_value:
  description: The fleet's report.
  type: dict
  contains:
    status:
      description: The worst of C(pass), C(skipped), C(pending_reboot), C(warn), C(error), C(fail).
      type: str
    hosts:
      description: A mapping of host to its C(status), C(summary), C(gpus) and the whole C(report).
      type: dict
    models:
      description: For each kind of GPU its C(name), C(count), C(hosts) and C(medians).
      type: list
      elements: dict
    stragglers:
      description: GPUs below the median of their equals - by host, index, metric, ratio, status and known cause.
      type: list
      elements: dict
    problems:
      description: C(status) and C(text) of each host and GPU that is not good, the worst first.
      type: list
      elements: dict
    lines:
      description: All of it for a person.
      type: list
      elements: str
"""

import json
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError

_POLICY = Path(__file__).resolve().parents[2] / "files" / "torch_probe" / "policy.json"
_ORDER = ("pass", "skipped", "pending_reboot", "explained", "warn", "error", "fail")
_COPIES = ("device_copy", "h2d", "d2h")

Report = Mapping[str, Any]
Kind = tuple[Any, ...]


def report_of(result: Any) -> dict[str, Any]:
    """Return the report in a command's output, or one that says why there is none."""
    found = result if isinstance(result, Mapping) else {}
    output = str(found.get("stdout") or "")
    try:
        report = json.loads(output)
        if isinstance(report, dict) and "status" in report:
            return report
    except ValueError:
        pass
    said = str(found.get("stderr") or found.get("msg") or "it said nothing").strip().splitlines()
    summary = (
        f"the probe could not start ({said[-1].rstrip('.')}); torch_probe_python has to name a Python that has torch"
    )
    return {"status": "error", "summary": summary, "gpus": [], "checks": []}


def metrics_of(gpu: Report) -> dict[str, float]:
    """Return the rates that are compared; of two modes the one that was measured alone."""
    found: dict[str, float] = {}
    for row in gpu.get("matmul") or []:
        name, value = f"matmul.{row['dtype']}", (row.get("tflops") or {}).get("sustained")
        if value is not None and (name not in found or row.get("mode") == "alone"):
            found[name] = float(value)
    copies = gpu.get("bandwidth") or {}
    for name in _COPIES:
        if copies.get(f"{name}_gb_s") is not None:
            found[f"bandwidth.{name}"] = float(copies[f"{name}_gb_s"])
    return found


def kind_of(gpu: Report) -> Kind:
    """Return what makes two GPUs equal."""
    return (gpu.get("name"), gpu.get("sm_count"), gpu.get("memory_total_bytes"))


def explanations(report: Report) -> dict[tuple[str, str], str]:
    """Return the known cause of a lower rate, by GPU and metric.

    A cap of one product caps them all; also those that had nothing in their host to be compared with.
    """
    found = {}
    for check in report.get("checks") or []:
        if check["status"] == "explained" and check.get("gpu"):
            metric, cause = check["id"].rpartition(".")[0], str(check["evidence"].get("cause"))
            found[check["gpu"], metric] = cause
            found.setdefault((check["gpu"], metric.partition(".")[0]), cause)
    return found


@dataclass(frozen=True)
class Level:
    """What equal GPUs give: computed once, as a fleet has thousands of them."""

    count: int
    middle: float
    sigma: float


def level_of(values: list[float], policy: Mapping[str, float]) -> Level:
    """Return the value to compare with. Of two one cannot know which is odd, so it is the better one."""
    if len(values) == 2:
        return Level(2, max(values), 0.0)
    middle = statistics.median(values)
    spread = 1.4826 * statistics.median(abs(other - middle) for other in values)
    return Level(len(values), middle, max(spread, policy["floor.peers_sigma"] * middle))


def judge(value: float, level: Level, policy: Mapping[str, float]) -> str:
    """Return the status, as the probe judges equal GPUs in one host."""
    low = level.middle - value
    if level.count == 2:
        return "warn" if low > policy["warn.peers_pair"] * level.middle else "pass"
    if low > policy["fail.peers"] * level.middle and low > policy["fail.peers_sigmas"] * level.sigma:
        return "fail"
    return "warn" if low > policy["warn.peers"] * level.middle else "pass"


def stragglers(reports: Mapping[str, Report], policy: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """Yield every GPU that is below its equals, with each metric."""
    values: dict[tuple[Kind, str], list[float]] = {}
    for report in reports.values():
        for gpu in report.get("gpus") or []:
            for metric, value in metrics_of(gpu).items():
                values.setdefault((kind_of(gpu), metric), []).append(value)
    levels = {key: level_of(numbers, policy) for key, numbers in values.items() if len(numbers) > 1}
    for host, report in reports.items():
        causes = explanations(report)
        for gpu in report.get("gpus") or []:
            for metric, value in metrics_of(gpu).items():
                level = levels.get((kind_of(gpu), metric))
                if level is None or level.middle <= 0:
                    continue
                status = judge(value, level, policy)
                key = str(gpu.get("uuid") or gpu.get("pci_bus_id"))
                cause = causes.get((key, metric)) or causes.get((key, metric.partition(".")[0]))
                if status != "pass":
                    yield {
                        "host": host,
                        "gpu": gpu.get("index"),
                        "uuid": gpu.get("uuid"),
                        "name": gpu.get("name"),
                        "metric": metric,
                        "value": value,
                        "median": level.middle,
                        "ratio": round(value / level.middle, 4),
                        "count": level.count,
                        "status": "explained" if cause else status,
                        "cause": cause,
                    }


def models(reports: Mapping[str, Report]) -> list[dict[str, Any]]:
    """Return the kinds of GPU in the fleet, with the medians of what they do."""
    kinds: dict[Kind, list[tuple[str, Report]]] = {}
    for host, report in reports.items():
        for gpu in report.get("gpus") or []:
            kinds.setdefault(kind_of(gpu), []).append((host, gpu))
    found = []
    for (name, sms, memory), members in kinds.items():
        values: dict[str, list[float]] = {}
        for _, gpu in members:
            for metric, value in metrics_of(gpu).items():
                values.setdefault(metric, []).append(value)
        medians = {metric: round(statistics.median(numbers), 2) for metric, numbers in values.items()}
        hosts = sorted({host for host, _ in members})
        found.append(
            {
                "name": name,
                "sm_count": sms,
                "memory_total_bytes": memory,
                "count": len(members),
                "hosts": hosts,
                "medians": medians,
            }
        )
    return found


def problems(reports: Mapping[str, Report], slow: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return one line for each host that is not good, and for each straggler its slowest rate."""
    found = [
        {"status": report["status"], "text": f"{host}: {report['summary']}"}
        for host, report in reports.items()
        if report["status"] not in ("pass", "skipped")
    ]
    by_gpu: dict[tuple[Any, Any], list[dict[str, Any]]] = {}
    for row in slow:
        by_gpu.setdefault((row["host"], row["gpu"]), []).append(row)
    for (host, gpu), rows in by_gpu.items():
        worst = max(rows, key=lambda row: (_ORDER.index(row["status"]), -row["ratio"]))
        text = f"{host}: GPU {gpu} ({worst['name']}) gives {worst['ratio']:.0%} of the median of {worst['count']} equal"
        text += f" GPUs in the fleet in {worst['metric']} ({worst['value']:.4g} of {worst['median']:.4g})"
        found.append({"status": worst["status"], "text": text + (f": {worst['cause']}" if worst["cause"] else "")})
    return sorted(found, key=lambda problem: -_ORDER.index(problem["status"]))


def policy_of_probe() -> dict[str, float]:
    """Return the thresholds of the probe."""
    rules = json.loads(_POLICY.read_text(encoding="utf-8"))
    return {name: float(rule["value"]) for name, rule in rules.items() if name != "version"}


def probe_compare(results: Any) -> dict[str, Any]:
    """Return the fleet's report."""
    if not isinstance(results, Mapping):
        raise AnsibleFilterError("gpufleet.host.probe_compare needs a mapping of host to a command's result")
    policy = policy_of_probe()
    reports = {str(host): report_of(result) for host, result in results.items()}
    slow = list(stragglers(reports, policy))
    found = problems(reports, slow)
    statuses = [report["status"] for report in reports.values()] + [row["status"] for row in slow if not row["cause"]]
    kinds = models(reports)
    lines = [f"{host}: {report['status'].upper()}  {report['summary']}" for host, report in reports.items()]
    lines += [
        f"{kind['count']} x {kind['name']} on {', '.join(kind['hosts'])}: "
        + ", ".join(f"{metric} {value:g}" for metric, value in kind["medians"].items())
        for kind in kinds
    ]
    # A host's own verdict is said above.
    lines += [f"{row['status'].upper()}  {row['text']}" for row in problems({}, slow)]
    return {
        "status": max(statuses, key=_ORDER.index, default="skipped"),
        "hosts": {
            host: {
                "status": report["status"],
                "summary": report["summary"],
                "gpus": len(report.get("gpus") or []),
                "report": report,
            }
            for host, report in reports.items()
        },
        "models": kinds,
        "stragglers": slow,
        "problems": found,
        "lines": lines,
    }


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filter by its name."""
        return {"probe_compare": probe_compare}
