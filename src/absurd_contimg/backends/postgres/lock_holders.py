"""For what a server lets a session wait: locks on the tables of queues and registry, and who holds
them, or a synchronous standby that is gone. Asked on a session of its own, for a bounded time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import LiteralString, TypeVar

import psycopg
from psycopg.rows import class_row

from absurd_contimg.backends.postgres.sessions import AsyncSession, Session
from absurd_contimg.backends.postgres.synchronous_standby import (
    MISSING,
    WAIT_FOR_STANDBY,
    MissingStandby,
)
from absurd_contimg.core.errors import BackendError, BackendUnavailable, UnsuitableDatabase

_Row = TypeVar("_Row")

LOCK_SECONDS = 60.0
"""How long a command waits for a lock of somebody else."""
MODES = (
    *("AccessShareLock", "RowShareLock", "RowExclusiveLock", "ShareUpdateExclusiveLock"),
    *("ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"),
)
"""Of locks on tables, the weakest first."""
OF_VACUUM = MODES.index("ShareUpdateExclusiveLock")
_OF_CALLS = MODES.index("ShareLock")
"""The weakest mode for which a vacuum waits, and that for which calls of Absurd's procedures do."""
_ANSWER_SECONDS = 3.0
_QUERY_CHARACTERS = 60

_QUERY: LiteralString = """
with table_locks as (
  select l.pid, l.virtualtransaction, l.mode from pg_catalog.pg_locks l
    join pg_catalog.pg_class c on c.oid = l.relation
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
   where n.nspname = %(schema)s and l.granted
     and l.database = (select oid from pg_catalog.pg_database where datname = current_database())
), waiting as (
  select distinct a.pid from pg_catalog.pg_locks l
    join pg_catalog.pg_stat_activity a on a.pid = l.pid
   where a.datname = current_database() and not l.granted
), holders as (
  select pid from table_locks where mode = any(%(modes)s)
  union
  select pg_catalog.unnest(pg_catalog.pg_blocking_pids(pid)) from waiting
)
select pid, coalesce(usename, '') as user_name, coalesce(application_name, '') as application,
       coalesce(client_addr::text, '') as client,
       extract(epoch from clock_timestamp() - coalesce(xact_start, backend_start))::float8
         as seconds,
       case when backend_start is null then null else coalesce(query, '') end as query,
       null as prepared
  from pg_catalog.pg_stat_activity join holders using (pid)
 where pid <> pg_backend_pid() and pid not in (select pid from waiting)
union all
select 0, owner, '', '', extract(epoch from clock_timestamp() - prepared)::float8, null, gid
  from pg_catalog.pg_prepared_xacts
 where database = current_database() and transaction in (
   select l.transactionid from pg_catalog.pg_locks l
     join table_locks t on t.pid is null and t.virtualtransaction = l.virtualtransaction
    where l.pid is null and l.locktype = 'transactionid'
      and (t.mode = any(%(modes)s) or t.mode <> 'AccessShareLock'))
 order by seconds desc nulls last
"""
# Who waits for a lock is not the cause, though others wait behind it. That is taken from pg_locks,
# which hides nothing; of another role's session pg_stat_activity hides all but its name.


@dataclass(frozen=True, slots=True)
class LockHolder:
    """A session of the server, or a prepared transaction, which no session has."""

    pid: int
    """0 of a prepared transaction."""
    user_name: str
    application: str
    client: str
    """Its address; empty for one on the server's own host."""
    seconds: float | None
    """How long its transaction has lasted; None if this user may not see it."""
    query: str | None
    """Its statement, or the last one; None if this user may not see it."""
    prepared: str | None
    """The name of a prepared transaction, until whose end its locks outlast even the server."""

    def __str__(self) -> str:
        if self.prepared is not None:
            name = f'the prepared transaction "{self.prepared}" of user {self.user_name}'
            return f"{name}, for {self.seconds or 0.0:.0f} s"
        who = f"session {self.pid} of user {self.user_name or '?'}"
        application = f" ({self.application})" if self.application else ""
        client = f" from {self.client}" if self.client else ""
        if self.seconds is None or self.query is None:
            return (
                f"{who}{application}, whose time and statement are hidden from this user (it "
                "lacks pg_read_all_stats)"
            )
        words = " ".join(self.query.split())
        query = words[:_QUERY_CHARACTERS] + ("..." if len(words) > _QUERY_CHARACTERS else "")
        return f"{who}{application}{client}, for {self.seconds:.0f} s, with: {query or '?'}"

    @property
    def remedy(self) -> str:
        """A sentence without its full stop, which a statement has not."""
        if self.prepared is not None:
            name = self.prepared.replace("'", "''")
            return f"In this database, as its user or a superuser: rollback prepared '{name}'"
        return (
            "End its transaction there, or as its user or a superuser: "
            f"select pg_terminate_backend({self.pid})"
        )


