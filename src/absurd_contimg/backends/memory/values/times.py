"""Times and intervals as Postgres keeps them: integers, with infinity.

A ``timestamptz`` is a number of microseconds since 1970-01-01 UTC; `INFINITY` and `NEG_INFINITY`
stand outside its range. An ``interval`` keeps months, days and microseconds apart, because only
the calendar and the session's time zone can add them to a time. The calendar is Python's: outside
of the years 1 to 9999 times are computed and compared, not shown. Nothing here reads a clock.
"""

from __future__ import annotations

import re
from calendar import monthrange
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Any, NamedTuple

from absurd_contimg.backends.memory.errors import EngineError, Unsupported

INFINITY = 2**70  # beyond every date too
NEG_INFINITY = -INFINITY
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST = datetime(1, 1, 1, tzinfo=UTC)
_LAST = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US
MIN_TIME = -210_866_803_200_000_000  # 4714-11-24 BC 00:00:00 UTC, Postgres' first moment
END_TIME = 9_224_318_016_000_000_000  # 294277-01-01 UTC, just after its last
_MICROSECOND = timedelta(microseconds=1)
_INTERVAL_LIMIT = 2**63


class Interval(NamedTuple):
    """Postgres' ``interval``; infinite when all three fields are at their limits."""

    months: int = 0
    days: int = 0
    us: int = 0

    @property
    def is_infinite(self) -> bool:
        """True for ``infinity`` and ``-infinity``."""
        return self in (INFINITE, NEG_INFINITE)

    def span(self) -> int:
        """Microseconds with months of 30 days and days of 24 hours: how intervals compare."""
        return self.us + (self.days + 30 * self.months) * DAY_US

    def epoch_us(self) -> int:
        """``extract(epoch)`` in microseconds: years of 365.25 days, months of 30."""
        years, months = quotient(self.months, 12)
        quarter_days = 1461 * years + 120 * months + 4 * self.days
        return quarter_days * (DAY_US // 4) + self.us


INFINITE = Interval(2**31 - 1, 2**31 - 1, 2**63 - 1)
NEG_INFINITE = Interval(-(2**31), -(2**31), -(2**63))


def quotient(value: int, by: int) -> tuple[int, int]:
    """The quotient, truncated toward zero as C does it, and the rest."""
    whole = abs(value) // abs(by) * (1 if (value >= 0) == (by >= 0) else -1)
    return whole, value - whole * by


def is_finite(time: int) -> bool:
    """False for the two infinities."""
    return NEG_INFINITY < time < INFINITY


def check_range(time: int) -> int:
    """`time` if Postgres can hold it; 22008 if not."""
    if MIN_TIME <= time < END_TIME or time in (INFINITY, NEG_INFINITY):
        return time
    raise _out_of_range("timestamp")


def _out_of_range(what: str) -> EngineError:
    return EngineError("22008", f"{what} out of range")


def from_datetime(value: datetime) -> int:
    """Microseconds of an aware datetime."""
    return (value - EPOCH) // _MICROSECOND


@lru_cache(maxsize=4096)
def to_datetime(time: int) -> datetime:
    """An aware datetime in UTC; what Python cannot hold becomes its last or first moment."""
    try:
        return EPOCH + timedelta(microseconds=time)
    except OverflowError:
        return _LAST if time > 0 else _FIRST


def add_us(time: int, us: int) -> int:
    """``time + interval`` for an interval of microseconds only."""
    return check_range(time + us) if NEG_INFINITY < time < INFINITY else time


def seconds_us(seconds: float) -> int:
    """``seconds * interval '1 second'`` in microseconds, rounded half to even as rint does."""
    us = seconds * SECOND_US
    if not -_INTERVAL_LIMIT < us < _INTERVAL_LIMIT:
        raise _out_of_range("interval")
    return round(us)


def subtract(left: int, right: int) -> Interval:
    """``timestamptz - timestamptz``: days of 24 hours and the rest; infinite times count."""
    if is_finite(left) and is_finite(right):
        if not -_INTERVAL_LIMIT <= left - right < _INTERVAL_LIMIT:
            raise _out_of_range("interval")
        days, us = quotient(left - right, DAY_US)
        return Interval(0, days, us)
    if left == right:
        raise _out_of_range("interval")
    return INFINITE if left == INFINITY or right == NEG_INFINITY else NEG_INFINITE


def elapsed_us(later: int, earlier: int) -> int:
    """``extract(epoch from later - earlier)`` in microseconds; the infinities for infinite."""
    are_finite = is_finite(later) and is_finite(earlier)
    return later - earlier if are_finite else subtract(later, earlier).us


def add_interval(time: int, span: Interval, zone: tzinfo) -> int:
    """``timestamptz + interval``: months and days by the calendar of `zone`, then time."""
    if span.is_infinite:
        if is_finite(time) or (time > 0) == (span == INFINITE):
            return INFINITY if span == INFINITE else NEG_INFINITY
        raise _out_of_range("timestamp")
    if not is_finite(time):
        return time
    if span.months or span.days:
        local = _local(time, zone)
        year, month = divmod(local.year * 12 + local.month - 1 + span.months, 12)
        try:
            day = min(local.day, monthrange(year, month + 1)[1])
            moved = local.replace(year=year, month=month + 1, day=day) + timedelta(span.days)
        except (ValueError, OverflowError):
            raise _no_calendar() from None
        time = _from_local(moved, zone)
    return check_range(time + span.us)


# -- calendar and time zones --------------------------------------------------------------------


def _no_calendar() -> Unsupported:
    return Unsupported("calendars outside of the years 1 to 9999")


def _local(time: int, zone: tzinfo) -> datetime:
    """What clocks in `zone` show at a finite time."""
    try:
        return (EPOCH + timedelta(microseconds=time)).astimezone(zone)
    except OverflowError:
        raise _no_calendar() from None


def _from_local(local: datetime, zone: tzinfo) -> int:
    """The time at which clocks in `zone` show `local`.

    In a gap the clock before the change counts, in an overlap standard time, as in Postgres.
    """
    folds = [local.replace(tzinfo=zone, fold=fold).utcoffset() or timedelta() for fold in (0, 1)]
    return (local.replace(tzinfo=UTC) - EPOCH - min(folds)) // _MICROSECOND


def iso_week(time: int) -> tuple[int, int]:
    """ISO year and week of a finite time in UTC."""
    year, week, _ = _local(time, UTC).isocalendar()
    return year, week


_UNITS = ("microsecond", "second", "minute", "hour", "day", "month", "year")
_FIRST_OF_UNITS = {"microsecond": 0, "second": 0, "minute": 0, "hour": 0, "day": 1, "month": 1}


def date_trunc(time: int, unit: str, zone: tzinfo) -> int:
    """A time at the start of its unit; 0A000 for units that are not computed here."""
    if not is_finite(time) or (unit != "week" and unit not in _UNITS[1:]):
        raise Unsupported(f"date_trunc to {unit} of this time")
    local = _local(time, zone)
    if unit == "week":
        local, unit = local - timedelta(local.weekday()), "day"
    smaller: dict[str, Any] = {name: _FIRST_OF_UNITS[name] for name in _UNITS[: _UNITS.index(unit)]}
    return _from_local(local.replace(**smaller), zone)


# -- text forms ---------------------------------------------------------------------------------

_ISO = re.compile(
    r"(\d{4})-(\d\d?)-(\d\d?)"
    r"(?:(?:[ t]\s*)(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?"
    r"\s*(?:(z|utc|gmt)|([+-])(\d\d)(?::?(\d\d)(?::(\d\d))?)?)?)?",
    re.ASCII | re.IGNORECASE,
)
_ENDS = {"infinity": INFINITY, "+infinity": INFINITY, "-infinity": NEG_INFINITY}
_OTHER_WORDS = re.compile(
    r"now|epoch|today|tomorrow|yesterday|allballs|utc|gmt|zulu|z|at|on|t|am|pm|bc|ad|\s", re.ASCII
)
_OFFSET_HOURS_MAX = 15


def timestamptz_in(text: str, zone: tzinfo, now: int) -> int:
    """``timestamptz`` input; `zone` for a time without one, `now` for the word.

    Raises 22007 for what is none, 22008 for one out of range, 0A000 for a form not read here.
    """
    word = text.strip().lower()
    match = _ISO.fullmatch(word)
    if match is not None:
        return _iso(match, text, zone)
    if word in _ENDS:
        return _ENDS[word]
    if word in ("now", "epoch"):
        return now if word == "now" else 0
    if any(character.isdigit() for character in word) or (word and not _OTHER_WORDS.sub("", word)):
        raise Unsupported(f"this form of a time ({text}); write it as 2026-01-31 10:00:00+00")
    raise EngineError("22007", f'invalid input syntax for type timestamp with time zone: "{text}"')


def _iso(match: re.Match[str], text: str, zone: tzinfo) -> int:
    year, month, day = (int(part) for part in match.groups()[:3])
    hour, minute, second = (int(part or 0) for part in match.groups()[3:6])
    us, utc, sign = int((match[7] or "").ljust(6, "0")), match[8], match[9]
    offset_hours, offset_minutes, offset_seconds = (int(part or 0) for part in match.groups()[9:])
    of_day = ((hour * 60 + minute) * 60 + second) * SECOND_US + us
    is_month, is_day = 1 <= month <= 12, 1 <= day <= 31
    if not (year and is_month and is_day and day <= monthrange(year, month)[1]) or not (
        hour <= 24 and minute < 60 and second <= 60 and of_day <= DAY_US
    ):
        hint = None if not year or (is_month and is_day) else _HINT
        raise EngineError("22008", f'date/time field value out of range: "{text}"', hint=hint)
    if offset_hours > _OFFSET_HOURS_MAX or offset_minutes > 59 or offset_seconds > 59:
        raise EngineError("22009", f'time zone displacement out of range: "{text}"')
    try:
        local = datetime(year, month, day, tzinfo=UTC) + timedelta(microseconds=of_day)
    except OverflowError:
        raise _no_calendar() from None
    if utc is None and sign is None:
        return _from_local(local, zone)
    offset = ((offset_hours * 60 + offset_minutes) * 60 + offset_seconds) * SECOND_US
    return _from_local(local, UTC) + (offset if sign == "-" else -offset)


_HINT = 'Perhaps you need a different "DateStyle" setting.'


@lru_cache(maxsize=4096)
def timestamptz_out(time: int, zone: tzinfo, *, iso: bool = False) -> str:
    """``timestamptz`` output; with `iso` as JSON has it (``T``, minutes in the offset)."""
    if time == INFINITY:
        return "infinity"
    if time == NEG_INFINITY:
        return "-infinity"
    local = _local(time, zone)
    offset = (local.utcoffset() or timedelta()) // timedelta(seconds=1)
    shown_us = f".{local.microsecond:06}".rstrip("0") if local.microsecond else ""
    clock = local.replace(tzinfo=None).isoformat("T" if iso else " ", "seconds")
    sign = "-" if offset < 0 else "+"
    minutes, rest = divmod(abs(offset), 60)
    shown = f"{sign}{minutes // 60:02}"
    if minutes % 60 or rest or iso:
        shown += f":{minutes % 60:02}"
    if rest:
        shown += f":{rest:02}"
    return f"{clock}{shown_us}{shown}"
