"""The text forms of Postgres' types: what each accepts, what it prints, how it refuses.

These are the input and output functions of the types that Absurd's schema uses. Input raises the
error that Postgres raises, with its words.
"""

from __future__ import annotations

import re
from datetime import UTC, timedelta, timezone, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from absurd_contimg.backends.memory import times
from absurd_contimg.backends.memory.errors import EngineError, invalid_text
from absurd_contimg.backends.memory.times import DAY_US, SECOND_US

_SPACE = " \t\n\v\f\r"
_INTEGER = re.compile(
    r"([+-]?)(?:0[xX]((?:_?[0-9a-fA-F])+)|0[oO]((?:_?[0-7])+)|0[bB]((?:_?[01])+)|(\d(?:_?\d)*))\Z",
    re.ASCII,
)
INT_BITS = {"smallint": 16, "integer": 32, "bigint": 64}


def integer_in(text: str, type_name: str = "integer") -> int:
    """An integer type's input: 22P02 if it is none, 22003 if it does not fit."""
    match = _INTEGER.match(text.strip(_SPACE))
    if match is None:
        raise invalid_text(type_name, text)
    sign, hexadecimal, octal, binary, decimal = match.groups()
    for digits, base in ((hexadecimal, 16), (octal, 8), (binary, 2), (decimal, 10)):
        if digits is not None:
            digits_only = digits.replace("_", "").lstrip("0")[:80] or "0"
            value = int(digits_only, base)
    value = -value if sign == "-" else value
    limit = 1 << (INT_BITS[type_name] - 1)
    if not -limit <= value < limit:
        raise EngineError("22003", f'value "{text}" is out of range for type {type_name}')
    return value


def double_in(text: str) -> float:
    """``double precision`` input."""
    word = text.strip(_SPACE)
    bare = word.lower().lstrip("+-")
    if bare in ("nan", "inf", "infinity"):
        if bare == "nan" and word[:1] in "+-":
            raise invalid_text("double precision", text)
        return float(word)
    try:
        value = float.fromhex(word) if bare.startswith("0x") else float(_ascii_number(word))
    except OverflowError:
        value = float("inf")
    except ValueError:
        raise invalid_text("double precision", text) from None
    significand = re.split("[eEpP]", bare)[0]
    if value in (float("inf"), float("-inf")) or (
        value == 0 and any(digit in "123456789abcdef" for digit in significand.removeprefix("0x"))
    ):
        raise EngineError("22003", f'"{word}" is out of range for type double precision')
    return value


def _ascii_number(word: str) -> str:
    if not word.isascii() or "_" in word or not word:
        raise ValueError
    return word


_BOOLEANS = {
    **{"true"[:n]: True for n in range(1, 5)},
    **{"false"[:n]: False for n in range(1, 6)},
    **{"yes"[:n]: True for n in range(1, 4)},
    **{"no"[:n]: False for n in range(1, 3)},
    "on": True,
    "of": False,
    "off": False,
    "1": True,
    "0": False,
}


def boolean_in(text: str) -> bool:
    """``boolean`` input: any unambiguous beginning of true, false, yes, no, on, off; 1 and 0."""
    value = _BOOLEANS.get(text.strip(_SPACE).lower())
    if value is None:
        raise invalid_text("boolean", text)
    return value


_UUID = re.compile(r"(\{)?((?:[0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4})(?(1)\})\Z", re.ASCII)


def uuid_in(text: str) -> int:
    """``uuid`` input: a hyphen may follow each group of four digits, braces may enclose it."""
    match = _UUID.match(text)
    if match is None:
        raise invalid_text("uuid", text)
    return int(match.group(2).replace("-", ""), 16)


def uuid_out(value: int) -> str:
    """``uuid`` output."""
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


# -- time zones ---------------------------------------------------------------------------------

