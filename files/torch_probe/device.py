"""What a measurement needs of a device: a clock that counts completed work, free memory, and inputs that are equal
everywhere.

On a GPU the clock is the device's own events; on the CPU it is the monotonic clock. Every measurement runs on both, so
that its code is tested where there is no GPU.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Callable

SEED = 20261122
# Elements made at a time: their 64-bit intermediates are larger than they are, and on the CPU belong into its cache.
CHUNK, CPU_CHUNK = 1 << 24, 1 << 17

# Sampling this many cycles takes about half a millisecond, against microseconds of launching.
SPIN_CYCLES = 1_000_000


class Token:
    """Work that was given to the device and is not awaited yet."""

    def __init__(self, first: Any, last: Any, seconds: float | None = None) -> None:
        self.first, self.last, self.done = first, last, seconds

    def seconds(self) -> float:
        """Wait for the work to complete; how long the device took for it."""
        if self.done is None:
            self.last.synchronize()
            self.done = float(self.first.elapsed_time(self.last)) / 1000.0
        return self.done


class Device:
    """`cuda:N` or `cpu` under torch."""

    def __init__(self, torch: ModuleType, name: str) -> None:
        self.torch, self.name = torch, name
        self.is_gpu = name != "cpu"
        self.chunk = CHUNK if self.is_gpu else CPU_CHUNK
        if self.is_gpu:
            torch.cuda.set_device(name)

    def start(self, work: Callable[[], Any]) -> Token:
        """Give work to the device. A GPU returns at once and stamps the begin and the end of the work itself."""
        if not self.is_gpu:
            begin = time.perf_counter()
            work()
            return Token(None, None, time.perf_counter() - begin)
        first, last = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        work()
        last.record()
        return Token(first, last)

    def seconds(self, work: Callable[[], Any]) -> float:
        """How long the device takes for this work."""
        return self.start(work).seconds()

    def wait(self) -> None:
        """Until all work is done; errors of earlier work arrive here."""
        if self.is_gpu:
            self.torch.cuda.synchronize(self.name)

    def spin_clock(self) -> Token | None:
        """Start a kernel that spins SPIN_CYCLES of the SM's own clock: their quotient is the clock, without NVML."""
        spin = getattr(self.torch.cuda, "_sleep", None) if self.is_gpu else None
        return self.start(lambda: spin(SPIN_CYCLES)) if spin else None

    def free_bytes(self) -> int:
        """Memory that may be taken. The CPU's is not for us to fill."""
        return int(self.torch.cuda.mem_get_info(self.name)[0]) if self.is_gpu else 1 << 30

    def release(self) -> None:
        """Give cached memory back. After a device fault even freeing raises; the fault is told already."""
        if self.is_gpu:
            with contextlib.suppress(Exception):
                self.torch.cuda.empty_cache()

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Memory as it comes."""
        return self.torch.empty(shape, dtype=dtype, device=self.name)

    def hashes(self, begin: int, end: int, salt: int) -> Any:
        """64 random bits for each number from `begin` to `end`: splitmix64, in integers that are exact everywhere.

        Equal GPUs can only vote if their inputs are equal, and torch's own generators differ between devices.
        """
        torch = self.torch
        z = torch.arange(begin, end, dtype=torch.int64, device=self.name)
        z = z * -7046029254386353131 + (SEED * 1000003 + salt)
        z = (z ^ self._shifted(z, 30)) * -4658895280553007687
        z = (z ^ self._shifted(z, 27)) * -7723592293110705685
        return z ^ self._shifted(z, 31)

    @staticmethod
    def _shifted(z: Any, bits: int) -> Any:
        """A logical shift to the right: int64's own drags the sign along."""
        return (z >> bits) & ((1 << (64 - bits)) - 1)

    def normal(self, rows: int, columns: int, dtype: Any, salt: int) -> Any:
        """Nearly normal values between -4 and 4 with a deviation of 1.15, the same on every device.

        Each is the exact sum of four uniform 16-bit numbers. Predictable data (zeros, ones, constants) would draw less
        power and show a speed that no real work has.
        """
        values = self.empty((rows, columns), dtype)
        for begin, end in self._chunks(rows, columns):
            bits = self.hashes(begin * columns, end * columns, salt)
            total = (bits & 0xFFFF) + ((bits >> 16) & 0xFFFF) + ((bits >> 32) & 0xFFFF) + ((bits >> 48) & 0xFFFF)
            exact = (total - 131070).to(self.torch.float32) * 2.0**-15
            values[begin:end] = exact.reshape(end - begin, columns).to(dtype)
        return values

    def integers(self, rows: int, columns: int, salt: int) -> Any:
        """int8 from -127 to 127, the same on every device."""
        values = self.empty((rows, columns), self.torch.int8)
        for begin, end in self._chunks(rows, columns):
            bits = self.hashes(begin * columns, end * columns, salt)
            small = ((bits & 0xFFFFFF) % 255 - 127).to(self.torch.int8)
            values[begin:end] = small.reshape(end - begin, columns)
        return values

    def _chunks(self, rows: int, columns: int) -> Iterator[tuple[int, int]]:
        step = max(1, self.chunk // columns)
        for begin in range(0, rows, step):
            yield begin, min(rows, begin + step)

    def digest(self, tensor: Any) -> str:
        """Two exact integer sums over a tensor's bits, made on the device: one plain, one weighted by the place.

        A changed bit changes the plain sum; two that cancel there change the weighted one.
        """
        torch = self.torch
        flat = tensor.reshape(-1)
        words = flat.view(torch.int32 if flat.numel() * flat.element_size() % 4 == 0 else torch.int8)
        plain: Any = 0
        weighted: Any = 0
        for begin in range(0, words.numel(), self.chunk):
            part = words[begin : begin + self.chunk].to(torch.int64)
            places = torch.arange(begin, begin + part.numel(), dtype=torch.int64, device=self.name) | 1
            plain, weighted = plain + part.sum(), weighted + (part * places).sum()
        mask = (1 << 64) - 1
        return f"{int(plain) & mask:016x}{int(weighted) & mask:016x}"


# ------------------------------------------------------------------------------------------------ torch's switches


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