def name_holders(holders: Iterable[LockHolder]) -> str:
    """Who holds the locks and what to do, as sentences; empty without any."""
    listed = list(holders)
    if not listed:
        return ""
    names = "; ".join(map(str, listed[:3]))
    more = f", and {len(listed) - 3} more" if len(listed) > 3 else ""
    return f"A lock on the tables is held by {names}{more}. {listed[0].remedy}"


async def explain_wait(url: str) -> str:
    """For what the server lets others wait, and what to do, as sentences; empty if not known."""
    is_missing, holders = await asyncio.gather(standby_is_missing(url), find_lock_holders(url))
    return WAIT_FOR_STANDBY if is_missing else name_holders(holders)


def explain_wait_now(url: str, schema: str = "absurd", weakest: int = _OF_CALLS) -> str:
    """The same for code that is not asynchronous, of any schema, from the weakest mode on."""
    if find_missing_standby_now(url):
        return WAIT_FOR_STANDBY
    return name_holders(find_lock_holders_now(url, schema, weakest))


async def find_lock_holders(url: str) -> list[LockHolder]:
    """The sessions now; none if the server does not tell in a few seconds."""
    return await _ask(url, LockHolder, _QUERY, _values("absurd", _OF_CALLS))


def find_lock_holders_now(
    url: str, schema: str = "absurd", weakest: int = _OF_CALLS
) -> list[LockHolder]:
    """The same for code that is not asynchronous, of any schema, from the weakest mode on."""
    return _ask_now(url, LockHolder, _QUERY, _values(schema, weakest))


async def standby_is_missing(url: str) -> bool:
    """Whether commits wait for a synchronous standby that is not there, as far as can be seen."""
    return bool(await _ask(url, MissingStandby, MISSING))


def find_missing_standby_now(url: str) -> list[MissingStandby]:
    """The same for code that is not asynchronous: none or one."""
    return _ask_now(url, MissingStandby, MISSING)


def require_commits(url: str) -> None:
    """Raise `BackendUnavailable` where changes would wait for a standby that is not there."""
    if find_missing_standby_now(url):
        raise BackendUnavailable(WAIT_FOR_STANDBY)


async def _ask(
    url: str, record: type[_Row], query: LiteralString, values: Mapping[str, object] | None = None
) -> list[_Row]:
    with suppress(psycopg.Error, UnsuitableDatabase, TimeoutError):
        async with asyncio.timeout(_ANSWER_SECONDS):
            session = await AsyncSession.connect(url, autocommit=True)
            try:
                cursor = session.cursor(row_factory=class_row(record))
                await cursor.execute(query, values)
                return await cursor.fetchall()
            finally:
                session.pgconn.finish()
    return []


def _ask_now(
    url: str, record: type[_Row], query: LiteralString, values: Mapping[str, object] | None = None
) -> list[_Row]:
    with (
        suppress(psycopg.Error, UnsuitableDatabase),
        Session.connect(url, autocommit=True) as session,
        session.transaction(),
    ):
        session.execute(f"set local statement_timeout = '{_ANSWER_SECONDS:g}s'".encode())
        cursor = session.cursor(row_factory=class_row(record))
        return cursor.execute(query, values).fetchall()
    return []


def _values(schema: str, weakest: int) -> dict[str, object]:
    return {"schema": schema, "modes": list(MODES[weakest:])}


def bound_of_locks(session: Session | AsyncSession) -> bytes:
    """The statement that bounds how long a session waits for a lock.

    Behind a pooler it does nothing: it would stay with a connection that others use next.
    """
    return b"" if session.pooled else f"set lock_timeout = '{LOCK_SECONDS:g}s'".encode()


@contextmanager
def naming_holders(url: str, schema: str = "absurd", weakest: int = _OF_CALLS) -> Iterator[None]:
    """Raise `BackendError` with who holds it where a lock was waited for in vain."""
    try:
        yield
    except psycopg.errors.LockNotAvailable as error:
        raise tables_locked(url, error, schema, weakest) from error


def tables_locked(
    url: str, error: Exception, schema: str = "absurd", weakest: int = _OF_CALLS
) -> BackendError:
    """The error to raise where a lock was waited for in vain."""
    cause = explain_wait_now(url, schema, weakest)
    state = error.sqlstate if isinstance(error, psycopg.Error) else None
    kind = BackendUnavailable if cause == WAIT_FOR_STANDBY else BackendError
    return kind(f"Tables of the schema {schema} are locked. {cause or error}", state)
