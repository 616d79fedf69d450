"""Time zones as Postgres names them: the time zone database's, POSIX's, and plain offsets."""

from __future__ import annotations

import re
import zoneinfo
from datetime import UTC, timedelta, timezone, tzinfo
from functools import cache, lru_cache

from absurd_contimg.backends.memory.errors import EngineError, unsupported

OFFSET_HOURS_MAX = 168
_PYTHON_HOURS_MAX = 24
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
_POSIX_NAME = r"(?:<[^>]*>|[^0-9,+\-]*)"
_POSIX_TIME = r"[+-]?\d{1,3}(?::\d{1,2}(?::\d{1,2})?)?"
_POSIX = re.compile(
    rf"{_POSIX_NAME}(?P<sign>[+-]?)(?P<hours>\d{{1,3}})"
    r"(?::(?P<minutes>\d{1,2})(?::(?P<seconds>\d{1,2}))?)?",
    re.ASCII,
)
_POSIX_DAY = rf",(?:M\d+\.\d+\.\d+|J?\d+)(?:/{_POSIX_TIME})?"
_POSIX_DAYLIGHT = re.compile(
    rf"(?:<[^>]*>|[^0-9,+\-]+)(?:{_POSIX_TIME})?(?:{_POSIX_DAY}{_POSIX_DAY})?", re.ASCII
)
"""What may follow: the name of the summer time, its offset, and when it begins and ends."""


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


def zone_setting(name: str) -> str:
    """The name under which the setting ``timezone`` keeps `name`; raises 22023 for what is none.

    A number is hours east of UTC. POSIX's form counts west of it.
    """
    hours = _number(name)
    if hours is None:
        known = _names().get(name.lower())
        if known is not None:
            return known
        zone = session_zone(name.upper())
        if zone is None:
            raise _refusal(name)
        if (zone.utcoffset(None) or timedelta()).seconds % 60:
            raise EngineError(
                "22023",
                f'time zone "{name}" appears to use leap seconds',
                detail="PostgreSQL does not support leap seconds.",
            )
        return name.upper()
    if not abs(hours) < OFFSET_HOURS_MAX:
        raise _refusal(name, "UTC timezone offset is out of range.")
    size = int(abs(hours) * 3600)
    sign, opposite = ("-", "+") if hours < 0 and size else ("+", "-")
    shown = f"{size // 3600:02}"
    if size % 3600:
        shown += f":{size // 60 % 60:02}"
    if size % 60:
        shown += f":{size % 60:02}"
    setting = f"<{sign}{shown}>{opposite}{shown}"
    session_zone(setting)
    return setting


def _refusal(name: str, detail: str | None = None) -> EngineError:
    return EngineError("22023", f'invalid value for parameter "TimeZone": "{name}"', detail=detail)


def _number(name: str) -> float | None:
    """The number that is written, None if it is none; C takes blanks before it, not after."""
    try:
        return None if name[-1:].isspace() else float(name)
    except ValueError:
        return None


@lru_cache(maxsize=256)
def session_zone(name: str) -> tzinfo | None:
    """The time zone of the setting's value, or of what `zone_setting` takes; None if of neither.

    Raises 0A000 for what Postgres knows and Python's time zones cannot say.
    """
    zone = zone_in(name)
    if zone is not None:
        return zone
    posix = _POSIX.match(name)
    if posix is None:
        return None
    hours, minutes, seconds = (int(posix[part] or 0) for part in ("hours", "minutes", "seconds"))
    if hours >= OFFSET_HOURS_MAX or minutes > 59 or seconds > 59:
        return None
    rest = name[posix.end() :]
    if rest and not _POSIX_DAYLIGHT.fullmatch(rest):
        return None
    if rest:
        raise unsupported(name, "POSIX time zones with summer time (take one by its name)")
    west = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    if hours >= _PYTHON_HOURS_MAX:
        raise unsupported(name, "time zones a day or more from UTC")
    return timezone(west if posix["sign"] == "-" else -west)
