"""The text forms of ``timestamptz``: ISO 8601 and Postgres' own, and the words for its ends."""

from __future__ import annotations

import re
from datetime import UTC, tzinfo
from functools import lru_cache

from absurd_contimg.backends.memory.errors import EngineError, Unsupported
from absurd_contimg.backends.memory.values import times
from absurd_contimg.backends.memory.values.times import DAY_US, SECOND_US

_ISO = re.compile(
    r"(\d{4})-(\d\d?)-(\d\d?)"
    r"(?:(?:[ t]\s*)(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?"
    r"\s*(?:(z|utc|gmt)|([+-])(\d\d)(?::?(\d\d)(?::(\d\d))?)?)?)?",
    re.ASCII | re.IGNORECASE,
)
_ENDS = {"infinity": times.INFINITY, "+infinity": times.INFINITY, "-infinity": times.NEG_INFINITY}
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
    if not (year and is_month and is_day and day <= times.days_in_month(year, month)) or not (
        hour <= 24 and minute < 60 and second <= 60 and of_day <= DAY_US
    ):
        hint = None if not year or (is_month and is_day) else _HINT
        raise EngineError("22008", f'date/time field value out of range: "{text}"', hint=hint)
    if offset_hours > _OFFSET_HOURS_MAX or offset_minutes > 59 or offset_seconds > 59:
        raise EngineError("22009", f'time zone displacement out of range: "{text}"')
    local = times.days_from_civil(year, month, day) * DAY_US + of_day
    if utc is None and sign is None:
        return times.from_local(local, zone)
    offset = ((offset_hours * 60 + offset_minutes) * 60 + offset_seconds) * SECOND_US
    return local + offset if sign == "-" else local - offset


_HINT = 'Perhaps you need a different "DateStyle" setting.'


@lru_cache(maxsize=4096)
def timestamptz_out(time: int, zone: tzinfo, *, iso: bool = False) -> str:
    """``timestamptz`` output; with `iso` as JSON has it (``T``, minutes in the offset)."""
    if time == times.INFINITY:
        return "infinity"
    if time == times.NEG_INFINITY:
        return "-infinity"
    offset = 0 if zone is UTC else times.utc_offset_us(time, zone)
    day, of_day = divmod(time + offset, DAY_US)
    year, month, dom = times.civil_from_days(day)
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
