"""``interval``: its text forms, and arithmetic as Postgres does it (``timestamp.c``).

Fractions of months become days, fractions of days become time; a field out of its bounds is 22008.
Of the text forms the usual ones are read: numbers with units, and ``hh:mm:ss``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from operator import truediv

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
_UNITS = {
    word: (field, size)
    for words, field, size in (
        ("us usec usecs microsecond microseconds", "us", 1),
        ("ms msec msecs millisecond milliseconds", "us", 1000),
        ("s sec secs second seconds", "us", SECOND_US),
        ("m min mins minute minutes", "us", 60 * SECOND_US),
        ("h hr hrs hour hours", "us", 3600 * SECOND_US),
        ("d day days", "days", 1),
        ("w week weeks", "days", 7),
        ("mon mons month months", "months", 1),
        ("y yr yrs year years", "months", 12),
    )
    for word in words.split()
}
"""The field of an interval that a unit counts in, and how much it is."""
_CLOCK_UNITS = {unit for unit in _UNITS.values() if unit[0] == "us"}
_ENDS = {"infinity": INFINITE, "+infinity": INFINITE, "-infinity": NEG_INFINITE}
_CLOCK = r"([+-]?)(\d+):([0-5]\d)(?::([0-5]\d(?:\.\d{1,6})?))?"
_PART = re.compile(rf"\s*,?\s*(?:{_CLOCK}|([+-]?\d+(?:\.\d+)?)\s*([a-z]*))", re.ASCII)


def _out_of_range() -> EngineError:
    return EngineError("22008", "interval out of range")


def interval_in(text: str) -> Interval:
    """``interval`` input; 22007 for what is none, 0A000 for a form that is not read here."""
    word = text.strip().lower()
    if word in _ENDS:
        return _ENDS[word]
    if not re.search(r"\d|^p", word):
        raise _invalid(text)
    other_form = Unsupported(f"this form of an interval ({text})")
    position, span, units = 0, Interval(), set[tuple[str, int]]()
    try:
        while position < len(word):
            match = _PART.match(word, position)
            if match is None:
                raise other_form
            given, part = _part(match, text)
            if given & units:
                raise other_form
            position, span, units = match.end(), add(span, part), units | given
    except EngineError as error:
        raise other_form if error.sqlstate == "22008" else error from None
    return span


def _invalid(text: str) -> EngineError:
    return EngineError("22007", f'invalid input syntax for type interval: "{text}"')


def _part(match: re.Match[str], text: str) -> tuple[set[tuple[str, int]], Interval]:
    """A number with its unit, or a time of day: the units that it gives, and how long it is."""
    sign, hours, minutes, seconds, number, unit = match.groups()
    if number is None:
        us = round(float(seconds or 0) * SECOND_US)
        us += (int(hours) * 60 + int(minutes)) * 60 * SECOND_US
        return _CLOCK_UNITS, checked(0, 0, -us if sign == "-" else us)
    if unit and unit not in _UNITS and unit[0] not in "acdmu":  # Postgres has more of these
        raise _invalid(text)
    field, size = _UNITS.get(unit or "s") or ("", 0)
    value = float(number) if "." in number else int(number)
    if not size or (field == "months" and "." in number):
        raise Unsupported(f"this unit of an interval ({text})")
    whole = math.trunc(value * size)
    if field == "days":
        rest = _whole_us(value * size - whole, DAY_US)
        return {(field, size)}, checked(0, whole, rest)
    if field == "months":
        return {(field, size)}, checked(whole, 0, 0)
    units = {unit for unit in _CLOCK_UNITS if unit[1] <= size}  # a fraction gives smaller ones
    return units if "." in number else {(field, size)}, checked(0, 0, _whole_us(value, size))


def _whole_us(value: float, size: int) -> int:
    """Microseconds of a number of units; half of one is rounded toward zero."""
    whole = math.trunc(value)
    exact = (value - whole) * size
    rest = exact - math.trunc(exact)
    return whole * size + math.trunc(exact) + (1 if rest > 0.5 else -1 if rest < -0.5 else 0)


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


def scaled(span: Interval, number: float, work: Callable[[float, float], float]) -> Interval:
    """``interval * number`` or ``interval / number``, both finite; 22012 for a division by zero.

    A fraction of a field goes over into the next smaller one.
    """
    if span.is_infinite or not math.isfinite(number):
        raise Unsupported("intervals times or by infinity")
    if work is truediv and number == 0:
        raise EngineError("22012", "division by zero")
    months, days, us = (work(field, number) for field in span)
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