_NAMED_OFFSETS = {"utc": 0, "gmt": 0, "z": 0, "zulu": 0, "ut": 0, "etc/utc": 0, "universal": 0}
_ABBREVIATIONS = {
    "est": -5, "edt": -4, "cst": -6, "cdt": -5, "mst": -7, "mdt": -6, "pst": -8, "pdt": -7,
    "cet": 1, "cest": 2, "eet": 2, "eest": 3, "bst": 1, "wet": 0, "jst": 9, "msk": 3,
}  # fmt: skip
_OFFSET = re.compile(r"([+-])(\d{1,2})(?::?(\d{2}))?(?::?(\d{2}))?\Z")


@lru_cache(maxsize=256)
def zone_in(name: str) -> tzinfo | None:
    """The time zone of a name of the time zone database, None if there is none such."""
    if name.lower() in _NAMED_OFFSETS:
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def session_zone(name: str) -> tzinfo | None:
    """What ``set timezone`` takes: a name, hours east of UTC, or a POSIX offset west of it."""
    try:
        return timezone(timedelta(hours=float(name)))
    except ValueError:
        pass
    posix = re.match(r"(?:<[^>]*>|[A-Za-z]{3,})([+-]?\d{1,2})(?::(\d{2}))?\Z", name)
    if posix is not None and zone_in(name) is None:
        hours = int(posix.group(1))
        return timezone(-timedelta(hours=hours, minutes=int(posix.group(2) or 0)))
    return zone_in(name)


def _offset_us(word: str) -> int | None:
    """Microseconds east of UTC of ``+hh[:mm[:ss]]`` or an abbreviation."""
    match = _OFFSET.match(word)
    if match is not None:
        hours, minutes, seconds = (int(part or 0) for part in match.groups()[1:])
        if hours > 15 or minutes > 59 or seconds > 59:
            raise ValueError
        size = (hours * 3600 + minutes * 60 + seconds) * SECOND_US
        return -size if match.group(1) == "-" else size
    if word.lower() in _NAMED_OFFSETS:
        return 0
    hours_east = _ABBREVIATIONS.get(word.lower())
    return None if hours_east is None else hours_east * 3600 * SECOND_US


# -- timestamptz --------------------------------------------------------------------------------

_TIMESTAMP = re.compile(
    r"(?P<year>\d{4,6})[-/](?P<month>\d{1,2})[-/](?P<day>\d{1,2})"
    r"(?:(?:[Tt]|[ \t\n]+)(?P<hour>\d{1,2}):(?P<minute>\d{2})"
    r"(?::(?P<second>\d{2})(?:\.(?P<fraction>\d*))?)?"
    r"[ \t\n]*(?P<half>[aApP][mM])?)?"
    r"[ \t\n]*(?P<zone>[+-]\d{1,2}(?::?\d{2}){0,2}|(?!(?:BC|bc|AD|ad)\Z)[A-Za-z][A-Za-z0-9_/+-]*)?"
    r"[ \t\n]*(?P<era>BC|bc|AD|ad)?\Z",
    re.ASCII,
)
_COMPACT = re.compile(r"(\d{4})(\d{2})(\d{2})(?:[Tt ]?(\d{2})(\d{2})(\d{2}(?:\.\d*)?)?)?(.*)\Z")


def timestamptz_in(text: str, zone: tzinfo, now: int) -> int:
    """``timestamptz`` input; `zone` for a time without one, `now` for the words that mean it."""
    word = text.strip(_SPACE)
    special = _special_time(word.lower(), zone, now)
    if special is not None:
        return special
    compact = _COMPACT.match(word)
    if compact is not None:
        year, month, day, hour, minute, second, rest = compact.groups()
        word = f"{year}-{month}-{day} {hour or '00'}:{minute or '00'}:{second or '00'}{rest}"
    match = _TIMESTAMP.match(word)
    if match is None:
        raise invalid_timestamp(text)
    local = _local_time(match, text)
    name = match["zone"]
    if name is None:
        return times.check_range(times.from_local(local, zone))
    try:
        offset = _offset_us(name)
    except ValueError:
        raise EngineError("22009", f'time zone displacement out of range: "{text}"') from None
    if offset is None:
        named = zone_in(name)
        if named is None:
            if "/" in name:
                raise EngineError("22023", f'time zone "{name.lower()}" not recognized')
            raise invalid_timestamp(text)
        return _checked(times.from_local(local, named), text)
    return _checked(local - offset, text)


