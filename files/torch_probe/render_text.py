"""The report as text: one screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch_probe.common import TOOL, VERSION, plural


def _rates_text(rows: Sequence[Mapping[str, Any]], unit: str) -> str:
    """`fp32 50.1, bf16 786 TFLOP/s`; a product that was not timed shows its status."""
    parts = []
    for row in rows:
        value = row["tflops" if unit == "TFLOP/s" else "gflops"]["sustained"]
        parts.append(f"{row['dtype']} {value:.3g}" if value is not None else f"{row['dtype']} {row['status'].upper()}")
    return ", ".join(parts) + (f" {unit}" if rows else "")


def render_text(report: Mapping[str, Any]) -> str:
    """One line a GPU or the CPU, then only problems with what to do, then the verdict."""
    software, host = report["software"], report["host"]
    torch = f"torch {software['torch']}" if software["torch"] else "no torch"
    driver = f", driver {software['driver']}" if software["driver"] else ""
    lines = [f"{TOOL} {VERSION} {report['tool']['profile']} on {host['hostname']}: {torch}{driver}"]
    for gpu in report["gpus"]:
        memory = gpu["memory_total_bytes"]
        facts = (
            gpu["name"],
            gpu["pci_bus_id"],
            f"cc {gpu['compute_capability']}" if gpu["compute_capability"] else None,
        )
        known = "  ".join(str(fact) for fact in (*facts, f"{memory / 1024**3:.0f} GiB" if memory else None) if fact)
        lines.append(f"GPU{gpu['index']}  {known}  {_rates_text(gpu['matmul'], 'TFLOP/s')}  {gpu['status'].upper()}")
    if report["cpu"] and report["cpu"]["matmul"]:
        threads = plural(report["cpu"]["threads"], "thread")
        speed = _rates_text(report["cpu"]["matmul"], "GFLOP/s")
        lines.append(f"CPU   {host['cpu_model'] or 'unknown model'}  {threads}  {speed}")
    for check in report["checks"]:
        if check["status"] in ("fail", "error", "warn", "unknown", "pending_reboot") and check["remedy"]:
            lines.append(f"{check['status'].upper()}  {check['id']}: {check['message']}")
            lines.append(f"      do: {check['remedy']}")
    lines.append(f"{report['status'].upper()}  {report['summary']}  ({report['duration_s']:.1f} s)")
    return "\n".join(lines)
