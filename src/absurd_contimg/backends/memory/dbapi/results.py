"""From the engine's rows to Python's values, as psycopg loads them, and to its result object."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, timedelta, tzinfo
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import psycopg
from psycopg import pq
from psycopg.adapt import AdaptersMap
from psycopg.types import json as psycopg_json

from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.session import Session
from absurd_contimg.backends.memory.sql.result import Result
from absurd_contimg.backends.memory.sql.types import RECORD, ArrayType, RecordType, SqlType
from absurd_contimg.backends.memory.values import times
from absurd_contimg.backends.memory.values.intervals import interval_out
from absurd_contimg.backends.memory.values.timestamps import timestamptz_out

Load = Callable[[Any], Any]

_STOCK_JSON = (psycopg_json.JsonbLoader, psycopg_json.JsonLoader)


def psycopg_error(error: EngineError) -> psycopg.Error:
    """The exception that psycopg raises for what Postgres reports."""
    fields = {
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
    info = {
        int(field): None if fields.get(field) is None else str(fields[field]).encode()
        for field in pq.DiagnosticField
    }
    text = error.message
    if error.detail is not None:
        text += f"\nDETAIL:  {error.detail}"
    if error.hint is not None:
        text += f"\nHINT:  {error.hint}"
    try:
        kind = psycopg.errors.lookup(error.sqlstate)
    except KeyError:
        kind = psycopg.errors.get_base_exception(error.sqlstate)
    return kind(text, info=info)


class MemoryResult:
    """What a row factory may ask of a libpq result."""

    def __init__(self, result: Result, session: Session) -> None:
        self._result = result
        self._session = session
        self.status = pq.ExecStatus.TUPLES_OK
        if result.columns is None:
            self.status = pq.ExecStatus.EMPTY_QUERY if result.empty else pq.ExecStatus.COMMAND_OK
        self.nfields = 0 if result.columns is None else len(result.columns)
        self.ntuples = len(result.rows)
        self.command_status = result.tag.encode()
        self.command_tuples = result.count if result.count >= 0 else None

    def stream(self) -> None:
        """Be the result of a row by itself: libpq then tells neither tag nor count."""
        self.status = pq.ExecStatus.SINGLE_TUPLE
        self.command_status, self.command_tuples = b"", None

    def fname(self, index: int) -> bytes:
        """A column's name."""
        return str(self._column(index).name).encode()

    def ftype(self, index: int) -> int:
        """A column's type."""
        return int(self._column(index).kind.oid)

    def fmod(self, index: int) -> int:
        """A column's type modifier."""
        return int(self._column(index).modifier)

    def fsize(self, index: int) -> int:
        """A column's size in bytes, -1 where it varies."""
        return int(self._column(index).kind.size)

    def fformat(self, index: int) -> int:
        """A column's format: text."""
        return 0

    def get_value(self, row: int, column: int) -> bytes | None:
        """A value as Postgres sends it."""
        value = self._result.rows[row][column]
        if value is None:
            return None
        return text_of(value, self._column(column).kind, self._session).encode()

    def _column(self, index: int) -> Any:
        assert self._result.columns is not None
        return self._result.columns[index]


def text_of(value: Any, kind: SqlType, session: Session) -> str:
    """A value as Postgres prints it."""
    return kind.show(value, session)


def loaders(
    kinds: Sequence[SqlType], adapters: AdaptersMap, session: Session, context: Any
) -> list[Load | None]:
    """For each column what makes Python's value of the engine's; None where they are the same."""
    return [_loader(kind, adapters, session, context) for kind in kinds]


