"""A GPU's own past: the passes of each GPU, bounded, in one file that survives a torn write and an older version."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HISTORY_VERSION = 1
LAST = 5
# Passes kept for one GPU under one key; the best ever is kept beside them.
KEPT = 20
# GPUs and keys kept, the most recent ones: a host's GPUs under some years of driver and torch versions.
KEYS = 256


@dataclass(frozen=True)
class Baseline:
    """What a metric of this GPU was, under the same software and limits."""

    median: float
    best: float
    noise: float
    count: int


@dataclass
class History:
    """`runs[uuid|key][metric]` is {values, best}; `order` is from the oldest key to the newest."""

    runs: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    problem: str | None = None

    def baseline(self, key: str, metric: str) -> Baseline | None:
        """None where this GPU has no pass under this key."""
        entry = self.runs.get(key, {}).get(metric)
        if not entry:
            return None
        last = entry["values"][-LAST:]
        median = statistics.median(last)
        noise = statistics.pstdev(last) / median if len(last) > 1 and median > 0 else 0.0
        return Baseline(median, max(entry["best"], *last), noise, len(entry["values"]))

    def add(self, key: str, metrics: Mapping[str, float], digest: str | None = None) -> None:
        """Keep one more pass; the key moves to the end."""
        known = self.runs.pop(key, {})
        for metric, value in metrics.items():
            entry = known.setdefault(metric, {"values": [], "best": value})
            entry["values"] = [*entry["values"], value][-KEPT:]
            entry["best"] = max(entry["best"], value)
        self.runs[key] = known
        if digest:
            self.digests[key] = digest
        for old in list(self.runs)[:-KEYS]:
            del self.runs[old]
            self.digests.pop(old, None)

    def document(self) -> str:
        """As the file holds it."""
        body = {"version": HISTORY_VERSION, "runs": self.runs, "digests": self.digests}
        return json.dumps(body, indent=1, allow_nan=False) + "\n"


def key_of(report: Mapping[str, Any], gpu: Mapping[str, Any]) -> str | None:
    """What must be equal for two runs of one GPU to compare; None for a GPU without a UUID."""
    if not gpu.get("uuid"):
        return None
    software, power = report.get("software") or {}, gpu.get("power") or {}
    rows = gpu.get("matmul") or []
    shapes = ",".join(f"{row['dtype']}:{row['shape'][0]}" for row in rows if row.get("shape"))
    limit = power.get("limit_w")
    parts = (
        gpu["uuid"],
        f"torch {software.get('torch')}",
        f"cuda {software.get('torch_cuda')}",
        f"driver {software.get('driver')}",
        str((report.get("tool") or {}).get("profile")),
        shapes,
        f"{limit:g} W" if limit else "limit unknown",
    )
    return "|".join(str(part) for part in parts)


def load(path: Path) -> History:
    """An unreadable, torn or foreign file is an empty history that says why; it is never an error of the probe."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return History()
    except (OSError, ValueError) as error:
        return History(problem=f"{path} cannot be read ({error})")
    try:
        document = json.loads(text)
        version = document["version"]
        if not isinstance(version, int) or version > HISTORY_VERSION:
            return History(problem=f"{path} is of a newer version ({version}); it is left alone")
        return History(dict(_runs(document.get("runs"))), dict(_digests(document.get("digests"))))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return History(problem=f"{path} is no history of the probe ({type(error).__name__}); it begins anew")


def _runs(found: Any) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """Whole entries only: what a torn or older file has of them is kept, the rest dropped."""
    for key, metrics in (found or {}).items():
        good = {}
        for metric, entry in metrics.items():
            values = entry if isinstance(entry, list) else entry.get("values")
            numbers = [float(value) for value in values or () if isinstance(value, (int, float)) and value > 0]
            if numbers:
                best = entry.get("best") if isinstance(entry, dict) else None
                good[metric] = {"values": numbers[-KEPT:], "best": float(best) if best else max(numbers)}
        if good:
            yield key, good


def _digests(found: Any) -> Iterator[tuple[str, str]]:
    for key, digest in (found or {}).items():
        if isinstance(digest, str):
            yield key, digest


def update(path: Path, mode: str, report: Mapping[str, Any], write: Callable[[Path, str], None]) -> str | None:
    """Add the GPUs that passed to the history; the reason where it was not written.

    `on-pass` adds every pass, `if-missing` only the first of a GPU under its key: a baseline that never moves.
    """
    if mode == "never":
        return None
    history = load(path)  # again: another run may have written meanwhile
    if history.problem and "newer version" in history.problem:
        return history.problem
    added = False
    for gpu in report["gpus"]:
        key = key_of(report, gpu)
        if key is None or gpu["status"] != "pass" or (mode == "if-missing" and key in history.runs):
            continue
        # A figure with a known cause for being low is no baseline for later.
        mine = (check for check in report["checks"] if check["gpu"] == gpu["uuid"])
        explained = {check["id"] for check in mine if check["status"] == "explained"}
        metrics = {name: value for name, value in metrics_of(gpu).items() if f"{name}.reference" not in explained}
        if metrics:
            history.add(key, metrics, (gpu.get("integrity") or {}).get("digest"))
            added = True
    if added:
        write(path, history.document())
    return None


def metrics_of(gpu: Mapping[str, Any]) -> dict[str, float]:
    """What is kept of a GPU: the rates that are judged."""
    found = {}
    for row in gpu.get("matmul") or []:
        name = f"matmul.{row['dtype']}"
        if row["tflops"]["sustained"] is not None and (name not in found or row.get("mode") == "alone"):
            found[name] = float(row["tflops"]["sustained"])
    for name in ("device_copy", "h2d", "d2h"):
        value = (gpu.get("bandwidth") or {}).get(f"{name}_gb_s")
        if value is not None:
            found[f"bandwidth.{name}"] = float(value)
    return found
