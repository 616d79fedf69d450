"""``double precision`` as Postgres has it (``float.c``): IEEE's numbers, but a result that leaves
their range is an error (22003), as is a division by zero (22012).

It knows no SQL.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from absurd_contimg.backends.memory.errors import EngineError


def _overflow() -> EngineError:
    return EngineError("22003", "value out of range: overflow")


def _underflow() -> EngineError:
    return EngineError("22003", "value out of range: underflow")


def double_out(value: float) -> str:
    """``double precision`` output: the shortest form that reads back the same."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    text = repr(value).removesuffix(".0")
    if "e" in text:
        mantissa, exponent = text.split("e")
        sign = exponent[0] if exponent[0] in "+-" else "+"
        return f"{mantissa.removesuffix('.0')}e{sign}{exponent.lstrip('+-').zfill(2)}"
    whole = text.lstrip("-")
    if len(whole) > 15 and "." not in whole:
        digits = whole.rstrip("0")
        mantissa = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
        return f"{'-' if value < 0 else ''}{mantissa}e+{len(whole) - 1:02}"
    return text


def _in_range(value: float, *sources: float) -> float:
    if math.isinf(value) and not any(map(math.isinf, sources)):
        raise _overflow()
    return value


def add(a: float, b: float) -> float:
    """``float8 + float8``."""
    return _in_range(a + b, a, b)


def subtract(a: float, b: float) -> float:
    """``float8 - float8``."""
    return _in_range(a - b, a, b)


def multiply(a: float, b: float) -> float:
    """``float8 * float8``."""
    value = _in_range(a * b, a, b)
    if value == 0 and a != 0 and b != 0:
        raise _underflow()
    return value


def divide(a: float, b: float) -> float:
    """``float8 / float8``; 22012 for zero."""
    if b == 0:
        if math.isnan(a):
            return a
        raise EngineError("22012", "division by zero")
    value = _in_range(a / b, a)
    if value == 0 and a != 0 and not math.isinf(b):
        raise _underflow()
    return value


def total(values: Iterable[float]) -> float:
    """Their sum, one after the other in their order."""
    first, *others = values
    for value in others:
        first = add(first, value)
    return first
