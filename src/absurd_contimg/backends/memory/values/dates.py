"""Dates as Postgres keeps them: a number of days since 1970-01-01, with infinity at both ends.

Their range is wider than that of times: it ends in the year 5,874,897. Times are microseconds, as
in `times`.
"""

from __future__ import annotations

from datetime import UTC, tzinfo

from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.values import times
from absurd_contimg.backends.memory.values.times import DAY_US
from absurd_contimg.backends.memory.values.timestamps import time_in, timestamptz_out

INFINITY = 2**31 - 1
NEG_INFINITY = -(2**31)
_FIRST = -2_440_588  # 4714-11-24 BC, day 0 of the Julian count
_END = 2_145_042_906  # 5874898-01-01


def is_finite(day: int) -> bool:
    """False for the two infinities."""
    return NEG_INFINITY < day < INFINITY


def checked(day: int, shown: str = "") -> int:
    """A finite date, if Postgres can hold it; 22008 if not, with `shown` after its message."""
    if not _FIRST <= day < _END:
        raise EngineError("22008", f"date out of range{shown}")
    return day


def add(day: int, days: int) -> int:
    """``date + integer``."""
    return checked(day + days) if is_finite(day) else day


def difference(one: int, other: int) -> int:
    """``date - date`` in days."""
    if not (is_finite(one) and is_finite(other)):
        raise EngineError("22008", "cannot subtract infinite dates")
    return one - other


def of_local(time: int) -> int:
    """The date of a local time."""
    if times.is_finite(time):
        return time // DAY_US
    return INFINITY if time > 0 else NEG_INFINITY


def to_local(day: int) -> int:
    """The local time at which the day begins, be it after the last one that Postgres has."""
    if is_finite(day):
        return day * DAY_US
    return times.INFINITY if day > 0 else times.NEG_INFINITY


def midnight(day: int, zone: tzinfo = UTC) -> int:
    """When the day begins in `zone`; 22008 for a day after the last time that there is."""
    local = to_local(day)
    if times.END_TIME <= local < times.INFINITY:
        raise EngineError("22008", "date out of range for timestamp")
    return times.from_local(local, zone) if is_finite(day) else local


def date_in(text: str, now: int) -> int:
    """``date`` input; `now` for the words that mean it."""
    day = of_local(time_in(text, UTC, now, "date"))
    return checked(day, f': "{text}"') if is_finite(day) else day


def date_out(day: int) -> str:
    """``date`` output."""
    if not is_finite(day):
        return "infinity" if day > 0 else "-infinity"
    shown = timestamptz_out(day * DAY_US, UTC)
    return shown.split(" ", 1)[0] + (" BC" if shown.endswith("BC") else "")
