"""A server whose commits wait for a synchronous standby that is gone: how it is seen, what to do.

Such a COMMIT waits for ever, without regard to any timeout of the server, and keeps its locks. Its
change is made on the server all the same, and seen by others when the wait is cancelled.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import LiteralString, TypeVar

import psycopg
from psycopg.abc import PQGen

_T = TypeVar("_T")

COMMIT_SECONDS = 5.0
"""How long a change may wait before the server is asked whether a standby is the cause."""

REMEDY = (
    "Bring the standby back or, as a superuser, do without it: alter system set "
    "synchronous_standby_names = ''; select pg_reload_conf()"
)
"""Without its full stop, which a statement has not."""

MISSING: LiteralString = r"""
select names from (
  select current_setting('synchronous_standby_names') as names,
         (select count(*) from pg_catalog.pg_stat_activity
           where wait_event = 'SyncRep' and query_start < clock_timestamp() - interval '3 s')
           as waiting,
         (select count(*) from pg_catalog.pg_stat_replication
           where sync_state in ('sync', 'quorum')) as present,
         (select count(*) from pg_catalog.pg_stat_replication where sync_state is null) as hidden
) server
where names <> '' and (waiting > 0 or (
  hidden = 0
  and present < coalesce(substring(names from '(?i)^\s*(?:first|any)?\s*(\d+)\s*\(')::integer, 1)
  and current_setting('synchronous_commit') not in ('off', 'local')
  and current_setting('max_wal_senders') <> '0'))
"""
"""The setting, if commits wait for more standbys than there are, or one has waited for seconds.

A role without pg_read_all_stats sees of other roles neither their waits nor their standbys."""


_PROBLEM = "server waits for a synchronous standby that does not answer (synchronous_standby_names)"
WAIT_FOR_STANDBY = f"The {_PROBLEM}. {REMEDY}"


@dataclass(frozen=True, slots=True)
class MissingStandby:
    """What `MISSING` returns."""

    names: str
    """The setting."""


class CommitUnconfirmed(psycopg.OperationalError):
    """A commit has no answer: its change may be made all the same, as if the answer was lost."""

    def __init__(self, problem: str = f"the {_PROBLEM}", remedy: str = REMEDY) -> None:
        super().__init__(problem)
        self.remedy = remedy


class WaitNotice:
    """Whether a cancelled COMMIT has waited for a standby: the server says so in a warning."""

    def __init__(self) -> None:
        self.has_come = False

    def __call__(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        """As a handler of notices; not by the message, whose language is the server's."""
        self.has_come |= diagnostic.source_function == "SyncRepWaitForLSN"


class Unanswered(Exception):
    """The generator that is waited for has not ended in time; it can be waited for again."""


def bounded(gen: PQGen[_T], seconds: float) -> PQGen[_T]:
    """A generator of psycopg's that raises `Unanswered` if it has not ended after this time.

    psycopg's own bound came with 3.3, and its error is a private one.
    """
    give_up = time.monotonic() + seconds
    try:
        waits_for = next(gen)
        while True:
            ready = yield waits_for
            if not ready and time.monotonic() >= give_up:
                raise Unanswered
            waits_for = gen.send(ready)
    except StopIteration as end:
        result: _T = end.value
        return result
