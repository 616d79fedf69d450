"""``numeric`` as Postgres has it (``numeric.c``): exact, with as many digits as it takes, NaN and
infinity among its values, and no minus zero.

More digits than Postgres holds are an error (22003). Division alone cuts digits off, where Postgres
does. It knows no SQL.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import (
    MAX_EMAX,
    MIN_EMIN,
    ROUND_HALF_UP,
    Context,
    Decimal,
    InvalidOperation,
)

from absurd_contimg.backends.memory.errors import EngineError, invalid_text

_WHOLE_DIGITS_MAX = 131_072
_FRACTION_DIGITS_MAX = 16_383
_EXACT = Context(
    prec=2 * (_WHOLE_DIGITS_MAX + _FRACTION_DIGITS_MAX),
    rounding=ROUND_HALF_UP,
    Emin=MIN_EMIN,
    Emax=MAX_EMAX,
    traps=[],
)
_OF_OTHER_BASE = re.compile("[+-]?0[xob]", re.IGNORECASE)
_BETWEEN_DIGITS = re.compile(r"(?<=\d)_(?=\d)", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_ZERO = Decimal(0)
_NAN = Decimal("NaN")
_SPECIAL = {
    "nan": _NAN,
    **dict.fromkeys(("inf", "+inf", "infinity", "+infinity"), Decimal("Infinity")),
    **dict.fromkeys(("-inf", "-infinity"), Decimal("-Infinity")),
}


def numeric_in(text: str) -> Decimal:
    """``numeric`` input; 22P02 for what is none, 22003 for what has too many digits.

    Digits are kept as written, without an exponent.
    """
    word = text.strip()
    special = _SPECIAL.get(word.lower())
    if special is not None:
        return special
    plain = _BETWEEN_DIGITS.sub("", word)
    try:
        if _OF_OTHER_BASE.match(word):
            value = Decimal(int(word, 0))
        elif _NUMBER.fullmatch(plain):
            value = Decimal(plain)
        else:
            raise invalid_text("numeric", text)
    except (InvalidOperation, ValueError):
        raise invalid_text("numeric", text) from None
    _check_size(value)
    return Decimal(format(value if value else abs(value), "f"))


def numeric_out(value: Decimal) -> str:
    """``numeric`` output: without an exponent."""
    if not value.is_finite():
        return "NaN" if value.is_nan() else "Infinity" if value > 0 else "-Infinity"
    text = format(value, "f")
    return text[1:] if text.startswith("-") and not value else text


def _check_size(value: Decimal) -> Decimal:
    if value.is_finite() and (
        (value and value.adjusted() >= _WHOLE_DIGITS_MAX) or scale(value) > _FRACTION_DIGITS_MAX
    ):
        raise EngineError("22003", "value overflows numeric format")
    return value


def scale(value: Decimal) -> int:
    """How many digits a finite number has after its point."""
    return max(0, -int(value.as_tuple().exponent))


def add(a: Decimal, b: Decimal) -> Decimal:
    """``numeric + numeric``."""
    return _check_size(_EXACT.add(a, b))


def subtract(a: Decimal, b: Decimal) -> Decimal:
    """``numeric - numeric``."""
    return _check_size(_EXACT.subtract(a, b))


def multiply(a: Decimal, b: Decimal) -> Decimal:
    """``numeric * numeric``."""
    return _check_size(_EXACT.multiply(a, b))


def negate(value: Decimal) -> Decimal:
    """``- numeric``."""
    return _EXACT.minus(value)


def total(values: Iterable[Decimal]) -> Decimal:
    """Their sum."""
    found = _ZERO
    for value in values:
        found = add(found, value)
    return found


def divide(a: Decimal, b: Decimal) -> Decimal:
    """``numeric / numeric``, to as many digits as Postgres gives; 22012 for zero."""
    quotient = _quotient_of_specials(a, b)
    if quotient is not None:
        return quotient
    digits = _division_scale(a, b)
    context = Context(
        prec=max(a.adjusted() - b.adjusted(), 0) + digits + 20, Emin=MIN_EMIN, Emax=MAX_EMAX
    )
    return _check_size(rounded(context.divide(a, b), digits))


def divide_whole(a: Decimal, b: Decimal) -> Decimal:
    """``div(numeric, numeric)``: the quotient without its fraction; 22012 for zero."""
    quotient = _quotient_of_specials(a, b)
    return _EXACT.divide_int(a, b) if quotient is None else quotient


def remainder(a: Decimal, b: Decimal) -> Decimal:
    """``numeric % numeric``, with the sign of the first; 22012 for zero."""
    if b == 0 and not a.is_nan():
        raise EngineError("22012", "division by zero")
    return _EXACT.remainder(a, b)


def _quotient_of_specials(a: Decimal, b: Decimal) -> Decimal | None:
    """What a division gives that is none of two finite numbers."""
    if a.is_nan() or b.is_nan():
        return _NAN
    if b == 0:
        raise EngineError("22012", "division by zero")
    if a.is_infinite():
        return _NAN if b.is_infinite() else a if b > 0 else negate(a)
    return _ZERO if b.is_infinite() else None


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
    return min(max(16 - quotient_weight * 4, scale(a), scale(b), 0), 1000)


def rounded(value: Decimal, digits: int, mode: str = ROUND_HALF_UP) -> Decimal:
    """The number with so many digits after its point; with fewer than none, a whole one."""
    if not value.is_finite():
        return value
    cut = value.quantize(Decimal((0, (1,), -digits)), mode, _EXACT)
    return cut if digits >= 0 else Decimal(int(cut))


def to_whole(value: Decimal, mode: str) -> Decimal:
    """The number without a fraction."""
    return value.to_integral_value(mode, _EXACT) if value.is_finite() else value
