"""Times and intervals as Postgres keeps them: integers, with infinity, in any year.

A ``timestamptz`` is a number of microseconds since 1970-01-01 UTC; `INFINITY` and `NEG_INFINITY`
stand outside its range. An ``interval`` keeps months, days and microseconds apart, because only
the calendar and the session's time zone can add them to a time. Nothing here reads a clock.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import NamedTuple

from absurd_contimg.backends.memory.errors import EngineError, Unsupported, timestamp_out_of_range

INFINITY = 2**70  # beyond every date too
NEG_INFINITY = -INFINITY
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST = datetime(1, 1, 1, tzinfo=UTC)
_LAST = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US
WEEK_US = 7 * DAY_US
_CYCLE_US = 146_097 * DAY_US  # 400 years, whole weeks
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
    raise timestamp_out_of_range()


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
        raise EngineError("22008", "interval out of range")
    return round(us)


def subtract(left: int, right: int) -> Interval:
    """``timestamptz - timestamptz``: days of 24 hours and the rest; infinite times count."""
    if is_finite(left) and is_finite(right):
        if not -_INTERVAL_LIMIT <= left - right < _INTERVAL_LIMIT:
            raise EngineError("22008", "interval out of range")
        days, us = quotient(left - right, DAY_US)
        return Interval(0, days, us)
    if left == right:
        raise EngineError("22008", "interval out of range")
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
        raise timestamp_out_of_range()
    if not is_finite(time):
        return time
    if span.months or span.days:
        local = time + utc_offset_us(time, zone)
        day, of_day = divmod(local, DAY_US)
        if span.months:
            year, month, dom = civil_from_days(day)
            index = year * 12 + month - 1 + span.months
            year, month = index // 12, index % 12 + 1
            day = days_from_civil(year, month, min(dom, days_in_month(year, month)))
        time = from_local((day + span.days) * DAY_US + of_day, zone)
    return check_range(time + span.us)


# -- the calendar, for every year that Postgres has -------------------------------------------


def days_from_civil(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the proleptic Gregorian calendar (Hinnant's algorithm)."""
    year -= month <= 2
    era, of_era = divmod(year, 400)
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + day_of_year - 719_468


def civil_from_days(days: int) -> tuple[int, int, int]:
    """Astronomical year, month and day of a number of days since 1970-01-01."""
    era, of_era = divmod(days + 719_468, 146_097)
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    day_of_year = of_era - (365 * year + year // 4 - year // 100)
    month_index = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month_index + 2) // 5 + 1
    month = month_index + (3 if month_index < 10 else -9)
    return year + era * 400 + (month <= 2), month, day


def days_in_month(year: int, month: int) -> int:
    """28 to 31."""
    following = (year + 1, 1) if month == 12 else (year, month + 1)
    return days_from_civil(*following, 1) - days_from_civil(year, month, 1)


def iso_week(days: int) -> tuple[int, int]:
    """ISO year and week of a number of days since 1970-01-01, a Thursday."""
    thursday = days - (days + 3) % 7 + 3
    year = civil_from_days(thursday)[0]
    return year, (thursday - days_from_civil(year, 1, 1)) // 7 + 1


_SIZES = {"second": SECOND_US, "minute": 60 * SECOND_US, "hour": 3600 * SECOND_US, "day": DAY_US}


def truncated(local: int, unit: str) -> int:
    """A local time at the start of its unit; 0A000 for units that are not computed here."""
    if not is_finite(local):
        raise Unsupported("date_trunc of infinity")
    if unit in _SIZES:
        return local - local % _SIZES[unit]
    day = local // DAY_US
    year, month, _ = civil_from_days(day)
    if unit == "week":
        return (day - (day + 3) % 7) * DAY_US
    if unit in ("month", "year"):
        return days_from_civil(year, month if unit == "month" else 1, 1) * DAY_US
    raise Unsupported(f"date_trunc to {unit}")


# -- time zones ---------------------------------------------------------------------------------


def utc_offset_us(time: int, zone: tzinfo) -> int:
    """How far local time in `zone` is ahead of UTC at `time`.

    After Python's years that of the same day 400 years, or a multiple of them, earlier: the
    calendar repeats. Before them that of the earliest year.
    """
    if zone is UTC:
        return 0
    if time > _LAST_US:
        time -= -(-(time - _LAST_US) // _CYCLE_US) * _CYCLE_US
    moment = EPOCH + timedelta(microseconds=max(time, _FIRST_US))
    offset = moment.astimezone(zone).utcoffset()
    return 0 if offset is None else offset // _MICROSECOND


def from_local(local: int, zone: tzinfo) -> int:
    """The time at which clocks in `zone` show `local` (microseconds as if it were UTC).

    In a gap the clock before the change counts, in an overlap standard time, as in Postgres.
    """
    if zone is UTC:
        return local
    before = utc_offset_us(local - DAY_US, zone)
    after = utc_offset_us(local + DAY_US, zone)
    if before == after:
        return local - before
    candidates = [
        local - offset
        for offset in (before, after)
        if utc_offset_us(local - offset, zone) == offset
    ]
    return max(candidates) if candidates else local - before


_FIRST_US = from_datetime(datetime(2, 1, 1, tzinfo=UTC))
_LAST_US = from_datetime(datetime(9998, 12, 31, tzinfo=UTC))

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
    if not (year and is_month and is_day and day <= days_in_month(year, month)) or not (
        hour <= 24 and minute < 60 and second <= 60 and of_day <= DAY_US
    ):
        hint = None if not year or (is_month and is_day) else _HINT
        raise EngineError("22008", f'date/time field value out of range: "{text}"', hint=hint)
    if offset_hours > _OFFSET_HOURS_MAX or offset_minutes > 59 or offset_seconds > 59:
        raise EngineError("22009", f'time zone displacement out of range: "{text}"')
    local = days_from_civil(year, month, day) * DAY_US + of_day
    if utc is None and sign is None:
        return from_local(local, zone)
    offset = ((offset_hours * 60 + offset_minutes) * 60 + offset_seconds) * SECOND_US
    return local + offset if sign == "-" else local - offset


_HINT = 'Perhaps you need a different "DateStyle" setting.'


@lru_cache(maxsize=4096)
def timestamptz_out(time: int, zone: tzinfo, *, iso: bool = False) -> str:
    """``timestamptz`` output; with `iso` as JSON has it (``T``, minutes in the offset)."""
    if time == INFINITY:
        return "infinity"
    if time == NEG_INFINITY:
        return "-infinity"
    offset = 0 if zone is UTC else utc_offset_us(time, zone)
    day, of_day = divmod(time + offset, DAY_US)
    year, month, dom = civil_from_days(day)
    seconds, us = divmod(of_day, SECOND_US)
    era = ""
    if year <= 0:
        year, era = 1 - year, " BC"
    shown_clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    shown_us = f".{us:06}".rstrip("0") if us else ""
    sign = "-" if offset < 0 else "+"
    minutes, rest = divmod(abs(offset) // SECOND_US, 60)
    shown = f"{sign}{minutes // 60:02}"
    if minutes % 60 or rest or iso:
        shown += f":{minutes % 60:02}"
    if rest:
        shown += f":{rest:02}"
    return f"{year:04}-{month:02}-{dom:02}{'T' if iso else ' '}{shown_clock}{shown_us}{shown}{era}"
