"""Arithmetic of intervals, as Postgres does it (``timestamp.c``): each field in its own bounds,
infinity among the values, fractions of months made days and fractions of days made time.

What leaves the bounds is an error (22008). It knows no SQL and no expression; `times` adds an
interval to a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.values.times import (
    DAY_US,
    INFINITE,
    NEG_INFINITE,
    SECOND_US,
    ZERO,
    Interval,
)

_DAY_SECONDS = 86_400
_MONTH_DAYS = 30
_INT32 = 2**31
_INT64 = 2**63


def _out_of_range() -> EngineError:
    return EngineError("22008", "interval out of range")


def checked(months: int, days: int, us: int) -> Interval:
    """The finite interval of these fields; 22008 if one is outside its integer type."""
    if not (-_INT32 <= months < _INT32 and -_INT32 <= days < _INT32 and -_INT64 <= us < _INT64):
        raise _out_of_range()
    span = Interval(months, days, us)
    if span.is_infinite:
        raise _out_of_range()
    return span


def negate(span: Interval) -> Interval:
    """``- interval``."""
    if span.is_infinite:
        return NEG_INFINITE if span == INFINITE else INFINITE
    return checked(-span.months, -span.days, -span.us)


def add(one: Interval, other: Interval) -> Interval:
    """``interval + interval``; two opposite infinities have no sum (22008)."""
    if one.is_infinite or other.is_infinite:
        if one.is_infinite and other.is_infinite and one != other:
            raise _out_of_range()
        return one if one.is_infinite else other
    return checked(one.months + other.months, one.days + other.days, one.us + other.us)


def subtract(one: Interval, other: Interval) -> Interval:
    """``interval - interval``; an infinity less itself has no value (22008)."""
    if other.is_infinite:
        return add(one, negate(other))
    if one.is_infinite:
        return one
    return checked(one.months - other.months, one.days - other.days, one.us - other.us)


def multiply(span: Interval, factor: float) -> Interval:
    """``interval * number``."""
    if math.isnan(factor):
        raise _out_of_range()
    if span.is_infinite or math.isinf(factor):
        sign = _sign(span.span()) * _sign(factor)
        if sign == 0:
            raise _out_of_range()
        return INFINITE if sign > 0 else NEG_INFINITE
    return _from_parts(span.months * factor, span.days * factor, span.us * factor)


def divide(span: Interval, by: float) -> Interval:
    """``interval / number``; 22012 for zero."""
    if by == 0:
        raise EngineError("22012", "division by zero")
    if math.isnan(by) or (span.is_infinite and math.isinf(by)):
        raise _out_of_range()
    if span.is_infinite:
        return span if by > 0 else negate(span)
    return _from_parts(span.months / by, span.days / by, span.us / by)


def total(spans: Sequence[Interval]) -> Interval:
    """Their sum, in their order; ``sum`` and ``avg`` ask for at least one."""
    infinite = {span for span in spans if span.is_infinite}
    if len(infinite) > 1:
        raise _out_of_range()
    found = ZERO
    for span in spans:
        if not span.is_infinite:
            found = add(found, span)
    return infinite.pop() if infinite else found


def mean(spans: Sequence[Interval]) -> Interval:
    """Their mean; there is at least one."""
    found = total(spans)
    return found if found.is_infinite else divide(found, len(spans))


def between(low: Interval, high: Interval, part: float) -> Interval:
    """What lies at this part of the way from one to the other: ``percentile_cont``."""
    return add(multiply(subtract(high, low), part), low)


def justify(span: Interval, *, hours: bool, days: bool) -> Interval:
    """``justify_hours``, ``justify_days``, and with both ``justify_interval``."""
    if span.is_infinite:
        return span
    months, dom, us = span
    if days and hours and ((dom > 0 and us < 0) or (dom < 0 and us > 0)):
        carry = _truncated(us, DAY_US)
        dom, us = dom + carry, us - carry * DAY_US
    if hours:
        carry = _truncated(us, DAY_US)
        dom, us = dom + carry, us - carry * DAY_US
    if days:
        carry = _truncated(dom, _MONTH_DAYS)
        months, dom = months + carry, dom - carry * _MONTH_DAYS
        if months > 0 and (dom < 0 or (dom == 0 and us < 0 and hours)):
            dom, months = dom + _MONTH_DAYS, months - 1
        elif months < 0 and (dom > 0 or (dom == 0 and us > 0 and hours)):
            dom, months = dom - _MONTH_DAYS, months + 1
    if hours:
        if dom > 0 and us < 0:
            us, dom = us + DAY_US, dom - 1
        elif dom < 0 and us > 0:
            us, dom = us - DAY_US, dom + 1
    return checked(months, dom, us)


def _from_parts(months: float, days: float, us: float) -> Interval:
    """The interval of fields with fractions, rounded to microseconds where Postgres rounds."""
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


def _truncated(value: int, by: int) -> int:
    """Division that truncates toward zero, as C's does."""
    return value // by if value >= 0 else -(-value // by)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
