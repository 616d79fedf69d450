"""Sessions with Postgres: the one place that connects, and what a session is set to.

A role, a database, the environment and the URL may change how a session answers: its encoding, the
form of times, isolation, timeouts. Every session starts with what this package relies on. Behind a
pooler in transaction mode a session has no state that lasts, so the same settings begin each
transaction there, and no statement is prepared.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, LiteralString, Self, TypeVar
from weakref import WeakSet

import psycopg
from psycopg import adapt, pq
from psycopg.abc import PQGen
from psycopg.pq import ConnStatus
from psycopg.types.json import set_json_dumps
from typing_extensions import override

from absurd_contimg.backends.postgres.client_files import require_client_files
from absurd_contimg.backends.postgres.columns import register_loaders
from absurd_contimg.backends.postgres.connection_strings import connection_options
from absurd_contimg.backends.postgres.synchronous_standby import (
    COMMIT_SECONDS,
    CommitUnconfirmed,
    Unanswered,
    WaitNotice,
    bounded,
)
from absurd_contimg.core.errors import UnsuitableDatabase
from absurd_contimg.core.row_values import json_text
from absurd_contimg.forked_children import detach

_T = TypeVar("_T")

WAIT_BOUNDS = {
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""On the network, unless the URL sets others: in seconds, the last one in milliseconds."""

READ_WRITE: LiteralString = "read committed read write"
"""The mode of a transaction."""

SESSION_SETTINGS: tuple[tuple[LiteralString, LiteralString, int], ...] = (
    ("statement_timeout", "0", 0),
    ("lock_timeout", "0", 0),
    ("transaction_timeout", "0", 17_00_00),
    ("idle_in_transaction_session_timeout", "0", 0),
    ("idle_session_timeout", "0", 14_00_00),
    ("default_transaction_isolation", "read committed", 0),
    ("default_transaction_read_only", "off", 0),
    ("default_transaction_deferrable", "off", 0),
    ("client_encoding", "UTF8", 0),
    ("datestyle", "ISO, MDY", 0),
    ("intervalstyle", "postgres", 0),
    ("timezone", "UTC", 0),
    ("extra_float_digits", "1", 0),
    ("bytea_output", "hex", 0),
    ("standard_conforming_strings", "on", 0),
    ("array_nulls", "on", 0),
    ("transform_null_equals", "off", 0),
    ("row_security", "off", 0),  # an error instead of rows that are not seen
    ("search_path", "pg_catalog", 0),
    ("tcp_keepalives_idle", "10", 0),
    ("tcp_keepalives_interval", "5", 0),
    ("tcp_keepalives_count", "3", 0),
    ("tcp_user_timeout", "20000", 12_00_00),
    ("absurd.fake_now", "", 0),
)
"""Name, value, and the first version of Postgres that has the setting.

A value is Postgres' default, except for the time zone, the encoding, and the search path: this
package names the schema of everything that it uses. ``tcp_*`` are the server's side of
`WAIT_BOUNDS`: a host that is cut off within a transaction holds its locks for half a minute, not
for two hours. Not here, because they are the administrator's:
``role``, ``lc_messages``, ``synchronous_commit``, memory and planner.
"""

_CANCEL_SECONDS = 5.0
"""How long the end of a COMMIT that is cancelled is waited for: of a slow disk, say."""

_LOOK = "Look at the load of its disk (contimg doctor)."

_ENCODINGS = ("UTF8", "SQL_ASCII")
"""Of a database: those that can hold every text. SQL_ASCII stores UTF-8 as it comes."""


_encode = json.JSONEncoder(ensure_ascii=False).encode


def _dump_json(value: object) -> bytes:
    """JSON without ``\\u``, which a database of encoding SQL_ASCII refuses."""
    text = json_text(value, _encode)
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate: Postgres says so, and its error is translated
        return json.dumps(value).encode()


_ADAPTERS = adapt.AdaptersMap(psycopg.adapters)
register_loaders(_ADAPTERS)
set_json_dumps(_dump_json, _ADAPTERS)


