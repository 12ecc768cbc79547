"""The plainest measurement of a GPU's matrix products: the best of many shapes by torch.mm, to hold the probe against.

Shares no code with the probe on purpose. Writes JSON: TFLOP/s of the best shape and of the cube, by dtype.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from typing import Any

SHAPES = [
    (4096, 4096, 4096),
    (8192, 8192, 8192),
    (16384, 16384, 16384),
    (8192, 4096, 16384),
    (2048, 2048, 13312),
    (4096, 8192, 16384),
    (12288, 12288, 12288),
    (6144, 6144, 6144),
]


def tflops(torch: Any, shape: tuple[int, int, int], dtype: Any, repeats: int) -> tuple[float, float]:
    """Best and median of some repeats of ten products each, after ten to warm up."""
    m, k, n = shape
    a = torch.randn(m, k, device="cuda", dtype=torch.float32).to(dtype)
    b = torch.randn(n, k, device="cuda", dtype=torch.float32).to(dtype).t()
    c = torch.empty(m, n, device="cuda", dtype=dtype)
    for _ in range(10):
        torch.mm(a, b, out=c)
    rates = []
    for _ in range(repeats):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        for _ in range(10):
            torch.mm(a, b, out=c)
        last.record()
        last.synchronize()
        rates.append(10 * 2.0 * m * k * n / first.elapsed_time(last) / 1e9)
    rates.sort()
    return rates[-1], rates[len(rates) // 2]


def sweep(torch: Any, seconds: float) -> dict[str, Any]:
    """Every dtype over every shape that fits, until the time is over."""
    free = torch.cuda.mem_get_info()[0]
    found: dict[str, Any] = {}
    end = time.monotonic() + seconds
    for name, kind, tf32 in (
        ("bf16", torch.bfloat16, False),
        ("fp16", torch.float16, False),
        ("tf32", torch.float32, True),
        ("fp32", torch.float32, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        best: dict[str, Any] = {"best": 0.0}
        for shape in SHAPES:
            m, k, n = shape
            if time.monotonic() > end or 16 * (m * k + k * n + m * n) > free:
                continue
            top, median = tflops(torch, shape, kind, 20)
            torch.cuda.empty_cache()
            if top > best["best"]:
                best = {**best, "best": round(top, 1), "median": round(median, 1), "shape": shape}
            if shape == (8192, 8192, 8192):
                best["cube_median"] = round(median, 1)
        found[name] = best
    return found


def main() -> int:
    """Sweep the first GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        print(json.dumps({"gpu": None, "torch": torch.__version__}))
        return 0
    report = {
        "gpu": torch.cuda.get_device_name(0),
        "torch": torch.__version__,
        "tflops": sweep(torch, arguments.seconds),
    }
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
