"""Settings of a session: which the emulator has, what each takes, how ``show`` prints it.

A setting that Postgres has and the emulator lacks is refused by name: it would have no effect.
"""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Mapping
from datetime import UTC, tzinfo
from functools import cache, lru_cache

from absurd_contimg.backends.memory.errors import EngineError, Unsupported

_FIXED: Mapping[str, tuple[str, ...]] = {
    "client_encoding": ("UTF8", "utf-8", "unicode"),
    "datestyle": ("ISO, MDY", "iso"),
    "integer_datetimes": ("on",),
    "search_path": ('"$user", public',),
    "intervalstyle": ("postgres",),
    "server_encoding": ("UTF8",),
    "server_version": ("18.6",),
    "server_version_num": ("180006",),
    "standard_conforming_strings": ("on",),
    "transaction_isolation": ("read committed",),
}
"""Settings with one value only: the value, then other ways to write it."""

DEFAULTS: Mapping[str, str] = {
    "application_name": "",
    "lock_timeout": "0",
    "statement_timeout": "0",
    "timezone": "Etc/UTC",
    **{name: values[0] for name, values in _FIXED.items()},
}
"""Settings that every session has, by lower-case name."""

_CUSTOM = re.compile(r"[A-Za-z_\x80-\U0010ffff][\w$]*(\.[A-Za-z_\x80-\U0010ffff][\w$]*)+\Z")
_DURATION = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(\S*)\s*\Z", re.IGNORECASE)
_UNIT_MS = {"": 1.0, "us": 1e-3, "ms": 1.0, "s": 1e3, "min": 6e4, "h": 3.6e6, "d": 8.64e7}
_INT_MAX = 2**31 - 1


def check_name(name: str) -> str:
    """The setting's key; 0A000 if the emulator lacks it."""
    key = name.lower()
    if key not in DEFAULTS and _CUSTOM.match(name) is None:
        raise Unsupported(f"the setting {name}")
    return key


def checked(key: str, value: str) -> str:
    """The value as ``show`` prints it; 22023 or 0A000 for one that the setting does not take."""
    if key == "timezone":
        return _zone_setting(value)
    if key.endswith("_timeout"):
        return _duration(key, value)
    fixed = _FIXED.get(key)
    if fixed is None:
        return value
    if value.lower() not in map(str.lower, fixed):
        raise Unsupported(f"the setting {key} with other values than {fixed[0]}")
    return fixed[0]


def _duration(key: str, value: str) -> str:
    match = _DURATION.match(value)
    unit_ms = None if match is None else _UNIT_MS.get(match[2])
    ms = -1 if match is None or unit_ms is None else round(float(match[1]) * unit_ms)
    if not 0 <= ms <= _INT_MAX:
        raise Unsupported(f"the setting {key} with the value {value}")
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000)):
        if ms and ms % size == 0:
            return f"{ms // size}{unit}"
    return f"{ms}ms" if ms else "0"


def duration_seconds(text: str) -> float:
    """A duration that `checked` has returned, in seconds."""
    match = _DURATION.match(text)
    return 0.0 if match is None else float(match[1]) * _UNIT_MS[match[2]] / 1000


# -- time zones ---------------------------------------------------------------------------------


@cache
def _zone_names() -> dict[str, str]:
    return {name.lower(): name for name in zoneinfo.available_timezones()}


@lru_cache(maxsize=256)
def session_zone(name: str) -> tzinfo | None:
    """The time zone of a name in any case, None if there is none."""
    if name.lower() in ("utc", "etc/utc"):
        return UTC
    known = _zone_names().get(name.lower())
    return None if known is None else zoneinfo.ZoneInfo(known)


def _zone_setting(name: str) -> str:
    known = _zone_names().get(name.lower())
    if known is not None:
        return known
    if any(character.isdigit() for character in name):
        raise Unsupported(f"time zones by their offset ({name}); take one by its name")
    raise EngineError("22023", f'invalid value for parameter "TimeZone": "{name}"')