def _loader(kind: SqlType, adapters: AdaptersMap, session: Session, context: Any) -> Load | None:
    registered = adapters.get_loader(kind.oid, pq.Format.TEXT)
    if registered is not None and not _is_stock(registered):
        own = registered(kind.oid, context)
        return lambda value: own.load(text_of(value, kind, session).encode())
    if isinstance(kind, ArrayType):
        item = _loader(kind.element, adapters, session, context) or (lambda value: value)
        return lambda values: [None if value is None else item(value) for value in values]
    if isinstance(kind, RecordType):
        return _record_loader(kind, session)
    if kind.name == "timestamptz":
        return _timestamptz_loader(session)
    if kind.name in ("timestamp", "date"):
        return (_date_loader if kind.name == "date" else _timestamp_loader)(kind, session)
    return _LOADERS.get(kind.name)


def _record_loader(kind: RecordType, session: Session) -> Load:
    """psycopg knows no types inside of a record, and of a table's row only its text."""
    if kind.oid != RECORD.oid:
        return lambda row: kind.show(row, session)
    return lambda row: tuple(
        None if item is None else inner.show(item, session)
        for item, inner in zip(row, kind.kinds, strict=True)
    )


def _is_stock(loader: type[Any]) -> bool:
    """Whether a loader is psycopg's own."""
    if issubclass(loader, _STOCK_JSON):
        return loader in _STOCK_JSON
    return loader.__module__.split(".")[0] in ("psycopg", "psycopg_binary", "psycopg_c")


def zone_of(session: Session) -> tzinfo:
    """The time zone in which psycopg shows times."""
    name = session.setting("timezone")
    if name is None or name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC  # psycopg knows no others


def _timestamptz_loader(session: Session) -> Load:
    zone = zone_of(session)

    def load(value: int) -> Any:
        try:
            return (times.EPOCH + timedelta(microseconds=value)).astimezone(zone)
        except OverflowError:
            raise _time_error("timestamp", timestamptz_out(value, session.zone)) from None

    return load


def _time_error(what: str, text: str) -> psycopg.DataError:
    """psycopg's own for a time that Python's types do not reach."""
    side = "large (after year 10K)"
    if text == "-infinity" or text.endswith("BC"):
        side = "small (before year 1)"
    return psycopg.DataError(f"{what} too {side}: {text!r}")


def _timestamp_loader(kind: SqlType, session: Session) -> Load:
    def load(value: int) -> Any:
        try:
            return (times.EPOCH + timedelta(microseconds=value)).replace(tzinfo=None)
        except OverflowError:
            raise _time_error("timestamp", kind.show(value, session)) from None

    return load


def _date_loader(kind: SqlType, session: Session) -> Load:
    def load(value: int) -> Any:
        try:
            return (times.EPOCH + timedelta(days=value)).date()
        except OverflowError:
            raise _time_error("date", kind.show(value, session)) from None

    return load


def _interval(span: times.Interval) -> timedelta:
    """Months of 30 days, years of 365; what is infinite comes out as nothing, as in psycopg."""
    if span.is_infinite:
        return timedelta()
    years, months = divmod(abs(span.months), 12)
    days = (years * 365 + months * 30) * (1 if span.months >= 0 else -1)
    try:
        return timedelta(days=days + span.days, microseconds=span.us)
    except OverflowError as error:
        shown = interval_out(span)
        raise psycopg.DataError(f"can't parse interval '{shown}': {error}") from None


_LOADERS: dict[str, Load] = {
    "uuid": lambda value: UUID(int=value),
    "jsonb": json.loads,
    "json": json.loads,
    "interval": _interval,
    "numeric": lambda value: Decimal(value) if value else abs(Decimal(value)),
}


def load_rows(result: Result, wanted: list[Load | None]) -> list[tuple[Any, ...]]:
    """All rows as tuples of Python's values."""
    if all(load is None for load in wanted):
        return [tuple(row) for row in result.rows]
    return [load_row(row, wanted) for row in result.rows]


def load_row(row: Sequence[Any], wanted: list[Load | None]) -> tuple[Any, ...]:
    """One row."""
    return tuple(
        [
            value if load is None or value is None else load(value)
            for value, load in zip(row, wanted, strict=True)
        ]
    )
