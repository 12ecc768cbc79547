"""What each GPU model should give, which row of gpu_reference.json is a GPU's, and what holds without a row."""

from __future__ import annotations

import hashlib
import json
import pkgutil
import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A figure that somebody else measured on the very model; the others are hearsay or another operation.
TRUSTED = ("Z", "ML", "GF", "BW", "MH", "PT", "H200")
HALF_PRECISION = ("fp16", "bf16", "tf32")
# Firmware, ECC and display keep some of the memory; 8 and 12 GB of the same name stay apart.
MEMORY_SHARE = (0.88, 1.03)


@dataclass(frozen=True)
class Expectation:
    """What one metric should be, and how sure that is: `measured`, `derived` or `low`."""

    value: float
    confidence: str
    source: str


@dataclass(frozen=True)
class Row:
    """One model."""

    data: Mapping[str, Any]
    fraction: Mapping[str, Any]
    cited: Mapping[str, str]

    @property
    def id(self) -> str:
        """The row's stable name."""
        return str(self.data["id"])

    def tflops(self, dtype: str) -> Expectation | None:
        """Cited measurements of this model, else its rated figure times what its class reaches.

        True float32 has none: published figures of one card differ by a third, so peers and history judge it.
        """
        if dtype == "fp32":
            return None
        cited = [m for m in self.data["measured"] if m["dtype"] == dtype and m.get("note") != "outlier"]
        if cited:
            # A card of 75 W falls below its short-run figure within seconds, so the lowest counts.
            choose = min if self.data["class"] == "small" else statistics.median
            trusted = any(m["source"] in TRUSTED for m in cited)
            confidence = "low" if self.data["confidence"] == "low" or not trusted else "measured"
            return Expectation(
                choose([m["tflops"] for m in cited]), confidence, self._words(m["source"] for m in cited)
            )
        rated = self.data["dense_tflops"].get(dtype)
        share = self.fraction["half"] if dtype in HALF_PRECISION else self.fraction.get(dtype)
        if rated is None or share is None:
            return None
        confidence = "low" if self.data["confidence"] == "low" else "derived"
        source = f"{share:.0%} of the rated {rated:g}, as its class gives ({self.fraction['why']})"
        return Expectation(rated * share, confidence, source)

    def copy_gb_s(self) -> Expectation:
        """Read plus write of a copy in the GPU's own memory."""
        measured = self.data["memory_copy_gb_s"]
        if measured is not None:
            return Expectation(float(measured), "measured", self._words("D"))
        share, rated = self.fraction["copy"], float(self.data["memory_gb_s"])
        return Expectation(rated * share, "derived", f"{share:.0%} of the specified {rated:g} GB/s")

    def _words(self, sources: Iterable[str]) -> str:
        return "; ".join(self.cited[source] for source in dict.fromkeys(sources))


class Reference:
    """The whole table."""

    def __init__(self, text: str, source: str = "builtin") -> None:
        self.source = source
        self.data: dict[str, Any] = json.loads(text)
        self.version = str(self.data["version"])
        self.sha256 = hashlib.sha256(text.encode()).hexdigest()
        classes = self.data["classes"]
        self.rows = [Row(row, classes[row["class"]], self.data["sources"]) for row in self.data["rows"]]

    def find(self, gpu: Mapping[str, Any]) -> tuple[Row | None, str]:
        """The row of a GPU and why it is, or is not, that one. By the exact name, SM count and memory: laptop parts,
        variants and export parts share names, or parts of them.
        """
        name = plain_name(gpu.get("name"))
        named = [row for row in self.rows if name in row.data["names"]]
        if not named:
            if name in self.data["capped"]["names"]:
                return None, f"{name} is not in the table ({self.data['capped']['why']})"
            return None, f"{name or 'a GPU without a name'} is not in the table"
        sms, memory = gpu.get("sm_count"), gpu.get("memory_total_bytes")
        if is_mig(gpu):  # a slice has fewer of both
            sms = memory = None
        fitting = [row for row in named if _same_sms(row, sms) and _same_memory(row, memory)]
        if len(fitting) == 1:
            return fitting[0], "name, SM count and memory are the table's"
        if fitting:
            return None, f"{name} has {len(fitting)} rows, and SM count and memory do not tell which"
        have = f"{sms} SMs, {memory / 2**30:.0f} GiB" if sms and memory else f"{sms or 'unknown'} SMs"
        return None, f"a variant of {name}: it has {have}, the table other numbers"

    def flops_per_clock(self, gpu: Mapping[str, Any], dtype: str) -> float | None:
        """Dense operations an SM does in one clock; None for architectures that are not in the table."""
        name, capability = plain_name(gpu.get("name")), str(gpu.get("compute_capability") or "")
        if name in self.data["capped"]["names"]:
            return None
        # 10.3 and 12.1 are minor versions of 10.0 and 12.0, with the same tensor cores as far as is published.
        capability = {"10.3": "10.0", "12.1": "12.0"}.get(capability, capability)
        rates = self.data["rates"]
        row = (rates.get(f"{capability} geforce") if "GeForce" in name else None) or rates.get(capability)
        value = row.get(dtype) if row else None
        return float(value) if value is not None else None


def plain_name(name: object) -> str:
    """A GPU's name as the table has it: newer drivers put NVIDIA before it, slices have their size behind it."""
    return re.sub(r"^NVIDIA |\s+MIG \S+$", "", str(name or "").strip())


def is_mig(gpu: Mapping[str, Any]) -> bool:
    """Whether this is a slice of a GPU."""
    return bool(gpu.get("mig")) or " MIG " in str(gpu.get("name") or "")


def _same_sms(row: Row, sms: object) -> bool:
    return sms is None or row.data["sm_count"] is None or row.data["sm_count"] == sms


def _same_memory(row: Row, memory: object) -> bool:
    if not isinstance(memory, (int, float)):
        return True
    low, high = MEMORY_SHARE
    return any(low <= memory / 2**30 / size <= high for size in row.data["memory_gb"])


def load(path: Path | None = None) -> Reference:
    """The table that the probe ships, or another one of the same form."""
    if path is not None:
        return Reference(path.read_text(encoding="utf-8"), str(path))
    data = pkgutil.get_data(__package__, "gpu_reference.json")
    if data is None:
        raise FileNotFoundError("gpu_reference.json")
    return Reference(data.decode())
