# ruff: noqa: D102 - libpq says what each method does
"""What psycopg asks of libpq's connection, answered by a session of the emulator."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, NoReturn

import psycopg
from psycopg import errors, pq
from psycopg.abc import Buffer, PQGen
from psycopg.waiting import Wait

from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.session import Session, in_failed_transaction
from absurd_contimg.backends.memory.sql.statements import (
    Statement,
    check_outside_block,
    compiled,
    is_command,
    split,
)
from absurd_contimg.backends.memory.transaction import Transaction, WouldBlock
from absurd_contimg.backends.memory.values.types import BY_OID, UNKNOWN, Result, SqlType

_REPORTED = frozenset(
    b"application_name client_encoding DateStyle integer_datetimes IntervalStyle search_path "
    b"server_encoding server_version standard_conforming_strings TimeZone".split()
)
"""The emulator's settings of which Postgres 18 reports every change, spelled as it does."""

_BAD, _EMPTY = pq.ConnStatus.BAD, pq.ExecStatus.EMPTY_QUERY
_COMMAND_OK, _TUPLES_OK = pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK
_QUERIES_KEPT_MAX = 512
_QUOTED_OR_PLACEHOLDER = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\$([A-Za-z_]\w*)?\$.*?\$\1\$|--[^\n]*|\$(\d+)""", re.DOTALL
)


class MemoryPGconn:
    """`psycopg.pq.PGconn` over a session; what else psycopg asks of libpq is refused by name."""

    host, port, db, user = b"memory", b"0", b"memory", b"postgres"
    hostaddr = password = options = error_message = b""
    info = (
        SimpleNamespace(keyword=b"host", val=host),
        SimpleNamespace(keyword=b"dbname", val=db),
        SimpleNamespace(keyword=b"user", val=user),
    )
    server_version = 180006
    pipeline_status = pq.PipelineStatus.OFF
    _encoding = "utf-8"

    def __init__(self, session: Session) -> None:
        self.session = session
        self.status = pq.ConnStatus.OK
        self.backend_pid = session.session_id
        self.kept_transformer: Any = None
        """Of the last statement's parameters, after what has chosen its dumpers."""
        self.notice_handler = self.notify_handler = None
        self.blocked_by: Transaction | None = None
        """The transaction whose end `execute` waits for, when it yields."""

    def __getattr__(self, name: str) -> NoReturn:
        raise not_supported(f"this use of psycopg (PGconn.{name})")

    @property
    def transaction_status(self) -> pq.TransactionStatus:
        if self.status is pq.ConnStatus.BAD:
            return pq.TransactionStatus.UNKNOWN
        if self.session.transaction is None:
            return pq.TransactionStatus.IDLE
        failed = self.session.failed
        return pq.TransactionStatus.INERROR if failed else pq.TransactionStatus.INTRANS

    def parameter_status(self, name: bytes) -> bytes | None:
        value = self.session.setting(name.decode()) if name in _REPORTED else None
        return None if value is None else value.encode()

    def finish(self) -> None:
        self.session.rollback()
        self.status = pq.ConnStatus.BAD

    def execute(
        self,
        query: bytes,
        values: Sequence[Buffer | None] | None = None,
        oids: Sequence[int] = (),
        *,
        single: bool = False,
    ) -> PQGen[list[MemoryResult]]:
        """Run a query's statements; yields whenever it has to wait for `blocked_by` to end.

        There may be several only without values and if not `single`.
        """
        if self.status is _BAD:
            raise psycopg.OperationalError("the connection is closed")
        try:
            texts = _statements(query, named=bool(values))
            types = _types(tuple(oids)) if values else ()
            given = [None if value is None else str(value, "utf-8") for value in values or ()]
            if len(texts) > 1:
                if given or single:
                    raise EngineError(
                        "42601", "cannot insert multiple commands into a prepared statement"
                    )
                return (yield from self._run_all(texts))
            if not texts:
                return [MemoryResult(None, self.session)]
            result = yield from self._run(self._compiled(texts[0], types), given)
            return [MemoryResult(result, self.session)]
        except EngineError as error:
            self.session.fail()
            raise psycopg_error(error) from None

    def _run_all(self, texts: Sequence[str]) -> PQGen[list[MemoryResult]]:
        """Run several statements, in one transaction unless they begin and end their own."""
        session = self.session
        together = session.transaction is None
        if together:
            session.begin()
        results = []
        try:
            for text in texts:
                statement = self._compiled(text, ())
                if together and statement.control is not None:
                    check_outside_block(text)
                    together = False
                results.append(MemoryResult((yield from self._run(statement, ())), session))
        except BaseException:
            if together:
                session.rollback()
            raise
        if together:
            session.commit()
        return results

    def _compiled(self, text: str, types: tuple[SqlType, ...]) -> Statement:
        if self.session.failed and not is_command(text):
            raise in_failed_transaction()
        statement = compiled(text, types)
        if self.session.failed and statement.control is None:
            raise in_failed_transaction()
        return statement

    def _run(self, statement: Statement, values: Sequence[str | None]) -> PQGen[Result]:
        session = self.session
        if statement.control is not None:
            return statement.control(session)
        assert statement.run is not None
        while True:
            try:
                return session.attempt(statement.run, (values,))
            except WouldBlock as blocked:
                self.blocked_by = blocked.holder
            yield Wait.R


