"""``double precision`` as Postgres has it (``float.c``): a result out of range is 22003."""

from __future__ import annotations

import math
from decimal import Decimal

from absurd_contimg.backends.memory.errors import EngineError


def double_out(value: float) -> str:
    """``double precision`` output: the shortest form that reads back the same."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    text = repr(value).removesuffix(".0")
    if "e" not in text and ("." in text or len(text.lstrip("-")) <= 15):
        return text
    mantissa, _, exponent = f"{Decimal(text).normalize():e}".partition("e")
    return f"{mantissa}e{exponent[0]}{exponent[1:].zfill(2)}"


def _in_range(value: float, *sources: float, may_be_zero: bool = True) -> float:
    if math.isinf(value) and not any(map(math.isinf, sources)):
        raise EngineError("22003", "value out of range: overflow")
    if value == 0 and not may_be_zero:
        raise EngineError("22003", "value out of range: underflow")
    return value


def add(a: float, b: float) -> float:
    """``float8 + float8``."""
    return _in_range(a + b, a, b)


def subtract(a: float, b: float) -> float:
    """``float8 - float8``."""
    return _in_range(a - b, a, b)


def multiply(a: float, b: float) -> float:
    """``float8 * float8``."""
    return _in_range(a * b, a, b, may_be_zero=a == 0 or b == 0)


def divide(a: float, b: float) -> float:
    """``float8 / float8``; 22012 for zero."""
    if b == 0:
        if math.isnan(a):
            return a
        raise EngineError("22012", "division by zero")
    return _in_range(a / b, a, may_be_zero=a == 0 or math.isinf(b))
