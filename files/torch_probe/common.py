"""Names, exit codes and small words that every part uses."""

from __future__ import annotations

import math

TOOL = "torch_probe"
VERSION = "0.2.0"
SCHEMA_VERSION = "1.0"

EXIT_OK, EXIT_FAIL, EXIT_CANNOT_RUN = 0, 1, 2


def first_line(error: BaseException) -> str:
    """An exception as one line: its type and the first line of its text."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__


def plural(count: int, noun: str) -> str:
    """`1 GPU`, `2 GPUs`."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None