_sessions: WeakSet[Session | AsyncSession] = WeakSet()


def _detach_sessions() -> None:
    """A forked child keeps no connection of its parent, and ends none."""
    open_ones = (each.pgconn for each in _sessions)
    detach([pgconn.socket for pgconn in open_ones if pgconn.status == ConnStatus.OK])
    _sessions.clear()


os.register_at_fork(after_in_child=_detach_sessions)


class Session(psycopg.Connection[Any]):
    """A connection with the settings of this package; see `AsyncSession`.

    A COMMIT that is not confirmed in time raises `CommitUnconfirmed`.
    """

    pooled = False
    _commits = False
    """What is waited for ends a transaction."""

    @classmethod
    @override
    def connect(cls, conninfo: str = "", *, autocommit: bool = False, **options: Any) -> Self:
        session = super().connect(**connection_parameters(conninfo, options))
        _sessions.add(session)
        try:
            _check_encoding(session.info)
            session.pooled = not session.execute(_set_directly(session.info)).fetchall()
        except BaseException:
            session.close()
            raise
        if session.pooled:
            session.prepare_threshold = None
        session.autocommit = autocommit
        return session

    @override
    def commit(self) -> None:
        self._commits = True
        try:
            super().commit()
        finally:
            self._commits = False

    @override
    @contextmanager
    def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> Iterator[psycopg.Transaction]:
        try:
            with super().transaction(savepoint_name, force_rollback) as transaction:
                yield transaction
                self._commits = True
        finally:
            self._commits = False

    @override
    def wait(self, gen: PQGen[_T], interval: float = 0.1, timeout: float | None = None) -> _T:
        if not self._commits:
            bound = {} if timeout is None else {"timeout": timeout}
            return super().wait(gen, interval, **bound)
        try:
            return super().wait(bounded(gen, COMMIT_SECONDS), interval)
        except Unanswered:
            return self._cancel_commit(gen, interval)

    def _cancel_commit(self, gen: PQGen[_T], interval: float) -> _T:
        """The late end of a COMMIT, unless that was a wait for a standby: its locks are freed."""
        notice = WaitNotice()
        self.add_notice_handler(notice)
        try:
            with suppress(psycopg.Error):  # the wait that follows is bounded
                self.cancel_safe(timeout=_CANCEL_SECONDS)
            result = super().wait(bounded(gen, _CANCEL_SECONDS), interval)
        except (Unanswered, psycopg.errors.QueryCanceled) as error:
            if isinstance(error, Unanswered):
                self.pgconn.finish()
            text = f"the server has not confirmed a COMMIT within {COMMIT_SECONDS:g} s"
            raise CommitUnconfirmed(text, _LOOK) from error
        finally:
            self.remove_notice_handler(notice)
        if notice.has_come:
            raise CommitUnconfirmed
        return result


class AsyncSession(psycopg.AsyncConnection[Any]):
    """A connection with the settings of this package.

    `pooled`: it reaches its server through a pooler, so a transaction has to begin with
    `transaction_settings`. Connecting raises what psycopg raises, and `UnsuitableDatabase`.
    """

    pooled = False
    url = ""

    @classmethod
    @override
    async def connect(cls, conninfo: str = "", *, autocommit: bool = False, **options: Any) -> Self:
        session = await super().connect(**connection_parameters(conninfo, options))
        _sessions.add(session)
        try:
            _check_encoding(session.info)
            cursor = await session.execute(_set_directly(session.info))
            session.pooled = not await cursor.fetchall()
        except BaseException:
            await session.close()
            raise
        if session.pooled:
            session.prepare_threshold = None
        await session.set_autocommit(autocommit)
        session.url = conninfo
        return session


def transaction_settings(
    info: psycopg.ConnectionInfo, mode: LiteralString = READ_WRITE
) -> tuple[bytes, bytes]:
    """The first two statements of a transaction behind a pooler."""
    return (
        f"set transaction isolation level {mode}".encode(),
        _set_config(info, "true").encode(),
    )


