"""Times that a person types."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

from absurd_contimg.errors import SettingError

_MJD_EPOCH = datetime(1858, 11, 17, tzinfo=UTC)


def parse_time(text: str, name: str) -> datetime:
    """A time in UTC, from ISO 8601 or an MJD; raises `SettingError` that names the option."""
    with suppress(ValueError, OverflowError):
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    with suppress(ValueError, OverflowError):
        return _MJD_EPOCH + timedelta(days=float(text))
    raise SettingError(
        f"{name} {text!r} is no time.", "Write it as 2025-01-15T10:00 (UTC) or as an MJD."
    )
