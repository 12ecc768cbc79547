"""The report as a text file for node_exporter's textfile collector."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

STATUSES = ("pass", "warn", "fail", "skipped", "pending_reboot", "error")
COPIES = ("device_copy", "h2d", "d2h", "bidir", "far_numa_h2d", "all_gpus_h2d")


def render_prometheus(report: Mapping[str, Any]) -> str:
    """Every series with its help. A status is a label, so a skip can never be read as a pass."""
    return _render([({}, report)])


def render_prometheus_fleet(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """The same of every host, with its name as the label `host`. A host that nobody measured has no rates."""
    return _render([({"host": host}, report) for host, report in reports.items()])


def _render(reports: Sequence[tuple[Mapping[str, str], Mapping[str, Any]]]) -> str:
    lines: list[str] = []
    for name, about, series_of in (
        ("status", "Overall verdict: 1 for the one that holds.", _statuses),
        ("check", "One verdict of the last run.", _checks),
        ("gpu_info", "A GPU, as labels.", _infos),
        ("matmul_tflops", "Matrix product in 10^12 operations a second.", _matmul),
        ("matmul_ratio", "Sustained rate over a baseline.", _ratios),
        ("bandwidth_gb_s", "Copies in 10^9 bytes a second.", _copies),
        ("duration_seconds", "How long the last run took.", _duration),
        ("timestamp_seconds", "When the last run began.", _timestamp),
    ):
        rows = [
            f"gpu_probe_{name}{_labels({**whose, **labels})} {value:.10g}"
            for whose, report in reports
            for labels, value in series_of(report)
        ]
        if rows:
            lines += [f"# HELP gpu_probe_{name} {about}", f"# TYPE gpu_probe_{name} gauge", *rows]
    return "\n".join(lines) + "\n"


Series = Iterator[tuple[Mapping[str, Any], float]]


def _statuses(report: Mapping[str, Any]) -> Series:
    for status in STATUSES:
        yield {"status": status, "profile": report["tool"]["profile"]}, float(report["status"] == status)


def _checks(report: Mapping[str, Any]) -> Series:
    for check in report["checks"]:
        yield {"id": check["id"], "gpu": check["gpu"] or "", "status": check["status"]}, 1.0


def _infos(report: Mapping[str, Any]) -> Series:
    for gpu in report["gpus"]:
        yield {"gpu": _key(gpu), "name": gpu["name"] or "", "pci_bus_id": gpu["pci_bus_id"] or ""}, 1.0


def _matmul(report: Mapping[str, Any]) -> Series:
    for gpu in report["gpus"]:
        for row in gpu["matmul"]:
            for kind in ("sustained", "burst"):
                if row["tflops"][kind] is not None:
                    labels = {"gpu": _key(gpu), "dtype": row["dtype"], "mode": row["mode"], "kind": kind}
                    yield labels, row["tflops"][kind]


def _ratios(report: Mapping[str, Any]) -> Series:
    for gpu in report["gpus"]:
        for row in gpu["matmul"]:
            for baseline, value in (row["ratio"] or {}).items():
                if value is not None:
                    labels = {"gpu": _key(gpu), "dtype": row["dtype"], "mode": row["mode"], "baseline": baseline}
                    yield labels, value


def _copies(report: Mapping[str, Any]) -> Series:
    for gpu in report["gpus"]:
        for path in COPIES:
            value = (gpu["bandwidth"] or {}).get(f"{path}_gb_s")
            if value is not None:
                yield {"gpu": _key(gpu), "path": path}, value


def _duration(report: Mapping[str, Any]) -> Series:
    if report["duration_s"] is not None:
        yield {}, report["duration_s"]


def _timestamp(report: Mapping[str, Any]) -> Series:
    if report["started_at"] is not None:
        yield {}, _seconds(report["started_at"])


def _key(gpu: Mapping[str, Any]) -> str:
    return str(gpu["uuid"] or gpu["pci_bus_id"] or gpu["index"])


def _seconds(time: str) -> float:
    moment = datetime.datetime.strptime(time, "%Y-%m-%dT%H:%M:%SZ")
    return moment.replace(tzinfo=datetime.timezone.utc).timestamp()


def _labels(labels: Mapping[str, Any]) -> str:
    """A label's value has its backslashes, quotes and line ends escaped."""
    words = []
    for name, value in labels.items():
        text = str(value).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        words.append(f'{name}="{text}"')
    return "{" + ",".join(words) + "}" if words else ""
