"""Matrix products: checked against float64, then timed until stable, in every dtype that the chip has.

No speed is measured of a result that is wrong or of another precision. The rate is that of completed work by the
device's own events, never of launches.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Callable, Protocol

from torch_probe.arithmetic import ARITHMETIC, SAMPLED_ROWS, ProductError, judge_error
from torch_probe.common import finite
from torch_probe.device import SEED, SPIN_CYCLES, Device, fp32_mode
from torch_probe.report import CpuMatmul, Matmul, Mode, PeakShape, Rates, Window, blank

Shape = tuple[int, int, int]  # M, K, N


def operations(shape: Shape) -> float:
    """Multiplications and additions of one product."""
    m, k, n = shape
    return 2.0 * m * k * n


# ------------------------------------------------------------------------------------------------ the work


class Ticket(Protocol):
    """Work under way."""

    def seconds(self) -> float:
        """Wait for its completion; how long it took."""


class Work(Protocol):
    """A matrix product that can be timed and checked. Tests put a stand-in here."""

    def start(self, count: int) -> Ticket:
        """Begin `count` products."""

    def spin(self) -> Ticket | None:
        """Begin a spin of SPIN_CYCLES behind them; None where there is no such clock."""

    def error(self, columns: bool = False) -> ProductError:
        """Run one product and compare sampled rows (and columns) with float64."""

    def digest(self) -> str:
        """Run one product, always the same, and reduce its bits to a short text."""


@dataclass(frozen=True)
class Plant:
    """A fault that the self-test puts into a measurement, to see that it is noticed."""

    flip_bit: bool = False
    scale_row: bool = False
    force_tf32: bool = False
    drag: float = 0.0  # share of the time that is spent spinning between products


class TorchWork:
    """Products of one shape and dtype on one device, by torch."""

    def __init__(self, device: Device, dtype: str, shape: Shape, plant: Plant | None = None) -> None:
        self.device, self.dtype, self.shape = device, dtype, shape
        self.torch = torch = device.torch
        self.plant = plant or Plant()
        self.digests = 0
        m, k, n = shape
        storage = getattr(torch, ARITHMETIC[dtype].storage)

        def operand(rows: int, salt: int) -> Any:
            return device.integers(rows, k, salt) if dtype == "int8" else device.normal(rows, k, storage, salt)

        # Some pairs in turn, so that no operand stays in a cache; the second operand is column-major.
        self.pairs = [(operand(m, 2 * i), operand(n, 2 * i + 1).t()) for i in range(self._pair_count(m, k, n))]
        result = {"fp8": "bfloat16", "int8": "int32"}.get(dtype)
        self.out = device.empty((m, n), getattr(torch, result) if result else storage)
        self.scale = torch.ones((), dtype=torch.float32, device=device.name) if dtype == "fp8" else None

    def _pair_count(self, m: int, k: int, n: int) -> int:
        """Two, or as many as exceed the second-level cache twice, but no more than four."""
        size = {"fp32": 4, "tf32": 4, "fp8": 1, "int8": 1}.get(self.dtype, 2)
        cache = l2_bytes(self.device)
        return min(4, max(2, math.ceil(2 * cache / ((m + n) * k * size))))

    def _run(self, a: Any, b: Any) -> None:
        torch = self.torch
        if self.dtype == "int8":
            torch._int_mm(a, b, out=self.out)
        elif self.dtype == "fp8":
            # By name: the order of the arguments differs between versions, and older ones return a pair.
            done = torch._scaled_mm(
                a, b, scale_a=self.scale, scale_b=self.scale, out_dtype=torch.bfloat16, use_fast_accum=False
            )
            self.out = done[0] if isinstance(done, tuple) else done
        else:
            torch.mm(a, b, out=self.out)

    def start(self, count: int) -> Ticket:
        """Products of the pairs in turn."""

        def work() -> None:
            for number in range(count):
                self._run(*self.pairs[number % len(self.pairs)])
                if self.plant.drag:
                    self._drag()

        return self.device.start(work)

    def _drag(self) -> None:
        """A spin behind each product, sized once, so that the GPU looks slow."""
        if not hasattr(self, "drag_seconds"):
            self.drag_seconds = self.device.seconds(lambda: self._run(*self.pairs[0])) * self.plant.drag
        if self.device.is_gpu:
            self.torch.cuda._sleep(int(self.drag_seconds * 1.5e9))
        else:
            time.sleep(self.drag_seconds)

    def spin(self) -> Ticket | None:
        """The SM's own clock."""
        return self.device.spin_clock()

    def digest(self) -> str:
        """The first pair's product. A planted flip is transient: every third digest has it."""
        self._run(*self.pairs[0])
        self.digests += 1
        if self.plant.flip_bit and self.digests % 3 == 0:
            kind = self.torch.int32 if self.out.element_size() == 4 else self.torch.int16
            self.out.view(kind)[3, 5] ^= 1 << 9
        return self.device.digest(self.out)

    # -------------------------------------------------------------------------------------------- against float64

    def error(self, columns: bool = False) -> ProductError:
        """Sampled rows, all columns, float64 on the CPU; the output is poisoned first so that a missing write shows."""
        m, _, n = self.shape
        a, b = self.pairs[0]
        if self.dtype != "fp8":  # its product makes an output of its own
            self.out.fill_(-(2**31) if self.dtype == "int8" else math.nan)
        self._run(a, b)
        rows = self._sample(m)
        if self.plant.scale_row:
            self.out[int(rows[0])] *= 1 + 2**-6
        finite_everywhere = bool(self.torch.isfinite(self.out).all()) if self.out.is_floating_point() else True
        deviation = Deviation()
        self._compare(deviation, self._taken(self.out, rows), self._taken(a, rows), b.t())
        if columns:
            places = self._sample(n)
            self._compare(deviation, self._taken(self.out.t(), places), self._taken(b.t(), places), a)
        return deviation.result(finite_everywhere)

    def _sample(self, size: int) -> Any:
        generator = self.torch.Generator()
        generator.manual_seed(SEED)
        return self.torch.randperm(size, generator=generator)[: min(SAMPLED_ROWS, size)]

    def _taken(self, matrix: Any, rows: Any) -> Any:
        """Rows as float64 on the CPU, one after the other: not every dtype can be indexed by a list."""
        return self.torch.stack([self._as_double(matrix[int(row)]) for row in rows])

    def _as_double(self, values: Any) -> Any:
        return values.cpu().to(self.torch.float32 if self.dtype == "fp8" else values.dtype).double()

    def _compare(self, deviation: Deviation, got: Any, left: Any, right_rows: Any) -> None:
        """`got` against left @ right, in parts: the second operand in float64 would fill the host's memory."""
        left_norm, k = left.norm(dim=1), self.shape[1]
        for begin in range(0, right_rows.shape[0], 1024):
            right = self._as_double(right_rows[begin : begin + 1024])
            truth = left @ right.t()
            off = (got[:, begin : begin + 1024] - truth).abs()
            scale = left_norm[:, None] * right.norm(dim=1)[None, :] / math.sqrt(k)
            deviation.add(float((off * off).sum()), float((truth * truth).sum()), float((off / scale).max()))