def _checked(time: int, text: str) -> int:
    if times.MIN_TIME <= time < times.END_TIME:
        return time
    raise EngineError("22008", f'timestamp out of range: "{text}"')


def invalid_timestamp(text: str) -> EngineError:
    """22007."""
    return EngineError("22007", f'invalid input syntax for type timestamp with time zone: "{text}"')


def _special_time(word: str, zone: tzinfo, now: int) -> int | None:
    if word in ("infinity", "+infinity"):
        return times.INFINITY
    if word == "-infinity":
        return times.NEG_INFINITY
    if word == "epoch":
        return 0
    if word == "now":
        return now
    days = {"yesterday": -1, "today": 0, "tomorrow": 1}.get(word)
    if days is None:
        return None
    local_day = (now + times.utc_offset_us(now, zone)) // DAY_US + days
    return times.from_local(local_day * DAY_US, zone)


def _local_time(match: re.Match[str], text: str) -> int:
    """Microseconds of the fields as if they were UTC; 22008 where one is out of range."""
    year, month, day = int(match["year"]), int(match["month"]), int(match["day"])
    hour, minute, second = (int(match[part] or 0) for part in ("hour", "minute", "second"))
    if match["half"]:
        if not 1 <= hour <= 12:
            raise _field_out_of_range(text)
        hour = hour % 12 + (12 if match["half"].lower() == "pm" else 0)
    fraction = match["fraction"] or ""
    us = round(int(fraction or 0) * 10.0 ** (6 - len(fraction)))
    if match["era"] and match["era"].lower() == "bc":
        year = 1 - year
    elif year == 0:
        raise _field_out_of_range(text)
    if not 1 <= month <= 12 or not 1 <= day <= 31:
        raise _field_out_of_range(
            text, hint='Perhaps you need a different "DateStyle" setting.' if month > 12 else None
        )
    if day > times.days_in_month(year, month):
        raise _field_out_of_range(text)
    if minute > 59 or second > 60 or hour > 24 or (hour == 24 and (minute or second or us)):
        raise _field_out_of_range(text)
    seconds = (hour * 60 + minute) * 60 + second
    return times.days_from_civil(year, month, day) * DAY_US + seconds * SECOND_US + us


def _field_out_of_range(text: str, hint: str | None = None) -> EngineError:
    return EngineError("22008", f'date/time field value out of range: "{text}"', hint=hint)


def timestamptz_out(time: int, zone: tzinfo, *, iso: bool = False) -> str:
    """``timestamptz`` output; with `iso` as JSON has it (``T``, minutes in the offset)."""
    if time == times.INFINITY:
        return "infinity"
    if time == times.NEG_INFINITY:
        return "-infinity"
    offset = times.utc_offset_us(time, zone)
    day, of_day = divmod(time + offset, DAY_US)
    year, month, dom = times.civil_from_days(day)
    seconds, us = divmod(of_day, SECOND_US)
    era = ""
    if year <= 0:
        year, era = 1 - year, " BC"
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    fraction = f".{us:06}".rstrip("0") if us else ""
    sign = "-" if offset < 0 else "+"
    minutes, rest = divmod(abs(offset) // SECOND_US, 60)
    shown = f"{sign}{minutes // 60:02}"
    if minutes % 60 or rest or iso:
        shown += f":{minutes % 60:02}"
    if rest:
        shown += f":{rest:02}"
    return f"{year:04}-{month:02}-{dom:02}{'T' if iso else ' '}{clock}{fraction}{shown}{era}"
