"""``numeric`` as Postgres has it (``numeric.c``): exact but for division, without a minus zero."""

from __future__ import annotations

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
_SPECIAL = {
    "nan": Decimal("NaN"),
    **dict.fromkeys(("inf", "+inf", "infinity", "+infinity"), Decimal("Infinity")),
    **dict.fromkeys(("-inf", "-infinity"), Decimal("-Infinity")),
}


def numeric_in(text: str) -> Decimal:
    """``numeric`` input; 22P02 for what is none. Digits are kept as written."""
    word = text.strip()
    special = _SPECIAL.get(word.lower())
    if special is not None:
        return special
    if not _NUMBER.fullmatch(word):
        if re.match(r"[+-]?0[xob]|.*\d_\d", word, re.IGNORECASE):
            raise Unsupported(f"this form of a number ({text})")
        raise invalid_text("numeric", text)
    value = _check_size(Decimal(word))
    return Decimal(format(value if value else abs(value), "f"))


def numeric_out(value: Decimal) -> str:
    """``numeric`` output: without an exponent."""
    if not value.is_finite():
        return "NaN" if value.is_nan() else "Infinity" if value > 0 else "-Infinity"
    text = format(value, "f")
    return text[1:] if text.startswith("-") and not value else text


def _check_size(value: Decimal) -> Decimal:
    if value.is_finite() and (
        (value and value.adjusted() > _DIGITS_MAX) or scale(value) > _DIGITS_MAX
    ):
        raise Unsupported(f"numbers of more than {_DIGITS_MAX} digits")
    return value


def scale(value: Decimal) -> int:
    """How many digits a finite number has after its point."""
    return max(0, -int(value.as_tuple().exponent))


def _sized(work: Callable[[Decimal, Decimal], Decimal]) -> Callable[[Decimal, Decimal], Decimal]:
    return lambda a, b: _check_size(work(a, b))


add = _sized(_EXACT.add)
subtract = _sized(_EXACT.subtract)
multiply = _sized(_EXACT.multiply)


def _check_divisor(a: Decimal, b: Decimal) -> None:
    if not (a.is_finite() and b.is_finite()):
        raise Unsupported("division with infinity or NaN")
    if b == 0:
        raise EngineError("22012", "division by zero")


def divide(a: Decimal, b: Decimal) -> Decimal:
    """``numeric / numeric``, to as many digits as Postgres gives; 22012 for zero."""
    _check_divisor(a, b)
    digits = _division_scale(a, b)
    context = Context(
        prec=max(a.adjusted() - b.adjusted(), 0) + digits + 20, Emin=MIN_EMIN, Emax=MAX_EMAX
    )
    return _check_size(rounded(context.divide(a, b), digits))


def remainder(a: Decimal, b: Decimal) -> Decimal:
    """``numeric % numeric``, with the sign of the first; 22012 for zero."""
    _check_divisor(a, b)
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
    return min(max(16 - quotient_weight * 4, scale(a), scale(b), 0), 1000)


def rounded(value: Decimal, digits: int, mode: str = ROUND_HALF_UP) -> Decimal:
    """The number with so many digits after its point."""
    return value.quantize(Decimal((0, (1,), -digits)), mode, _EXACT) if value.is_finite() else value
