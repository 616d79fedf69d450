"""What a call that the database refuses means for the run that makes it, by SQLSTATE."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum

from absurd_contimg.core.errors import BackendError, BackendUnavailable


class Refusal(Enum):
    """What to do after a refusal."""

    PASSING = "repeat the call while the lease holds"
    FOREIGN = "the same, but a claim is refused loudly: a rule or change that is not Absurd's"
    NOT_OURS = "stop: Absurd says that the run is not this worker's any more"
    INVALID = "fail: the same call is refused again"

    @property
    def may_pass(self) -> bool:
        """Whether a run repeats the call."""
        return self in (Refusal.PASSING, Refusal.FOREIGN)


_NOT_OURS = re.compile(
    r'Run "[^"]*" (not found (in queue ".*"|for checkpoint|while awaiting event)|'
    r'(is not currently running|cannot be failed|does not have an active claim) in queue ".*"|'
    r'does not belong to task ".*" in queue ".*"|must be running to await events)',
    re.DOTALL,
)
_BLAMED_ARGUMENT = re.compile(
    r"(Queue name|Queue policy|TTL|partition table|(Partition|Cleanup|Detach) schedule|"
    r"(task|step|event)_name|max_attempts( \(.*\))?|extend_by|timeout|detach_min_age|"
    r"(partition|cleanup)_(lookahead|lookback|ttl|limit)) must be .*|"
    r'Queue name ".*" is too long .*|Unsupported [a-z_ ]+ ".*"|'
    r'Queue ".*" (was not found after|already exists with|does not exist).*|'
    r'Task ".*" (not found|is not currently failed) in queue ".*"|'
    r'Idempotency key ".*" in queue ".*" resolved to task .*|'
    r"default_partition policy is .*|Cannot disable default_partition .*|"
    r'Timestamp ".*" is outside UUIDv7 .*|pg_cron is not available .*',
    re.DOTALL,
)
"""Absurd's sentences under P0001, which any trigger may raise too."""


_MEANINGS: Mapping[str, Refusal] = {
    "AB001": Refusal.NOT_OURS,  # cancelled
    "AB002": Refusal.NOT_OURS,  # already failed
    "08": Refusal.PASSING,  # connection exceptions
    "23": Refusal.FOREIGN,  # constraints: Absurd's own are never violated
    "25": Refusal.PASSING,  # read-only, transaction timeouts
    "26": Refusal.PASSING,  # a prepared statement that another session made
    "28": Refusal.PASSING,  # a password that is being changed
    "3F": Refusal.PASSING,  # no schema, no procedure: a migration, or a replica that lags behind
    "40": Refusal.PASSING,  # serialisation failures, deadlocks
    "42": Refusal.FOREIGN,  # tables, columns, types that somebody has changed
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
    if state == "P0001":
        return _meaning_of_sentence(str(error))
    return _MEANINGS.get(state) or _MEANINGS.get(state[:2], Refusal.INVALID)


def _meaning_of_sentence(message: str) -> Refusal:
    if _NOT_OURS.fullmatch(message):
        return Refusal.NOT_OURS
    return Refusal.INVALID if _BLAMED_ARGUMENT.fullmatch(message) else Refusal.FOREIGN
