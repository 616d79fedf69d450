"""``double precision`` as Postgres has it (``float.c``): IEEE's numbers, but a result that leaves
their range is an error (22003), as is a division by zero (22012).

It knows no SQL.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

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


def power(a: float, b: float) -> float:
    """``float8 ^ float8``; 2201F where no real number is its value."""
    if a == 0 and b < 0:
        raise EngineError("2201F", "zero raised to a negative power is undefined")
    if a < 0 and math.isfinite(b) and math.floor(b) != b:
        raise EngineError(
            "2201F", "a negative number raised to a non-integer power yields a complex result"
        )
    try:
        value = math.pow(a, b)
    except OverflowError:
        raise _overflow() from None
    if value == 0 and a != 0 and math.isfinite(a) and math.isfinite(b):
        raise _underflow()
    return value


def exponential(value: float) -> float:
    """``exp(float8)``."""
    try:
        found = math.exp(value)
    except OverflowError:
        raise _overflow() from None
    if found == 0 and math.isfinite(value):
        raise _underflow()
    return found


def square_root(value: float) -> float:
    """``sqrt(float8)``; 2201F for a negative number."""
    if value < 0:
        raise EngineError("2201F", "cannot take square root of a negative number")
    return math.sqrt(value)


def logarithm(value: float, *, decimal: bool = False) -> float:
    """``ln(float8)``, or ``log(float8)`` to the base of ten; 2201E for none above zero."""
    if value == 0:
        raise EngineError("2201E", "cannot take logarithm of zero")
    if value < 0:
        raise EngineError("2201E", "cannot take logarithm of a negative number")
    return math.log10(value) if decimal else math.log(value)


def total(values: Iterable[float]) -> float:
    """Their sum, one after the other in their order."""
    first, *others = values
    for value in others:
        first = add(first, value)
    return first


class Moments(NamedTuple):
    """What means and variances are made of."""

    number: int
    total: float
    squares: float
    """Of the differences from the mean."""

    def variance(self, less: int) -> float:
        """Over their number, `less` 1 for a sample and 0 for a population."""
        return self.squares / (self.number - less)


def moments(values: Iterable[float]) -> Moments:
    """By Youngs and Cramer, in the order of the values, as ``float8_accum`` does."""
    count, summed, squares = 0, 0.0, 0.0
    for value in values:
        before = summed
        count, summed = count + 1, summed + value
        if count == 1:
            squares = 0.0 if math.isfinite(value) else math.nan
            continue
        part = value * count - summed
        squares += part * part / (count * (count - 1))
        if math.isinf(summed) or math.isinf(squares):
            if math.isfinite(before) and math.isfinite(value):
                raise _overflow()
            squares = math.nan
    return Moments(count, summed, squares)
