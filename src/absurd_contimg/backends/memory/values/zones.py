"""Time zones by the names of the time zone database."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, tzinfo
from functools import cache, lru_cache

from absurd_contimg.backends.memory.errors import EngineError, Unsupported

DEFAULT = "Etc/UTC"
_UTC_NAMES = frozenset({"utc", "gmt", "zulu", "etc/utc", "universal", "greenwich", "uct"})


@cache
def _names() -> dict[str, str]:
    """The names of the time zone database by their lower-case forms."""
    return {name.lower(): name for name in zoneinfo.available_timezones()}


@lru_cache(maxsize=256)
def session_zone(name: str) -> tzinfo | None:
    """The time zone of a name in any case, None if there is none."""
    if name.lower() in _UTC_NAMES:
        return UTC
    known = _names().get(name.lower())
    return None if known is None else zoneinfo.ZoneInfo(known)


def zone_setting(name: str) -> str:
    """The name under which the setting ``timezone`` keeps `name`.

    Raises 22023 for what is none, 0A000 for an offset, which Postgres takes too.
    """
    known = _names().get(name.lower())
    if known is not None:
        return known
    if any(character.isdigit() for character in name):
        raise Unsupported(f"time zones by their offset ({name}); take one by its name")
    raise EngineError("22023", f'invalid value for parameter "TimeZone": "{name}"')