class Deviation:
    """Sums up how far parts of a result are from the truth. A NaN stays."""

    def __init__(self) -> None:
        self.wrong = self.whole = self.element = 0.0

    def add(self, wrong: float, whole: float, element: float) -> None:
        """One part: the squares of its errors and of its truth, and its worst element."""
        self.wrong += wrong
        self.whole += whole
        # max() drops a NaN on its right-hand side
        if not math.isnan(self.element):
            self.element = element if math.isnan(element) else max(self.element, element)

    def result(self, finite_everywhere: bool) -> ProductError:
        """The whole."""
        relative = math.sqrt(self.wrong / self.whole) if self.whole > 0 else math.nan
        return ProductError(relative, self.element, finite_everywhere)


def l2_bytes(device: Device) -> int:
    """The second-level cache; 50 MB where torch does not say it."""
    if not device.is_gpu:
        return 0
    known = device.torch.cuda.get_device_properties(device.name)
    return int(getattr(known, "L2_cache_size", 0) or 50_000_000)


# ------------------------------------------------------------------------------------------------ the timing


@dataclass(frozen=True)
class Timing:
    """How long to warm up and to measure, in seconds."""

    batch: float
    warmup_min: float
    warmup_max: float
    window: float


@dataclass(frozen=True)
class Speed:
    """Operations a second: sustained is the median of the window's last third, burst the best half second."""

    burst: float
    sustained: float
    p10: float
    median: float
    p90: float
    cv: float
    batches: int
    stable: bool
    spin_clock_mhz: float | None = None
    window: Window | None = None
    noise: float | None = None


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


class Stream:
    """Batches without a pause between them: the next one is under way before the last one is awaited."""

    SPIN_EVERY = 8

    def __init__(self, work: Work, count: int) -> None:
        self.work, self.count = work, count
        self.waiting: deque[Ticket] = deque()
        self.spins: list[Ticket] = []
        self.started = 0

    def next(self) -> float:
        """Seconds of the next completed batch."""
        while len(self.waiting) < 2:
            self.waiting.append(self.work.start(self.count))
            self.started += 1
            if self.started % self.SPIN_EVERY == 0:
                spin = self.work.spin()
                if spin is not None:
                    self.spins.append(spin)
        return self.waiting.popleft().seconds()

    def drain(self) -> None:
        """Wait for what is still under way."""
        while self.waiting:
            self.waiting.popleft().seconds()

    def spin_clock_mhz(self) -> float | None:
        """The SM clock by the spins of this window."""
        clocks = [SPIN_CYCLES / spin.seconds() / 1e6 for spin in self.spins]
        return round(statistics.median(clocks), 1) if clocks else None


