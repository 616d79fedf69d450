"""What a call that the database refuses means for the run that makes it, by SQLSTATE."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from absurd_contimg.core.errors import BackendError, BackendUnavailable


class Refusal(Enum):
    """What to do after a refusal."""

    PASSING = "repeat the call while the lease holds"
    NOT_OURS = "stop: Absurd says that the run is not this worker's any more"
    INVALID = "fail: the same call is refused again"


_MEANINGS: Mapping[str, Refusal] = {
    "AB001": Refusal.NOT_OURS,  # cancelled
    "AB002": Refusal.NOT_OURS,  # already failed
    "P0001": Refusal.NOT_OURS,  # Absurd's other sentences: not found, not currently running
    "08": Refusal.PASSING,  # connection exceptions
    "25": Refusal.PASSING,  # read-only, transaction timeouts
    "26": Refusal.PASSING,  # a prepared statement that another session made
    "28": Refusal.PASSING,  # a password that is being changed
    "3F": Refusal.PASSING,  # no schema, no procedure: a migration, or a replica that lags behind
    "40": Refusal.PASSING,  # serialisation failures, deadlocks
    "42501": Refusal.PASSING,  # no privilege
    "42883": Refusal.PASSING,
    "53": Refusal.PASSING,  # too many connections, no memory, disk full
    "55": Refusal.PASSING,  # lock timeouts, recovery in progress
    "57": Refusal.PASSING,  # statement timeouts, shutdown, start
    "58": Refusal.PASSING,  # input and output errors of the server
    "XX": Refusal.PASSING,  # internal errors
}
"""By SQLSTATE or its class, its first two characters. All others are `Refusal.INVALID`: they blame
what was sent, and a handler may have sent it."""


def meaning_of(error: BackendError) -> Refusal:
    """What a refusal means for the run; no answer at all may pass too."""
    if isinstance(error, BackendUnavailable):
        return Refusal.PASSING
    state = error.sqlstate or ""  # empty: the driver did not send it
    return _MEANINGS.get(state) or _MEANINGS.get(state[:2], Refusal.INVALID)
