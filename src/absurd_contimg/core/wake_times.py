"""The ends of sleeps and of leases: what a handler gives, and what a checkpoint holds."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from absurd_contimg.core.row_values import UnreadableValueError

TIME_FORMS = "an aware datetime or seconds of the Unix epoch"
SECONDS_MAX = 2**31 - 1
"""The longest that Absurd's integers hold: 68 years."""


def extension_seconds(given: float) -> int:
    """By how much a handler extends its lease, rounded up.

    What Absurd cannot take is refused here: the lease, which is extended meanwhile by its own
    length, would have the call repeated for ever.
    """
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    if is_number and 0 <= given <= SECONDS_MAX:
        return math.ceil(given)
    raise ValueError(
        f"heartbeat: {given!r} is no number of seconds from 0 to {SECONDS_MAX}. "
        "Give one, or none for the lease's own length."
    )


def no_time_error(step_name: str, given: object, wanted: str) -> ValueError:
    """For a sleep whose end is no time."""
    return ValueError(
        f"sleep {step_name!r}: {given!r} is no time with a time zone before the year 10000. "
        f"Give {wanted}."
    )


def saved_time(checkpoint_name: str, saved: str) -> datetime:
    """The end of a sleep as a checkpoint has it; another SDK may have written it."""
    try:
        return datetime.fromisoformat(saved).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UnreadableValueError(f"checkpoint {checkpoint_name!r} has no time: {error}") from None
