"""Time zones as Postgres names them: the time zone database's, POSIX's, and plain offsets."""

from __future__ import annotations

import re
import zoneinfo
from datetime import UTC, timedelta, timezone, tzinfo
from functools import cache, lru_cache

OFFSET_HOURS_MAX = 168
DEFAULT = "Etc/UTC"
_SECOND_US = 1_000_000
_UTC_NAMES = frozenset({"utc", "gmt", "zulu", "etc/utc", "universal", "greenwich", "uct"})
_ABBREVIATIONS: dict[str, float] = {
    "acst": 9.5, "aedt": 11, "aest": 10, "akdt": -8, "akst": -9, "ast": -4, "adt": -3, "awst": 8,
    "bst": 1, "cct": 8, "cdt": -5, "cest": 2, "cet": 1, "cst": -6, "edt": -4, "eest": 3, "eet": 2,
    "est": -5, "hkt": 8, "hst": -10, "ict": 7, "idt": 3, "ist": 2, "jst": 9, "kst": 9, "mdt": -6,
    "mest": 2, "met": 1, "msd": 4, "msk": 3, "mst": -7, "ndt": -2.5, "nst": -3.5, "nzdt": 13,
    "nzst": 12, "pdt": -7, "pht": 8, "pkt": 5, "pst": -8, "wadt": 8, "west": 1, "wet": 0,
    "gmt": 0, "uct": 0, "ut": 0, "utc": 0, "z": 0, "zulu": 0,
}  # fmt: skip
"""Hours east of UTC of the more usual abbreviations of Postgres' default set."""

DAYLIGHT = frozenset({
    "adt", "aedt", "akdt", "bst", "cdt", "cest", "edt", "eest", "idt", "mdt", "mest", "msd", "ndt",
    "nzdt", "pdt", "wadt", "west",
})  # fmt: skip
"""The abbreviations of summer times."""
_POSIX = re.compile(
    r"(?:<(?P<quoted>[^>]*)>|(?P<name>[A-Za-z]*))(?P<sign>[+-]?)(?P<hours>\d{1,3})"
    r"(?::(?P<minutes>\d{1,2})(?::(?P<seconds>\d{1,2}))?)?\Z",
    re.ASCII,
)


@cache
def _names() -> dict[str, str]:
    """The names of the time zone database by their lower-case forms."""
    return {name.lower(): name for name in zoneinfo.available_timezones()}


@lru_cache(maxsize=256)
def zone_in(name: str) -> tzinfo | None:
    """The time zone of a name of the time zone database in any case, None if there is none."""
    if name.lower() in _UTC_NAMES:
        return UTC
    known = _names().get(name.lower())
    return None if known is None else zoneinfo.ZoneInfo(known)


def abbreviation_us(word: str) -> int | None:
    """Microseconds east of UTC of an abbreviation."""
    hours = _ABBREVIATIONS.get(word.lower())
    return None if hours is None else round(hours * 3600) * _SECOND_US


def zone_setting(name: str) -> str | None:
    """The name under which the setting ``timezone`` keeps `name`, None if it takes none such.

    A number is hours east of UTC. POSIX's form counts west of it.
    """
    try:
        hours = float(name)
    except ValueError:
        known = _names().get(name.lower())
        if known is not None:
            return known
        return None if session_zone(name.upper()) is None else name.upper()
    if not abs(hours) < OFFSET_HOURS_MAX:
        return None
    size = int(abs(hours) * 3600)
    sign, opposite = ("-", "+") if hours < 0 and size else ("+", "-")
    shown = f"{size // 3600:02}"
    if size % 3600:
        shown += f":{size // 60 % 60:02}"
    if size % 60:
        shown += f":{size % 60:02}"
    return f"<{sign}{shown}>{opposite}{shown}"


def offset_detail(name: str) -> str | None:
    """What Postgres adds where `zone_setting` refuses a number."""
    try:
        float(name)
    except ValueError:
        return None
    return "UTC timezone offset is out of range."


@lru_cache(maxsize=256)
def session_zone(name: str) -> tzinfo | None:
    """The time zone of the setting's value, or of what `zone_setting` takes; None if of neither."""
    zone = zone_in(name)
    if zone is not None:
        return zone
    try:
        return timezone(timedelta(hours=float(name)))
    except (ValueError, OverflowError):
        pass
    posix = _POSIX.match(name)
    if posix is None or not name:
        return None
    parts = (int(posix[part] or 0) for part in ("hours", "minutes", "seconds"))
    hours, minutes, seconds = parts
    west = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    if hours >= 24 or minutes > 59 or seconds > 59:
        return None
    return timezone(west if posix["sign"] == "-" else -west)
