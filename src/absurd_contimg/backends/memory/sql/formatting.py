"""``to_char`` of times, for the patterns that reports use."""

from __future__ import annotations

import re
from collections.abc import Mapping

from absurd_contimg.backends.memory.errors import unsupported
from absurd_contimg.backends.memory.session_state import SessionState as Session
from absurd_contimg.backends.memory.sql.registry import builtin
from absurd_contimg.backends.memory.sql.types import TEXT, TIMESTAMP, TIMESTAMPTZ
from absurd_contimg.backends.memory.values import times

_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_WORDS = [
    "HH24",
    "HH12",
    "HH",
    "YYYY",
    "IYYY",
    "IYY",
    "YYY",
    "MI",
    "SS",
    "MS",
    "US",
    "MM",
    "DDD",
    "DD",
    "IW",
    "Month",
    "MONTH",
    "month",
    "Mon",
    "MON",
    "mon",
    "Day",
    "DAY",
    "day",
    "Dy",
    "DY",
    "dy",
    "AM",
    "PM",
    "am",
    "pm",
    "ID",
    "YY",
    "OF",
    "Q",
    "D",
    "WW",
    "W",
    "J",
    "SSSS",
    "SSSSS",
    "FF1",
    "FF2",
    "FF3",
    "FF4",
    "FF5",
    "FF6",
    "RM",
    "CC",
    "TZ",
    "tz",
    "BC",
    "AD",
    "TH",
    "th",
    "SP",
    "FM",
    "TM",
    "FX",
    "Y,YYY",
    "A.M.",
    "P.M.",
    "a.m.",
    "p.m.",
    "B.C.",
    "A.D.",
    "IDDD",
    "I",
    "Y",
    "TZH",
    "TZM",
]
_ANY_CASE = [
    "HH24",
    "HH12",
    "HH",
    "YYYY",
    "YYY",
    "YY",
    "IYYY",
    "MI",
    "SS",
    "MS",
    "US",
    "MM",
    "DDD",
    "DD",
    "IW",
    "ID",
    "Q",
    "D",
]
_WORDS += [word.lower() for word in _ANY_CASE]
_TOKEN = re.compile(
    r'"[^"]*"|'
    + "|".join(re.escape(word) for word in sorted(_WORDS, key=len, reverse=True))
    + r"|.",
    re.DOTALL,
)
_ALL_WORDS = frozenset(_WORDS)


_NO_ZONE = {"TZ": "", "tz": "", "TZH": "+00", "TZM": "00", "OF": "+00"}


def formatted(local: int, pattern: str, zone: Mapping[str, str] = _NO_ZONE) -> str:
    """A local time by a pattern, with the words of its `zone`; 0A000 for an unsupported part."""
    day, of_day = divmod(local, times.DAY_US)
    year, month, dom = times.civil_from_days(day)
    if year <= 0:
        raise unsupported(pattern, "to_char of years before Christ")
    hour = of_day // 3_600_000_000
    iso_year, week = times.iso_week(day)
    weekday = (day + 3) % 7
    month_name, day_name = _MONTHS[month - 1], _DAYS[weekday]
    half = "PM" if hour >= 12 else "AM"
    parts = {
        "HH24": f"{hour:02}", "HH12": f"{(hour + 11) % 12 + 1:02}",
        "HH": f"{(hour + 11) % 12 + 1:02}",
        "YYYY": f"{year:04}", "YYY": f"{year % 1000:03}", "YY": f"{year % 100:02}",
        "IYYY": f"{iso_year:04}", "MI": f"{of_day // 60_000_000 % 60:02}",
        "SS": f"{of_day // 1_000_000 % 60:02}", "MS": f"{of_day // 1000 % 1000:03}",
        "US": f"{of_day % 1_000_000:06}", "MM": f"{month:02}", "DD": f"{dom:02}",
        "DDD": f"{day - times.days_from_civil(year, 1, 1) + 1:03}", "IW": f"{week:02}",
        "Month": f"{month_name:9}", "MONTH": f"{month_name.upper():9}",
        "month": f"{month_name.lower():9}", "Mon": month_name[:3], "MON": month_name[:3].upper(),
        "mon": month_name[:3].lower(), "Day": f"{day_name:9}", "DAY": f"{day_name.upper():9}",
        "day": f"{day_name.lower():9}", "Dy": day_name[:3], "DY": day_name[:3].upper(),
        "dy": day_name[:3].lower(), "AM": half, "PM": half, "am": half.lower(),
        "pm": half.lower(), "ID": str(weekday + 1), "Q": str((month - 1) // 3 + 1),
        "D": str((weekday + 1) % 7 + 1),
    }  # fmt: skip
    parts.update(zone)
    parts.update({word.lower(): parts[word] for word in _ANY_CASE})
    pieces: list[str] = []
    for token in _TOKEN.findall(pattern):
        if token[:1] == '"':
            pieces.append(token[1:-1] if len(token) > 1 else token)
        elif token in parts:
            pieces.append(parts[token])
        elif token in _ALL_WORDS or token == "\\" or (token.isalpha() and token not in "Thms"):
            raise unsupported(pattern, f"{token} in to_char")
        else:
            pieces.append(token)
    return "".join(pieces)


def _to_char(_: Session, time: int, pattern: str) -> str | None:
    return formatted(time, pattern) if times.is_finite(time) and pattern else None


def _zoned(session: Session, time: int, pattern: str) -> str | None:
    if not times.is_finite(time) or not pattern:
        return None
    zone = session.zone
    offset = times.utc_offset_us(time, zone) // 60_000_000
    named = times.to_datetime(time).astimezone(zone).tzname() or ""
    if not named.isalpha() and "TZ" in pattern.upper().replace("TZH", "").replace("TZM", ""):
        raise unsupported(pattern, "the name of this time zone in to_char")
    sign = "-" if offset < 0 else "+"
    hours, minutes = f"{sign}{abs(offset) // 60:02}", f"{abs(offset) % 60:02}"
    words = {
        "TZ": named,
        "tz": named.lower(),
        "TZH": hours,
        "TZM": minutes,
        "OF": hours if minutes == "00" else f"{hours}:{minutes}",
    }
    return formatted(time + times.utc_offset_us(time, zone), pattern, words)


builtin("to_char", (TIMESTAMPTZ, TEXT), TEXT, _zoned)
builtin("to_char", (TIMESTAMP, TEXT), TEXT, _to_char)
