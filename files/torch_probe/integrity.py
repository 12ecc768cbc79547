"""Does the GPU compute the same bits each time, and does its memory keep them?

Layer one, float64 truth on sampled rows, belongs to every product (`measure`). Here are layer two, bitwise repeats, and
the digest for layer three, the vote across equal GPUs. A library's product is reproducible for one shape on one stream,
so a changed digest is a fault and no noise.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from torch_probe import measure
from torch_probe.arithmetic import SAMPLED_ROWS, ProductError, element_ratio, judge_error
from torch_probe.device import Device
from torch_probe.measure import Plant, Shape, Work
from torch_probe.report import Integrity, blank


def digest_key(device: Device, dtype: str, shape: Shape, name: str, sm_count: int | None) -> str:
    """What must be equal for two digests to be comparable: other kernels sum in another order."""
    torch = device.torch
    size = "x".join(str(part) for part in shape)
    return f"{name}/{sm_count}/{dtype}/{size}/torch {torch.__version__}/cuda {getattr(torch.version, 'cuda', None)}"


def repeat(work: Work, seconds: float, at_least: int = 8) -> tuple[str, int, int]:
    """The first digest, how many there were, and how many of the later ones differ from it."""
    first = work.digest()
    count, different = 1, 0
    end = time.monotonic() + seconds
    while count < at_least or time.monotonic() < end:
        different += work.digest() != first
        count += 1
    return first, count, different


def check_integrity(
    device: Device, dtype: str, shape: Shape, seconds: float, columns: bool, plant: Plant | None = None
) -> tuple[Integrity, ProductError]:
    """Layers one and two on the canonical product, and the digest for layer three."""
    work = measure.make_work(device, dtype, shape, plant)
    error = work.error(columns)
    digest, count, different = repeat(work, seconds)
    row: Integrity = blank(Integrity)
    row["fp64_rows"] = min(SAMPLED_ROWS, shape[0])
    row["fp64_columns"] = min(SAMPLED_ROWS, shape[2]) if columns else 0
    ratio = element_ratio(dtype, error.element)
    # A result that is not finite has no worst element, and must not look like one that was not measured.
    right, _, _ = judge_error(dtype, error)
    row["max_elementwise_ratio"] = round(ratio, 3) if ratio is not None and ratio < 1e9 else None if right else 1e9
    row["repeat_digests"], row["repeat_mismatches"], row["digest"] = count, different, digest
    return row, error


# ------------------------------------------------------------------------------------------------ memory

BLOCK = 1 << 28  # bytes


def patterns(device: Device, salt: int) -> Iterator[Any]:
    """A block of random words, and its complement: each bit is once one and once zero."""
    words = BLOCK // 8
    block = device.empty((words,), device.torch.int64)
    step = device.chunk
    for begin in range(0, words, step):
        end = min(words, begin + step)
        block[begin:end] = device.hashes(begin, end, salt)
    yield block
    yield ~block


def check_memory(device: Device, share: float = 0.8, most: int | None = None) -> tuple[int, int]:
    """Fill most of the free memory, then read it back: (bytes tested, words that differ), over two patterns."""
    torch = device.torch
    free = int(device.free_bytes() * share) - 2 * BLOCK
    wanted = max(BLOCK, free if most is None else min(free, most))
    blocks = [device.empty((BLOCK // 8,), torch.int64) for _ in range(wanted // BLOCK)]
    errors = 0
    for pattern in patterns(device, salt=99):
        for block in blocks:
            block.copy_(pattern)
        for block in blocks:
            errors += int((block != pattern).sum())
    return len(blocks) * BLOCK, errors
