"""The age of a task, as far as its id tells: Absurd's ids are UUIDv7, which begin with a time."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

_VERSION = 7
_TIME_BITS_BELOW = 80


def is_older_than(task_id: str, moment: datetime) -> bool:
    """Whether a task was spawned before a moment; False for an id that does not tell."""
    try:
        value = UUID(task_id)
    except ValueError:
        return False
    milliseconds = value.int >> _TIME_BITS_BELOW
    return value.version == _VERSION and milliseconds < int(moment.timestamp() * 1000)
