"""``interval``: its text forms, and arithmetic as Postgres does it (``timestamp.c``).

Fractions of months become days, fractions of days become time; a field out of its bounds is 22008.
Of the text forms the usual ones are read: numbers with units, and ``hh:mm:ss``.
"""

from __future__ import annotations

import math
import re
from functools import reduce

from absurd_contimg.backends.memory.errors import EngineError, Unsupported
from absurd_contimg.backends.memory.values.times import (
    DAY_US,
    INFINITE,
    NEG_INFINITE,
    SECOND_US,
    Interval,
)

_DAY_SECONDS = 86_400
_MONTH_DAYS = 30
_INT32 = 2**31
_INT64 = 2**63
_MICROSECONDS = {
    unit: size
    for units, size in (
        ("us usec usecs microsecond microseconds", 1),
        ("ms msec msecs millisecond milliseconds", 1000),
        ("s sec secs second seconds", SECOND_US),
        ("m min mins minute minutes", 60 * SECOND_US),
        ("h hr hrs hour hours", 3600 * SECOND_US),
    )
    for unit in units.split()
}
_CLOCK_UNITS = tuple(set(_MICROSECONDS.values()))
_DAYS = {**dict.fromkeys(("d", "day", "days"), 1), **dict.fromkeys(("w", "week", "weeks"), 7)}
_MONTHS = {
    **dict.fromkeys(("mon", "mons", "month", "months"), 1),
    **dict.fromkeys(("y", "yr", "yrs", "year", "years"), 12),
}
_ENDS = {"infinity": INFINITE, "+infinity": INFINITE, "-infinity": NEG_INFINITE}
_CLOCK = r"([+-]?)(\d+):(\d\d)(?::(\d\d(?:\.\d{1,6})?))?"
_PART = re.compile(rf"\s*,?\s*(?:{_CLOCK}|([+-]?\d+(?:\.\d+)?)\s*([a-z]*))", re.ASCII)


def _out_of_range() -> EngineError:
    return EngineError("22008", "interval out of range")


def interval_in(text: str) -> Interval:
    """``interval`` input; 22007 for what is none, 0A000 for a form that is not read here."""
    word = text.strip().lower().removeprefix("@")
    if word in _ENDS:
        return _ENDS[word]
    ago = word.endswith(" ago")
    body, position = word.removesuffix(" ago"), 0
    parts: list[tuple[tuple[object, ...], Interval]] = []
    while position < len(body):
        match = _PART.match(body, position)
        if match is None:
            raise _refused(text, is_form=_has_numbers(text))
        parts.append(_part(match, text))
        position = match.end()
    given = [unit for units, _ in parts for unit in units]
    if not parts or len(set(given)) < len(given):
        raise _refused(text, is_form=_has_numbers(text))
    span = reduce(add, [part for _, part in parts])
    return negate(span) if ago else span


def _field(text: str, months: int = 0, days: int = 0, us: int = 0) -> Interval:
    """A part of an interval; 22015 if it is too large."""
    try:
        return checked(months, days, us)
    except EngineError:
        message = f'interval field value out of range: "{text}"'
        raise EngineError("22015", message) from None


def _has_numbers(text: str) -> bool:
    return any(character.isdigit() for character in text) or text.strip().startswith("P")


def _refused(text: str, *, is_form: bool) -> EngineError:
    """The error for what is no interval, or for a form of one that is not read here."""
    if is_form:
        return Unsupported(f"this form of an interval ({text})")
    return EngineError("22007", f'invalid input syntax for type interval: "{text}"')


def _part(match: re.Match[str], text: str) -> tuple[tuple[object, ...], Interval]:
    """A number with its unit, or a time of day: the units that it gives, and how long it is."""
    sign, hours, minutes, seconds, number, unit = match.groups()
    if number is None:
        us = _whole_us(float(seconds or 0), SECOND_US)
        if int(minutes) > 59 or us > 60 * SECOND_US:
            raise Unsupported(f"such a time of day in an interval ({text})")
        us += (int(hours) * 60 + int(minutes)) * 60 * SECOND_US
        return _CLOCK_UNITS, _field(text, us=-us if sign == "-" else us)
    unit = unit or "s"
    value = float(number) if "." in number else int(number)
    if unit in _MICROSECONDS:
        with_less = unit[0] == "s" and "." in number
        units = (SECOND_US, 1000, 1) if with_less else (_MICROSECONDS[unit],)
        return units, _field(text, us=_whole_us(value, _MICROSECONDS[unit]))
    if unit in _DAYS:
        days = value * _DAYS[unit]
        whole = math.trunc(days)
        return (f"{_DAYS[unit]} days",), _field(text, 0, whole, _whole_us(days - whole, DAY_US))
    if unit in _MONTHS:
        months = value * _MONTHS[unit]
        if not isinstance(months, int) or abs(months) >= _INT32:
            raise Unsupported(f"such a number of months or years ({text})")
        return (f"{_MONTHS[unit]} months",), Interval(months)
    raise _refused(text, is_form=unit.rstrip("s") in _OTHER_UNITS)


