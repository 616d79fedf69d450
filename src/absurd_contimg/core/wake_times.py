"""The ends of sleeps: what a handler gives, and what a checkpoint holds."""

from __future__ import annotations

from datetime import UTC, datetime

from absurd_contimg.core.row_values import UnreadableValueError

TIME_FORMS = "an aware datetime or seconds of the Unix epoch"


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
