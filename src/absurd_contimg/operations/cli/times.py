"""Times as a person types them and as the registry has them."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

from absurd_contimg.errors import SettingError

_MJD_EPOCH = datetime(1858, 11, 17, tzinfo=UTC)


def utc_of(mjd: float) -> datetime:
    """The time of a modified Julian date; raises `OverflowError` for one beyond the calendar."""
    return _MJD_EPOCH + timedelta(days=mjd)


def parse_time(text: str, name: str) -> datetime:
    """A time in UTC, from ISO 8601 or an MJD; raises `SettingError` that names the option."""
    with suppress(ValueError, OverflowError):
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    with suppress(ValueError, OverflowError):
        return utc_of(float(text))
    raise SettingError(
        f"{name} {text!r} is no time.", "Write it as 2025-01-15T10:00 (UTC) or as an MJD."
    )
