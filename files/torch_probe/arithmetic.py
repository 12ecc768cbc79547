"""What each dtype's product may err against float64, and what an error says."""

from __future__ import annotations

from dataclasses import dataclass

SAMPLED_ROWS = 64
# A worst element below this share of its bound is ordinary; four times ordinary is the bound.
ORDINARY = 0.25


@dataclass(frozen=True)
class Arithmetic:
    """What a dtype's product may err against float64, with normally distributed inputs.

    `typical` is the relative Frobenius error that this arithmetic has. Above `high` the result is wrong or of a lower
    precision; below `low` it is of a higher precision than its name says. `element` bounds each element's error times
    sqrt(K) over the norms of its row and column: rounding an element of eight standard deviations stays below it.
    """

    storage: str
    typical: float
    low: float
    high: float
    element: float


ARITHMETIC = {
    "fp32": Arithmetic("float32", 3.5e-7, 0.0, 1e-5, 4e-5),
    "tf32": Arithmetic("float32", 2.9e-4, 1e-5, 1e-3, 4e-3),
    "fp16": Arithmetic("float16", 2.1e-4, 1e-5, 1e-3, 4e-3),
    "bf16": Arithmetic("bfloat16", 1.66e-3, 4e-4, 5e-3, 4e-2),
    # Against the inputs as they were rounded to fp8, with a result in bf16. Some tensor cores keep fewer bits of a sum.
    "fp8": Arithmetic("float8_e4m3fn", 1.66e-3, 4e-4, 1e-2, 8e-2),
    # Integers are exact.
    "int8": Arithmetic("int8", 0.0, 0.0, 0.0, 0.0),
}


@dataclass(frozen=True)
class ProductError:
    """How far the sampled rows are from float64, and whether every element of the result is finite."""

    relative: float
    element: float
    finite: bool


def judge_error(dtype: str, error: ProductError) -> tuple[bool, bool, str]:
    """(right, of the named precision, why). NaN is never right: the comparisons are written so that it fails."""
    arithmetic = ARITHMETIC[dtype]
    if not error.finite:
        return False, False, "the result has elements that are not finite (or were never written)"
    if error.relative <= arithmetic.high and error.element <= arithmetic.element:
        if error.relative >= arithmetic.low:
            return True, True, f"relative error {error.relative:.1e}"
        return True, False, f"relative error {error.relative:.1e} is that of a higher precision than {dtype}"
    if error.relative <= arithmetic.high:
        return False, True, f"single elements are wrong by up to {error.element:.1e} (bound {arithmetic.element:.0e})"
    for other in ("tf32", "bf16"):
        # A silent change of arithmetic keeps every element within the other arithmetic's bound; a fault does not.
        bound = ARITHMETIC[other]
        if (
            arithmetic.high < bound.high
            and bound.low <= error.relative <= bound.high
            and error.element <= bound.element
        ):
            return True, False, f"relative error {error.relative:.1e} is that of {other}, not of {dtype}"
    return False, False, f"relative error {error.relative:.1e}, {dtype} has {arithmetic.typical:.1e}"


def element_ratio(dtype: str, element: float) -> float | None:
    """The worst element's error over the ordinary worst of this arithmetic; above 4 is wrong. None for exact ones."""
    bound = ARITHMETIC[dtype].element
    return element / (bound * ORDINARY) if bound else None
