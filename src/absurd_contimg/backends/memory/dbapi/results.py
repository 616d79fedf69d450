# ruff: noqa: D102 - libpq and psycopg say what each method does
"""From the engine's rows and errors to Python's values and psycopg's exceptions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import errors, pq
from psycopg.abc import Buffer, PyFormat
from psycopg.adapt import AdaptersMap

from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.records import uuid
from absurd_contimg.backends.memory.session import Session
from absurd_contimg.backends.memory.values.times import EPOCH
from absurd_contimg.backends.memory.values.types import ArrayType, Result, SqlType

Load = Callable[[Any], Any]
_Field = pq.DiagnosticField

_UNCHANGED = frozenset({"int2", "int4", "int8", "text", "bool", "float8"})
"""The types whose values are the same in the engine and in Python."""


class MemoryResult:
    """`psycopg.pq.PGresult` over a statement's result; None is that of a text without statement."""

    def __init__(self, result: Result | None, session: Session) -> None:
        self.session = session
        self.columns = () if result is None or result.columns is None else result.columns
        self.rows = [] if result is None else result.rows
        self.status = pq.ExecStatus.EMPTY_QUERY
        if result is not None:
            given = result.columns is not None
            self.status = pq.ExecStatus.TUPLES_OK if given else pq.ExecStatus.COMMAND_OK
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


class Transformer(psycopg.adapt.Transformer):  # type: ignore[misc, valid-type]  # C or Python
    """psycopg's, which adapts parameters; rows are loaded from the engine's values.

    A loader that the user has registered, and psycopg's own of a less frequent type, load the
    value's text, as they do from a server.
    """

    pgconn: Any

    @classmethod
    def of(cls, adapters: AdaptersMap, pgconn: Any) -> Transformer:
        """The transformer of a cursor. Its context is no connection: psycopg's needs libpq's."""
        transformer = cls(adapters)
        transformer.pgconn = pgconn
        return transformer

    def dump_sequence(
        self, params: Sequence[Any], formats: Sequence[PyFormat]
    ) -> Sequence[Buffer | None]:
        if PyFormat.BINARY in formats:
            raise not_supported("binary parameters (%b)")
        try:
            texts: Sequence[Buffer | None] = super().dump_sequence(
                params, [PyFormat.TEXT] * len(params)
            )
            return texts
        except psycopg.ProgrammingError:
            for value, form in zip(params, formats, strict=True):  # the error names the format
                if value is not None:
                    self.get_dumper(value, form)
            raise

    def set_pgresult(self, result: Any, **_: Any) -> None:
        self.result = result
        self.loads: list[Load | None] | None = None

    def load_rows(self, row0: int, row1: int, make_row: Any) -> list[Any]:
        loads = self.loads
        if loads is None:  # most results are never fetched
            loads = self.loads = [self._load(column.kind) for column in self.result.columns]
        return [
            make_row(
                [
                    value if load is None or value is None else load(value)
                    for value, load in zip(row, loads, strict=True)
                ]
            )
            for row in self.result.rows[row0:row1]
        ]

    def load_row(self, row: int, make_row: Any) -> Any:
        """One row; None after the last one, as psycopg 3.2 asks."""
        rows = self.load_rows(row, row + 1, make_row)
        return rows[0] if rows else None

    def _load(self, kind: SqlType) -> Load | None:
        """What makes Python's value of the engine's; None where they are the same."""
        loader, session = self.get_loader(kind.oid, pq.Format.TEXT), self.pgconn.session

        def from_text(value: Any) -> Any:
            return loader.load(kind.show(value, session).encode())

        if not type(loader).__module__.startswith("psycopg"):
            return from_text
        if kind.name in _UNCHANGED:
            return None
        if kind.name == "uuid":
            return uuid
        if isinstance(kind, ArrayType):
            item = self._load(kind.element) or (lambda value: value)
            return lambda values: [None if value is None else item(value) for value in values]
        if kind.name != "timestamptz":
            return from_text
        zone = psycopg.ConnectionInfo(self.pgconn).timezone

        def timestamptz(value: int) -> Any:
            try:
                return (EPOCH + timedelta(microseconds=value)).astimezone(zone)
            except OverflowError:
                return from_text(value)  # raises psycopg's error

        return timestamptz


def psycopg_error(error: EngineError) -> psycopg.Error:
    """The exception that psycopg raises for what Postgres reports."""
    given = {
        _Field.SEVERITY: "ERROR",
        _Field.SEVERITY_NONLOCALIZED: "ERROR",
        _Field.SQLSTATE: error.sqlstate,
        _Field.MESSAGE_PRIMARY: error.message,
        _Field.MESSAGE_DETAIL: error.detail,
        _Field.MESSAGE_HINT: error.hint,
        _Field.SCHEMA_NAME: None if error.table is None else "absurd",
        _Field.TABLE_NAME: error.table,
        _Field.COLUMN_NAME: error.column,
        _Field.CONSTRAINT_NAME: error.constraint,
    }
    info: dict[int, bytes | None] = dict.fromkeys(_Field)
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
        f"the in-memory Absurd does not support {what}; run with --absurd-backend postgres"
    )