def _whole_us(value: float, size: int) -> int:
    """Microseconds of a number of units; half of one is rounded toward zero."""
    whole = math.trunc(value)
    exact = (value - whole) * size
    rest = exact - math.trunc(exact)
    return whole * size + math.trunc(exact) + (1 if rest > 0.5 else -1 if rest < -0.5 else 0)


_OTHER_UNITS = frozenset({
    "c", "cent", "century", "centurie", "dec", "decade", "mil", "millennia", "millennium",
    "microsecon", "millisecon", "usecond", "msecond",
})  # fmt: skip
"""Units that Postgres reads, without the s of the plural, and the emulator does not."""


def interval_out(span: Interval) -> str:
    """``interval`` output in the style ``postgres``."""
    if span.is_infinite:
        return "infinity" if span == INFINITE else "-infinity"
    years, months = divmod(abs(span.months), 12)
    sign = -1 if span.months < 0 else 1
    parts: list[str] = []
    before = False
    for value, unit in ((sign * years, "year"), (sign * months, "mon"), (span.days, "day")):
        if value:
            plus = "+" if before and value > 0 else ""
            parts.append(f"{plus}{value} {unit}{'' if value == 1 else 's'}")
            before = value < 0
    if span.us or not parts:
        minus = "-" if span.us < 0 else "+" if before else ""
        seconds, us = divmod(abs(span.us), SECOND_US)
        fraction = f".{us:06}".rstrip("0") if us else ""
        clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        parts.append(f"{minus}{clock}{fraction}")
    return " ".join(parts)


# -- arithmetic ---------------------------------------------------------------------------------


def checked(months: int, days: int, us: int) -> Interval:
    """The finite interval of these fields; 22008 if one is outside its integer type."""
    span = Interval(months, days, us)
    fits = -_INT32 <= months < _INT32 and -_INT32 <= days < _INT32 and -_INT64 <= us < _INT64
    if not fits or span.is_infinite:
        raise _out_of_range()
    return span


def negate(span: Interval) -> Interval:
    """``- interval``."""
    if span.is_infinite:
        return NEG_INFINITE if span == INFINITE else INFINITE
    return checked(-span.months, -span.days, -span.us)


def add(left: Interval, right: Interval) -> Interval:
    """``interval + interval``; two opposite infinities have no sum (22008)."""
    if left.is_infinite or right.is_infinite:
        if left.is_infinite and right.is_infinite and left != right:
            raise _out_of_range()
        return left if left.is_infinite else right
    return checked(left.months + right.months, left.days + right.days, left.us + right.us)


def subtract(left: Interval, right: Interval) -> Interval:
    """``interval - interval``, both finite."""
    if left.is_infinite or right.is_infinite:
        raise Unsupported("subtraction with infinite intervals")
    return checked(left.months - right.months, left.days - right.days, left.us - right.us)


def multiply(span: Interval, factor: float) -> Interval:
    """``interval * number``, both finite."""
    if span.is_infinite or not math.isfinite(factor):
        raise Unsupported("multiplication with infinity")
    return _from_parts(span.months * factor, span.days * factor, span.us * factor)


def divide(span: Interval, by: float) -> Interval:
    """``interval / number``, both finite; 22012 for zero."""
    if by == 0:
        raise EngineError("22012", "division by zero")
    if span.is_infinite or not math.isfinite(by):
        raise Unsupported("division with infinity")
    return _from_parts(span.months / by, span.days / by, span.us / by)


def _from_parts(months: float, days: float, us: float) -> Interval:
    """The interval of exact fields; a fraction goes over into the next smaller one."""
    whole_months, whole_days = _whole(months), _whole(days)
    more_days = _microsecond((months - whole_months) * _MONTH_DAYS)
    seconds = _microsecond((days - whole_days + more_days - math.trunc(more_days)) * _DAY_SECONDS)
    if abs(seconds) >= _DAY_SECONDS:
        carry = math.trunc(seconds / _DAY_SECONDS)
        whole_days += carry
        seconds -= carry * _DAY_SECONDS
    whole_days += math.trunc(more_days)
    exact = us + seconds * SECOND_US
    if not -_INT64 <= exact < _INT64:
        raise _out_of_range()
    return checked(whole_months, whole_days, round(exact))


def _whole(value: float) -> int:
    if not -_INT32 <= value < _INT32:
        raise _out_of_range()
    return math.trunc(value)


def _microsecond(value: float) -> float:
    return round(value * SECOND_US) / SECOND_US
