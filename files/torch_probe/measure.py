"""Matrix products: run, timed until stable, checked."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

from torch_probe.arithmetic import ARITHMETIC, SAMPLED_ROWS, SEED, ProductError, judge_error
from torch_probe.common import finite
from torch_probe.report import CpuMatmul, Matmul, Mode, Rates, blank


class Work(Protocol):
    """A matrix product that can be timed and checked. Tests put a stand-in here."""

    def seconds(self, count: int) -> float:
        """Run `count` products and return how long they took."""

    def error(self) -> ProductError:
        """Run one product and compare it with float64."""


class TorchWork:
    """n x n products on one device, by torch. Inputs are random, because predictable data draw less power."""

    def __init__(self, torch: ModuleType, device: str, dtype: str, n: int) -> None:
        self.torch, self.device, self.n = torch, device, n
        self.storage = getattr(torch, ARITHMETIC[dtype].storage)
        generator = torch.Generator(device=device)
        generator.manual_seed(SEED)

        def operand() -> Any:
            return torch.randn(n, n, generator=generator, device=device, dtype=torch.float32).to(self.storage)

        # Two pairs in turn, so that no operand stays in a cache; the second operand is column-major.
        self.pairs = [(operand(), operand().t()) for _ in range(2)]
        self.out = torch.empty(n, n, device=device, dtype=self.storage)

    def _run(self, count: int) -> None:
        for number in range(count):
            a, b = self.pairs[number % len(self.pairs)]
            self.torch.mm(a, b, out=self.out)

    def seconds(self, count: int) -> float:
        """Device events on a GPU (its clock, not the host's), the monotonic clock on the CPU."""
        if self.device == "cpu":
            start = time.perf_counter()
            self._run(count)
            return time.perf_counter() - start
        stream = self.torch.cuda.current_stream(self.device)
        first, last = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record(stream)
        self._run(count)
        last.record(stream)
        last.synchronize()
        return float(first.elapsed_time(last)) / 1000.0

    def error(self) -> ProductError:
        """Sampled rows, all columns, float64 on the CPU; the output is poisoned first so that a missing write shows."""
        torch, n = self.torch, self.n
        a, b = self.pairs[0]
        self.out.fill_(math.nan)
        torch.mm(a, b, out=self.out)
        finite = bool(torch.isfinite(self.out).all())
        generator = torch.Generator()
        generator.manual_seed(SEED)
        rows = torch.randperm(n, generator=generator)[: min(SAMPLED_ROWS, n)]
        index = rows.to(self.device)
        got, left = self.out[index].cpu().double(), a[index].cpu().double()
        left_norm = left.norm(dim=1)
        wrong = whole = worst_element = 0.0
        columns = b.t()  # rows in memory
        for begin in range(0, n, 1024):  # the second operand in float64 would fill the host's memory
            right = columns[begin : begin + 1024].cpu().double()
            truth = left @ right.t()
            off = (got[:, begin : begin + 1024] - truth).abs()
            wrong += float((off * off).sum())
            whole += float((truth * truth).sum())
            scale = left_norm[:, None] * right.norm(dim=1)[None, :] / math.sqrt(n)
            element = float((off / scale).max())
            # max() drops a NaN on its right-hand side
            worst_element = element if math.isnan(element) else max(worst_element, element)
            if math.isnan(worst_element):
                break
        relative = math.sqrt(wrong / whole) if whole > 0 else math.nan
        return ProductError(relative, worst_element, finite)


@contextlib.contextmanager
def fp32_mode(torch: ModuleType, mode: str) -> Iterator[None]:
    """float32 products as `ieee` or `tf32`. Old and new switches must not be mixed: the new one where it exists."""
    switch = torch.backends.cuda.matmul
    name, value = ("fp32_precision", mode) if hasattr(switch, "fp32_precision") else ("allow_tf32", mode == "tf32")
    before = getattr(switch, name)
    setattr(switch, name, value)
    try:
        yield
    finally:
        setattr(switch, name, before)


def full_accumulation(torch: ModuleType) -> None:
    """Sums of half-precision products in float32: the default of some of these differs between versions."""
    switch = torch.backends.cuda.matmul
    for name in (
        "allow_fp16_reduced_precision_reduction",
        "allow_bf16_reduced_precision_reduction",
        "allow_fp16_accumulation",
    ):
        if hasattr(switch, name):
            setattr(switch, name, False)


@dataclass(frozen=True)
class Timing:
    """How long to warm up and to measure, in seconds."""

    batch: float
    warmup_min: float
    warmup_max: float
    window: float


TIMING = {
    ("cpu", "quick"): Timing(0.05, 0.2, 1.0, 0.6),
    ("cpu", "standard"): Timing(0.1, 0.5, 3.0, 3.0),
    ("gpu", "quick"): Timing(0.025, 1.0, 3.0, 1.5),
    ("gpu", "standard"): Timing(0.03, 1.0, 8.0, 4.0),
}
DEFAULT_TIMEOUT = {"quick": 180.0, "standard": 600.0}


@dataclass(frozen=True)
class Measured:
    """Operations a second: sustained is the median of the window's last third, burst the best half second."""

    burst: float
    sustained: float
    p10: float
    median: float
    p90: float
    cv: float
    batches: int
    stable: bool


def quantile(ordered: Sequence[float], share: float) -> float:
    """Linear interpolation on sorted values."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def best_stretch(seconds: Sequence[float], work: float, stretch: float) -> float:
    """Best rate over neighbouring batches that last `stretch` together; over all of them when they are shorter."""
    best, begin, total = 0.0, 0, 0.0
    for end, value in enumerate(seconds):
        total += value
        while total - seconds[begin] >= stretch:
            total -= seconds[begin]
            begin += 1
        if total >= stretch:
            best = max(best, work * (end - begin + 1) / total)
    return best or work * len(seconds) / sum(seconds)


def measure(work: Work, timing: Timing, operations: float) -> Measured:
    """Warm up until five batches agree within 1 %, then measure for the window. `operations` is that of one product."""
    work.seconds(1)
    single = max(work.seconds(1), 1e-7)
    count = max(1, round(timing.batch / single))
    warm: list[float] = []
    stable = False
    while sum(warm) < timing.warmup_min or (not stable and sum(warm) < timing.warmup_max):
        warm.append(work.seconds(count))
        last = warm[-5:]
        stable = len(last) == 5 and max(last) <= 1.01 * min(last)
    window: list[float] = []
    while sum(window) < timing.window or len(window) < 5:
        window.append(work.seconds(count))
    batch_work = operations * count
    rates = sorted(batch_work / value for value in window)
    tail = window[-max(1, len(window) // 3) :]
    mean = statistics.fmean(rates)
    return Measured(
        burst=best_stretch([*warm, *window], batch_work, 0.5),
        sustained=batch_work / statistics.median(tail),
        p10=quantile(rates, 0.1),
        median=statistics.median(rates),
        p90=quantile(rates, 0.9),
        cv=statistics.pstdev(rates) / mean,
        batches=len(rates),
        stable=stable,
    )


def gpu_size(tflops: float, free_bytes: int) -> int:
    """The canonical shape of a GPU's class, so that results compare from host to host and year to year."""
    if tflops < 40 or free_bytes < 2 * 1024**3:
        return 4096
    return 16384 if tflops > 1200 and free_bytes > 16 * 1024**3 else 8192


def cpu_size(gflops: float) -> int:
    """2048 where such a product takes less than a quarter of a second, else 1024."""
    return 2048 if gflops > 2 * 2048**3 / 0.25 / 1e9 else 1024


def gpu_dtypes(capability: str, profile: str) -> list[str]:
    """What this chip has in hardware: tf32 and bf16 from 8.0, fp16 from 7.0. `quick` takes one half precision."""
    ampere = float(capability) >= 8.0
    volta = float(capability) >= 7.0
    if profile == "quick":
        return ["fp32", *(["tf32", "bf16"] if ampere else ["fp16"] if volta else [])]
    return ["fp32", *(["tf32"] if ampere else []), *(["fp16"] if volta else []), *(["bf16"] if ampere else [])]


@dataclass(frozen=True)
class Product:
    """A product that was checked and, where it was right and of its precision, timed."""

    dtype: str
    size: int
    error: ProductError
    right: bool
    precise: bool
    why: str
    rates: Measured | None


def run_product(work: Work, dtype: str, size: int, timing: Timing) -> Product:
    """Check first: no speed is measured of a result that is wrong or of another precision."""
    error = work.error()
    right, precise, why = judge_error(dtype, error)
    rates = measure(work, timing, 2.0 * size**3) if right and precise else None
    return Product(dtype, size, error, right, precise, why, rates)


def trial_tflops(work: Work) -> float:
    """TFLOP/s of a 4096 product, good enough to choose a size; idle clocks take some tenths of a second to rise."""
    spent = last = 0.0
    while spent < 0.3:
        last = max(work.seconds(2), 1e-9)
        spent += last
    return 2 * 2 * 4096**3 / last / 1e12


def make_work(torch: ModuleType, device: str, dtype: str, n: int) -> Work:
    """The one place where a measurement meets torch, for tests to replace."""
    return TorchWork(torch, device, dtype, n)


def rates_row(rates: Measured | None, scale: float) -> Rates:
    """Rates as the report holds them."""
    if rates is None:
        nothing: Rates = blank(Rates)
        return nothing
    return {
        "burst": round(rates.burst / scale, 3),
        "sustained": round(rates.sustained / scale, 3),
        "p10": round(rates.p10 / scale, 3),
        "median": round(rates.median / scale, 3),
        "p90": round(rates.p90 / scale, 3),
        "cv": round(rates.cv, 4),
        "batches": rates.batches,
    }


def gpu_row(product: Product, mode: Mode) -> Matmul:
    """A GPU's product as the report holds it."""
    row: Matmul = blank(Matmul)
    row.update(_common(product))  # type: ignore[typeddict-item]
    row["mode"], row["tflops"] = mode, rates_row(product.rates, 1e12)
    row["stable"] = product.rates.stable if product.rates else None
    return row


def cpu_row(product: Product) -> CpuMatmul:
    """The CPU's product as the report holds it."""
    row: CpuMatmul = blank(CpuMatmul)
    row.update(_common(product))  # type: ignore[typeddict-item]
    row["gflops"] = rates_row(product.rates, 1e9)
    return row


def _common(product: Product) -> dict[str, Any]:
    return {
        "dtype": product.dtype,
        "precision_verified": product.precise,
        "correct": product.right,
        "why": product.why,
        "shape": [product.size] * 3,
        "rel_error": finite(product.error.relative),
        "max_element_error": finite(product.error.element),
    }
