"""The report as text: one screen. One line a GPU, then only the problems, then the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch_probe.common import TOOL, VERSION, plural

Record = Mapping[str, Any]
BAD = ("fail", "error", "pending_reboot", "warn", "explained", "unknown")
# The dtype that a GPU's line shows, the first that was measured.
SHOWN = ("bf16", "fp16", "tf32", "fp32")
MOST_PROBLEMS = 10


def render_text(report: Record) -> str:
    """The whole screen."""
    software, host = report["software"], report["host"]
    torch = f"torch {software['torch']}" if software["torch"] else "no torch"
    driver = f", driver {software['driver']}" if software["driver"] else ""
    lines = [f"{TOOL} {VERSION} {report['tool']['profile']} on {host['hostname']}: {torch}{driver}"]
    lines += [gpu_line(gpu, report["checks"]) for gpu in report["gpus"]]
    if report["cpu"] and report["cpu"]["matmul"]:
        threads = plural(report["cpu"]["threads"], "thread")
        speed = _rates_text(report["cpu"]["matmul"], "gflops")
        lines.append(f"CPU   {host['cpu_model'] or 'unknown model'}  {threads}  {speed} GFLOP/s")
    lines += _problem_lines(report["checks"])
    lines.append(f"{report['status'].upper()}  {report['summary']}  ({report['duration_s']:.1f} s)")
    return "\n".join(lines)


def _rates_text(rows: Sequence[Record], name: str) -> str:
    """`fp32 50.1, bf16 786`; a product that was not timed shows its status."""
    parts = []
    for row in rows:
        value = row[name]["sustained"]
        parts.append(f"{row['dtype']} {value:.3g}" if value is not None else f"{row['dtype']} {row['status'].upper()}")
    return ", ".join(parts)


def gpu_line(gpu: Record, checks: Sequence[Record]) -> str:
    """`GPU0 H200  bf16 786 TFLOP/s  100% of expected | 96% eff @1515 MHz | 698 W 61C | PCIe 5x16 55 GB/s | PASS`."""
    name = str(gpu["name"] or gpu["pci_bus_id"] or "unknown").replace("NVIDIA ", "")
    parts = [part for part in (_speed(gpu), *_load(gpu), _link(gpu), _ecc(gpu, checks)) if part]
    return f"GPU{gpu['index']} {name}  {' | '.join([*parts, gpu['status'].upper()])}"


def _shown(gpu: Record) -> Record | None:
    rows = {row["dtype"]: row for row in reversed(gpu["matmul"])}
    return next((rows[dtype] for dtype in SHOWN if dtype in rows), None)


def _speed(gpu: Record) -> str | None:
    row = _shown(gpu)
    if row is None:
        return None
    value = row["tflops"]["sustained"]
    if value is None:
        return f"{row['dtype']} not timed"
    ratio = (row["ratio"] or {}).get("reference")
    share = f"  {ratio:.0%} of expected" if ratio is not None else ""
    return f"{row['dtype']} {value:.4g} TFLOP/s{share}"


def _load(gpu: Record) -> Iterator[str]:
    row = _shown(gpu) or {}
    window = row.get("window") or {}
    clock = (window.get("sm_clock_mhz") or {}).get("mean") or window.get("sm_clock_spin_mhz")
    efficiency = row.get("efficiency_at_clock")
    if clock:
        yield (f"{efficiency:.0%} eff " if efficiency is not None else "") + f"@{clock:.0f} MHz"
    power, heat = window.get("power_w"), (window.get("temp_c") or {}).get("max")
    words = [f"{power:.0f} W" if power is not None else "", f"{heat:.0f}C" if heat is not None else ""]
    if any(words):
        yield " ".join(word for word in words if word)


def _link(gpu: Record) -> str | None:
    pcie, rate = gpu["pcie"] or {}, (gpu["bandwidth"] or {}).get("h2d_gb_s")
    words = f"PCIe {pcie['gen_under_load'] or '?'}x{pcie['width']}" if pcie.get("width") else ""
    words += f" {rate:.0f} GB/s" if rate is not None else ""
    return words.strip() or None


def _ecc(gpu: Record, checks: Sequence[Record]) -> str | None:
    key = gpu["uuid"] or gpu["pci_bus_id"] or str(gpu["index"])
    found = next((check for check in checks if check["id"] == "memory.ecc" and check["gpu"] == key), None)
    if found is None or found["status"] in ("skipped", "not_run", "unknown"):
        return None
    return f"ECC {'ok' if found['status'] == 'pass' else found['status']}"


def problems(checks: Sequence[Record]) -> list[Record]:
    """What a person has to know, the worst first. Of one GPU's many slow rates only the worst is told."""
    bad = sorted((c for c in checks if c["status"] in BAD and c["remedy"]), key=lambda c: BAD.index(c["status"]))
    slow: dict[str, list[Record]] = {}
    told: list[Record] = []
    for check in bad:
        if check["gpu"] and check["evidence"].get("measured") is not None:
            slow.setdefault(check["gpu"], []).append(check)
        elif not any(check["message"] == other["message"] for other in told):
            told.append(check)
    for rows in slow.values():
        worst = [row for row in rows if row["status"] == rows[0]["status"]]
        first = min(worst, key=lambda row: row["value"] if row["value"] is not None else 1.0)
        told.append({**first, "more": len(rows) - 1})
    return sorted(told, key=lambda check: BAD.index(check["status"]))


def _problem_lines(checks: Sequence[Record]) -> Iterator[str]:
    found = problems(checks)
    for check in found[:MOST_PROBLEMS]:
        more = f" (and {plural(check['more'], 'more such verdict')} on this GPU)" if check.get("more") else ""
        yield f"{check['status'].upper()}  {check['id']}: {check['message']}{more}"
        why = [words for words in (limit_text(check), cause_text(check)) if words]
        if why:
            yield f"      {'; '.join(why)}"
        yield f"      do: {check['remedy']}"
    if len(found) > MOST_PROBLEMS:
        yield f"... and {len(found) - MOST_PROBLEMS} more problems: --json has them all"


def limit_text(check: Record) -> str:
    """`limit: warn 0.95, fail 0.9`."""
    limits = check["limit"] or {}
    return "limit: " + ", ".join(f"{name} {value:g}" for name, value in limits.items()) if limits else ""


def cause_text(check: Record) -> str:
    """`cause: ...`, where one is known or likely."""
    cause = check["evidence"].get("cause")
    return f"cause: {cause}" if cause else ""