@lru_cache(maxsize=_QUERIES_KEPT_MAX)
def _statements(query: bytes, *, named: bool) -> tuple[str, ...]:
    """The statements of a query; `named`: with the SQL layer's names of parameters for ``$1``."""
    text = query.decode()
    texts = split(_QUOTED_OR_PLACEHOLDER.sub(_name, text) if named else text)
    if named and texts and is_command(texts[0]):
        raise EngineError("42601", f"syntax error, no parameters are taken by: {text}")
    return texts


def _name(match: re.Match[str]) -> str:
    """The name of a placeholder; what is inside of quotes stays."""
    return f"__absurd_parameter_{int(match[2]) - 1}__" if match[2] else match[0]


@lru_cache(maxsize=_QUERIES_KEPT_MAX)
def _types(oids: tuple[int, ...]) -> tuple[SqlType, ...]:
    for oid in oids:
        if oid and oid not in BY_OID:
            raise not_supported(f"parameters of the type with oid {oid}")
    return tuple(BY_OID[oid] if oid else UNKNOWN for oid in oids)


# -- results and errors -------------------------------------------------------------------------


class MemoryResult:
    """`psycopg.pq.PGresult` over a statement's result; None is that of a text without statement."""

    def __init__(self, result: Result | None, session: Session) -> None:
        self.session = session
        self.columns = () if result is None or result.columns is None else result.columns
        self.rows = [] if result is None else result.rows
        self.status = _EMPTY
        if result is not None:
            self.status = _COMMAND_OK if result.columns is None else _TUPLES_OK
        self.nfields, self.ntuples = len(self.columns), len(self.rows)
        self.command_status = b"" if result is None else result.tag.encode()
        self.command_tuples = None if result is None or result.count < 0 else result.count

    def fname(self, index: int) -> bytes:
        return str(self.columns[index].name).encode()

    def ftype(self, index: int) -> int:
        return self.columns[index].kind.oid

    def fmod(self, index: int) -> int:
        return -1

    def fsize(self, index: int) -> int:
        return self.columns[index].kind.size

    def fformat(self, index: int) -> int:
        return pq.Format.TEXT

    def get_value(self, row: int, column: int) -> bytes | None:
        value = self.rows[row][column]
        kind = self.columns[column].kind
        return None if value is None else kind.show(value, self.session).encode()


def psycopg_error(error: EngineError) -> psycopg.Error:
    """The exception that psycopg raises for what Postgres reports."""
    given = {
        pq.DiagnosticField.SEVERITY: "ERROR",
        pq.DiagnosticField.SEVERITY_NONLOCALIZED: "ERROR",
        pq.DiagnosticField.SQLSTATE: error.sqlstate,
        pq.DiagnosticField.MESSAGE_PRIMARY: error.message,
        pq.DiagnosticField.MESSAGE_DETAIL: error.detail,
        pq.DiagnosticField.MESSAGE_HINT: error.hint,
        pq.DiagnosticField.SCHEMA_NAME: None if error.table is None else "absurd",
        pq.DiagnosticField.TABLE_NAME: error.table,
        pq.DiagnosticField.COLUMN_NAME: error.column,
        pq.DiagnosticField.CONSTRAINT_NAME: error.constraint,
    }
    info: dict[int, bytes | None] = dict.fromkeys(pq.DiagnosticField)
    info |= {field: text.encode() for field, text in given.items() if text is not None}
    text = error.message
    if error.detail is not None:
        text += f"\nDETAIL:  {error.detail}"
    if error.hint is not None:
        text += f"\nHINT:  {error.hint}"
    try:
        kind = errors.lookup(error.sqlstate)
    except KeyError:
        kind = errors.get_base_exception(error.sqlstate)
    return kind(text, info=info)


def not_supported(what: str) -> psycopg.NotSupportedError:
    """The refusal of something that psycopg has and the emulator lacks."""
    return psycopg.NotSupportedError(
        f"the in-memory Absurd does not support {what}; run it on Postgres (pytest: the fixture "
        "absurd_postgres_url, or absurd_backend with --absurd-backend postgres)"
    )
