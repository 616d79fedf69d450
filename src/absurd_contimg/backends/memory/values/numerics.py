"""``numeric`` and ``double precision``: text forms, and arithmetic as Postgres does it.

``numeric`` is exact but for division, without a minus zero (``numeric.c``). What neither infinity
nor NaN is needed for is refused where it would give one.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from decimal import MAX_EMAX, MIN_EMIN, ROUND_HALF_UP, Context, Decimal

from absurd_contimg.backends.memory.errors import EngineError, Unsupported, invalid_text

_DIGITS_MAX = 1000
"""More than anybody counts with; Postgres has 131,072 before the point and 16,383 after it."""
_EXACT = Context(
    prec=4 * _DIGITS_MAX, rounding=ROUND_HALF_UP, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[]
)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_OTHER_FORM = re.compile(r"[+-]?(0[xob]|nan|inf)|.*\d_\d", re.IGNORECASE)


def numeric_in(text: str) -> Decimal:
    """``numeric`` input; 22P02 for what is none. Digits are kept as written."""
    word = text.strip()
    if not _NUMBER.fullmatch(word):
        if _OTHER_FORM.match(word):
            raise Unsupported(f"this form of a number ({text})")
        raise invalid_text("numeric", text)
    value = _check_size(Decimal(word))
    return Decimal(format(value if value else abs(value), "f"))


def numeric_out(value: Decimal) -> str:
    """``numeric`` output: without an exponent."""
    text = format(value, "f")
    return text[1:] if text.startswith("-") and not value else text


def _check_size(value: Decimal) -> Decimal:
    if (value and value.adjusted() > _DIGITS_MAX) or _scale(value) > _DIGITS_MAX:
        raise Unsupported(f"numbers of more than {_DIGITS_MAX} digits")
    return value


def _scale(value: Decimal) -> int:
    """How many digits a number has after its point."""
    return max(0, -int(value.as_tuple().exponent))


def _check_divisor(divisor: Decimal | float) -> None:
    if divisor == 0:
        raise EngineError("22012", "division by zero")


def divide(a: Decimal, b: Decimal) -> Decimal:
    """``numeric / numeric``, to as many digits as Postgres gives; 22012 for zero."""
    _check_divisor(b)
    digits = _division_scale(a, b)
    precision = max(a.adjusted() - b.adjusted(), 0) + digits + 20
    context = Context(prec=precision, Emin=MIN_EMIN, Emax=MAX_EMAX)
    return _check_size(rounded(context.divide(a, b), digits))


def _remainder(a: Decimal, b: Decimal) -> Decimal:
    """With the sign of the first."""
    _check_divisor(b)
    return _EXACT.remainder(a, b)


def _division_scale(a: Decimal, b: Decimal) -> int:
    """Digits after the point of a quotient: 16 significant (numeric.c, select_div_scale)."""

    def weight_and_first(value: Decimal) -> tuple[int, int]:
        if not value:
            return 0, 0
        weight = value.adjusted() // 4
        return weight, int(_EXACT.scaleb(value.copy_abs(), Decimal(-4 * weight)))

    weight_a, first_a = weight_and_first(a)
    weight_b, first_b = weight_and_first(b)
    quotient_weight = weight_a - weight_b - (1 if first_a <= first_b else 0)
    return min(max(16 - quotient_weight * 4, _scale(a), _scale(b), 0), 1000)


def rounded(value: Decimal, digits: int) -> Decimal:
    """The number with so many digits after its point; a half goes away from zero."""
    return value.quantize(Decimal((0, (1,), -digits)), ROUND_HALF_UP, _EXACT)


NUMERIC_WORK: dict[str, Callable[[Decimal, Decimal], Decimal]] = {
    "+": lambda a, b: _check_size(_EXACT.add(a, b)),
    "-": lambda a, b: _check_size(_EXACT.subtract(a, b)),
    "*": lambda a, b: _check_size(_EXACT.multiply(a, b)),
    "/": divide,
    "%": _remainder,
}
"""What the operators of ``numeric`` do."""


# -- double precision ---------------------------------------------------------------------------


def double_out(value: float) -> str:
    """``double precision`` output: the shortest form that reads back the same."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    text = repr(value).removesuffix(".0")
    if "e" not in text and ("." in text or len(text.lstrip("-")) <= 15):
        return text
    mantissa, _, exponent = f"{Decimal(text).normalize():e}".partition("e")
    return f"{mantissa}e{exponent[0]}{exponent[1:].zfill(2)}"


def _of_floats(symbol: str, work: Callable[[float, float], float]) -> Callable[..., float]:
    def checked(a: float, b: float) -> float:
        if symbol == "/" and math.isfinite(a):
            _check_divisor(b)
        value = work(a, b or math.nan) if symbol == "/" else work(a, b)
        if not math.isfinite(value) or (value == 0 and symbol in "*/" and a and b):
            raise Unsupported("results that double precision does not hold")
        return value

    return checked


FLOAT_WORK = {
    symbol: _of_floats(symbol, work)
    for symbol, work in {
        "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
    }.items()
}  # fmt: skip
"""What the operators of ``double precision`` do; a result out of range is refused."""