Watching = Callable[[], AbstractContextManager[Any]]


def measure(work: Work, timing: Timing, per_product: float, watch: Watching = contextlib.nullcontext) -> Speed:
    """Warm up until five batches agree within 1 %, then measure for the window. `watch` is entered for the window."""
    work.start(1).seconds()
    single = max(work.start(1).seconds(), 1e-7)
    count = max(1, round(timing.batch / single))
    stream = Stream(work, count)
    warm: list[float] = []
    stable = False
    while sum(warm) < timing.warmup_min or (not stable and sum(warm) < timing.warmup_max):
        warm.append(stream.next())
        last = warm[-5:]
        stable = len(last) == 5 and max(last) <= 1.01 * min(last)
    stream.spins.clear()
    window: list[float] = []
    with watch() as watcher:
        while sum(window) < timing.window or len(window) < 5:
            window.append(stream.next())
    stream.drain()
    batch_work = per_product * count
    rates = sorted(batch_work / value for value in window)
    tail = window[-max(1, len(window) // 3) :]
    return Speed(
        burst=best_stretch([*warm, *window], batch_work, 0.5),
        sustained=batch_work / statistics.median(tail),
        p10=quantile(rates, 0.1),
        median=statistics.median(rates),
        p90=quantile(rates, 0.9),
        cv=statistics.pstdev(rates) / statistics.fmean(rates),
        batches=len(rates),
        stable=stable,
        spin_clock_mhz=stream.spin_clock_mhz(),
        window=getattr(watcher, "window", None),
    )


def measure_twice(work: Work, timing: Timing, per_product: float, watch: Watching = contextlib.nullcontext) -> Speed:
    """The same measurement twice; the second counts, and the difference is the noise below which nothing is told."""
    half = replace(timing, window=timing.window / 2)
    first = measure(work, half, per_product, watch)
    again = measure(work, replace(half, warmup_min=0.0, warmup_max=0.5), per_product, watch)
    mean = (first.sustained + again.sustained) / 2
    noise = round(abs(first.sustained - again.sustained) / mean, 5)
    return replace(again, burst=max(first.burst, again.burst), noise=noise)


# ------------------------------------------------------------------------------------------------ sizes and dtypes


def gpu_size(tflops: float, free_bytes: int) -> int:
    """The canonical shape of a GPU's class, so that results compare from host to host and year to year."""
    if tflops < 40 or free_bytes < 2 * 1024**3:
        return 4096
    return 16384 if tflops > 1200 and free_bytes > 16 * 1024**3 else 8192


def cpu_size(gflops: float) -> int:
    """2048 where such a product takes less than a quarter of a second, else 1024."""
    return 2048 if gflops > 2 * 2048**3 / 0.25 / 1e9 else 1024


def hardware_dtypes(capability: str) -> list[str]:
    """What this chip has in hardware. Before 8.0 bf16 is emulated, before 8.9 fp8; torch does not tell."""
    has = tuple(int(part) for part in capability.split("."))
    minimum = {"fp32": (0, 0), "tf32": (8, 0), "fp16": (7, 0), "bf16": (8, 0), "fp8": (8, 9), "int8": (7, 5)}
    return [dtype for dtype, least in minimum.items() if has >= least]


def canonical_dtype(capability: str) -> str:
    """The one that a GPU is judged by first: bf16, before 8.0 fp16, before 7.0 fp32."""
    has = hardware_dtypes(capability)
    return next(dtype for dtype in ("bf16", "fp16", "fp32") if dtype in has)


def gpu_dtypes(capability: str, profile: str) -> list[str]:
    """`quick` takes the signatures of fp32 and tf32 and the canonical dtype; the others take all."""
    has = hardware_dtypes(capability)
    if profile != "quick":
        return has
    return [dtype for dtype in has if dtype in ("fp32", "tf32", canonical_dtype(capability))]


def missing_call(torch: Any, dtype: str) -> str | None:
    """Why this torch cannot multiply in this dtype; the two are private functions, so they are looked for."""
    if dtype == "fp8" and not (hasattr(torch, "_scaled_mm") and hasattr(torch, "float8_e4m3fn")):
        return f"torch {torch.__version__} has no fp8 product"
    if dtype == "int8" and not hasattr(torch, "_int_mm"):
        return f"torch {torch.__version__} has no int8 product"
    return None


def peak_shapes(n: int) -> list[Shape]:
    """Shapes of the canonical volume, multiples of 256: wave quantisation makes one of them the fastest."""
    return [(2 * n, n, n // 2), (n // 4, n, 2 * n), (n // 2, 2 * n, n), (n // 4, n // 4, n * 13 // 8)]


# ------------------------------------------------------------------------------------------------ one product


@dataclass(frozen=True)
class Product:
    """A product that was checked and, where it was right and of its precision, timed."""

    dtype: str
    shape: Shape
    error: ProductError
    right: bool
    precise: bool
    why: str
    speed: Speed | None
    peak: PeakShape | None = None


def run_product(
    work: Work,
    dtype: str,
    shape: Shape,
    timing: Timing,
    watch: Watching = contextlib.nullcontext,
    twice: bool = False,
    columns: bool = False,
    ready: Callable[[], None] = lambda: None,
) -> Product:
    """Check, then time. `ready` is called between the two, and may wait there for the other GPUs."""
    error = work.error(columns)
    right, precise, why = judge_error(dtype, error)
    ready()
    timed = measure_twice if twice else measure
    speed = timed(work, timing, operations(shape), watch) if right and precise else None
    return Product(dtype, shape, error, right, precise, why, speed)


def trial_tflops(work: Work, shape: Shape, seconds: float = 0.3) -> float:
    """TFLOP/s, good enough to choose a size; idle clocks take some tenths of a second to rise."""
    spent = last = 0.0
    while spent < seconds:
        last = max(work.start(2).seconds(), 1e-9)
        spent += last
    return 2 * operations(shape) / last / 1e12


def find_peak(device: Device, dtype: str, n: int, seconds: float) -> PeakShape | None:
    """The best shape of a short list, each for a moment while the GPU is warm."""
    best: PeakShape | None = None
    for shape in peak_shapes(n):
        work = make_work(device, dtype, shape)
        tflops = trial_tflops(work, shape, seconds)
        if best is None or tflops > best["tflops"]:
            best = {"shape": list(shape), "tflops": round(tflops, 3)}
        del work
        device.release()
    return best


def fp32_switch(device: Device, dtype: str, plant: Plant | None = None) -> AbstractContextManager[None]:
    """TF32 on for tf32 alone."""
    forced = plant is not None and plant.force_tf32
    return fp32_mode(device.torch, "tf32" if dtype == "tf32" or forced else "ieee")


def make_work(device: Device, dtype: str, shape: Shape, plant: Plant | None = None) -> Work:
    """The one place where a measurement meets torch, for tests to replace."""
    return TorchWork(device, dtype, shape, plant)


# ------------------------------------------------------------------------------------------------ rows of the report


def rates_row(speed: Speed | None, scale: float) -> Rates:
    """Rates as the report holds them."""
    if speed is None:
        nothing: Rates = blank(Rates)
        return nothing
    return {
        "burst": round(speed.burst / scale, 3),
        "sustained": round(speed.sustained / scale, 3),
        "p10": round(speed.p10 / scale, 3),
        "median": round(speed.median / scale, 3),
        "p90": round(speed.p90 / scale, 3),
        "cv": round(speed.cv, 4),
        "batches": speed.batches,
    }


def gpu_row(product: Product, mode: Mode) -> Matmul:
    """A GPU's product as the report holds it."""
    row: Matmul = blank(Matmul)
    row.update(_common(product))  # type: ignore[typeddict-item]
    row["mode"], row["tflops"], row["peak_shape"] = mode, rates_row(product.speed, 1e12), product.peak
    if product.speed is not None:
        row["stable"], row["noise"] = product.speed.stable, product.speed.noise
        row["window"] = product.speed.window
        if product.speed.spin_clock_mhz is not None:
            window: Window = row["window"] or blank(Window)
            window["sm_clock_spin_mhz"] = product.speed.spin_clock_mhz
            row["window"] = window
    return row


def cpu_row(product: Product) -> CpuMatmul:
    """The CPU's product as the report holds it."""
    row: CpuMatmul = blank(CpuMatmul)
    row.update(_common(product))  # type: ignore[typeddict-item]
    row["gflops"] = rates_row(product.speed, 1e9)
    return row


def _common(product: Product) -> dict[str, Any]:
    return {
        "dtype": product.dtype,
        "precision_verified": product.precise,
        "correct": product.right,
        "why": product.why,
        "shape": list(product.shape),
        "rel_error": finite(product.error.relative),
        "max_element_error": finite(product.error.element),
    }