def program_parameters(session: Session) -> tuple[dict[str, str], str | None]:
    """With what a program of Postgres connects as a session has, and the password, if one is given.

    The program needs no variable of the environment then. It has the settings of the session,
    except behind a pooler, which refuses them.
    """
    info = session.info
    parameters = {"host": info.host, **info.get_parameters()}
    for name in ("service", "servicefile"):  # what it says is among the parameters
        parameters.pop(name, None)
    if not session.pooled:
        settings = [
            f"-c {name}={value.replace(' ', chr(92) + ' ')}"
            for name, value, version in SESSION_SETTINGS
            if info.server_version >= version
        ]
        parameters["options"] = " ".join([parameters.get("options", ""), *settings]).strip()
    given = {each.keyword: each.val for each in session.pgconn.info if each.val}
    if of_key := given.get(b"sslpassword"):  # no variable of the environment takes its place
        parameters["sslpassword"] = of_key.decode()
    password = given.get(b"password")
    return parameters, None if password is None else password.decode()


def environment_variables() -> list[str]:
    """The variables of the environment that libpq reads, in order."""
    return sorted(name for name in (*_libpq_options(), *_SENT) if name in os.environ)


_SENT = ("PGDATESTYLE", "PGTZ", "PGGEQO")
"""libpq sends them as they are, and no option takes their place. A session has its own values
afterwards, but a server refuses a connection for one that it does not know."""


@cache
def _libpq_options() -> dict[str, tuple[str, str]]:
    """libpq's options that an environment variable sets, by this: name and default."""
    return {
        option.envvar.decode(): (option.keyword.decode(), (option.compiled or b"").decode())
        for option in pq.Conninfo.get_defaults()
        if option.envvar is not None
    }


def _set_directly(info: psycopg.ConnectionInfo) -> bytes:
    """The statement that sets a session and returns rows, but does nothing behind a pooler.

    A pooler answers with a process number of its own invention; what is set there would stay with
    a connection that others use next.
    """
    return f"{_set_config(info, 'false')} where pg_backend_pid() = {info.backend_pid}".encode()


def _set_config(info: psycopg.ConnectionInfo, is_local: LiteralString) -> str:
    values = ", ".join(
        f"('{name}', '{value}')"
        for name, value, version in SESSION_SETTINGS
        if info.server_version >= version
    )
    return f"select set_config(name, value, {is_local}) from (values {values}) as s (name, value)"


def _check_encoding(info: psycopg.ConnectionInfo) -> None:
    encoding = info.parameter_status("server_encoding")
    if encoding not in (*_ENCODINGS, None):  # some poolers do not tell
        raise UnsuitableDatabase(
            f"The database {info.dbname!r} has the encoding {encoding}, which cannot hold every "
            "text. Create one with: createdb --encoding=UTF8 --template=template0 NAME"
        )


def connection_parameters(url: str, options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of psycopg's `connect`.

    The environment counts only for what the URL leaves open: a URL with a host has the default
    port, and one with socket folder, port, user, database and password file leaves nothing open.
    Raises `SettingError` for a malformed URL, and `psycopg.OperationalError` for a file that libpq
    would read for ever.
    """
    given: dict[str, Any] = {"context": _ADAPTERS, **WAIT_BOUNDS}
    given |= {**connection_options(url), **options, "client_encoding": "UTF8", "autocommit": True}
    if given.get("host"):
        given = {"hostaddr": "", "port": "5432"} | given
    if str(given.get("host")).startswith("/") and given.keys() >= {"user", "dbname", "passfile"}:
        given = _defaults_against_environment() | given
    require_client_files(given)
    return given


def _defaults_against_environment() -> dict[str, str]:
    """libpq's defaults of the options that an environment variable sets now."""
    known = _libpq_options()
    options = dict(known[name] for name in environment_variables() if name in known)
    options.pop("service", None)  # cannot be unset; all that it could set is set here
    needed = dict.fromkeys(("min_protocol_version", "max_protocol_version"), "3.0")
    needed["require_auth"] = "scram-sha-256"  # an empty value would be refused
    return options | {name: value for name, value in needed.items() if name in options}
