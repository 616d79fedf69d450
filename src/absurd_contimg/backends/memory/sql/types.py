"""The SQL types that the emulator knows: oids, names, text forms, casts.

Values are the engine's own: integers for ``timestamptz`` (microseconds), ``date`` (days) and
``uuid``, canonical text for ``jsonb``, `Interval` for ``interval``, `Decimal` for ``numeric``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from absurd_contimg.backends.memory import json_reader, jsonb
from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.session_state import SessionState as Session
from absurd_contimg.backends.memory.values.dates import date_in, date_out
from absurd_contimg.backends.memory.values.floats import double_out
from absurd_contimg.backends.memory.values.intervals import interval_in, interval_out
from absurd_contimg.backends.memory.values.numerics import numeric_in, numeric_out
from absurd_contimg.backends.memory.values.text import (
    boolean_in,
    double_in,
    integer_in,
    uuid_in,
    uuid_out,
)
from absurd_contimg.backends.memory.values.timestamps import timestamptz_in, timestamptz_out

Value = Any
TextIn = Callable[[str, Session], Value]
TextOut = Callable[[Value, Session], str]


@dataclass(frozen=True, slots=True, eq=False)
class SqlType:
    """A type: `name` as catalogues have it, `shown` as messages have it."""

    name: str
    oid: int
    shown: str
    read: TextIn
    show: TextOut
    size: int = -1

    def __repr__(self) -> str:
        return self.name


def _bytea_in(text: str) -> bytes:
    if text.startswith("\\x"):
        try:
            return bytes.fromhex(text[2:])
        except ValueError:
            raise EngineError("22023", f'invalid hexadecimal data: "{text}"') from None
    pieces = re.split(r"(\\\\|\\[0-3][0-7]{2})", text)
    if any("\\" in piece for piece in pieces[::2]):
        raise EngineError("22P02", "invalid input syntax for type bytea")
    return b"".join(
        piece.encode()
        if index % 2 == 0
        else b"\\"
        if piece == "\\\\"
        else bytes([int(piece[1:], 8)])
        for index, piece in enumerate(pieces)
    )


def _timestamp_in(text: str, session: Session) -> int:
    return timestamptz_in(_without_offset(text), UTC, session.db.now(), "timestamp")


def _without_offset(text: str) -> str:
    """A time without its zone, which `timestamp` reads and ignores."""
    return re.sub(r"(:\d{2}(?:\.\d+)?)\s*(?:[+-]\d{1,2}(?::?\d{2})?|Z|UTC)\s*\Z", r"\1", text)


def _timestamp_out(value: int, _: Session) -> str:
    return timestamptz_out(value, UTC).replace("+00", "", 1)


def _json_in(text: str, _: Session) -> str:
    json_reader.check(text, unescapes=False)
    return text


def _record_in(_: str, __: Session) -> Value:
    raise EngineError("0A000", "input of anonymous composite types is not implemented")


_TYPES = (
    SqlType("unknown", 705, "unknown", lambda t, _: t, lambda v, _: v),
    SqlType("text", 25, "text", lambda t, _: t, lambda v, _: v),
    SqlType("varchar", 1043, "character varying", lambda t, _: t, lambda v, _: v),
    SqlType("name", 19, "name", lambda t, _: t[:63], lambda v, _: v, 64),
    SqlType("int2", 21, "smallint", lambda t, _: integer_in(t, "smallint"), lambda v, _: str(v), 2),
    SqlType("int4", 23, "integer", lambda t, _: integer_in(t), lambda v, _: str(v), 4),
    SqlType("int8", 20, "bigint", lambda t, _: integer_in(t, "bigint"), lambda v, _: str(v), 8),
    SqlType("oid", 26, "oid", lambda t, _: integer_in(t, "bigint"), lambda v, _: str(v), 4),
    SqlType("numeric", 1700, "numeric", lambda t, _: numeric_in(t), lambda v, _: numeric_out(v)),
    SqlType(
        "float8", 701, "double precision", lambda t, _: double_in(t), lambda v, _: double_out(v), 8
    ),
    SqlType("bool", 16, "boolean", lambda t, _: boolean_in(t), lambda v, _: "t" if v else "f", 1),
    SqlType("uuid", 2950, "uuid", lambda t, _: uuid_in(t), lambda v, _: uuid_out(v), 16),
    SqlType(
        "timestamptz",
        1184,
        "timestamp with time zone",
        lambda t, s: timestamptz_in(t, s.zone, s.db.now()),
        lambda v, s: timestamptz_out(v, s.zone),
        8,
    ),
    SqlType("timestamp", 1114, "timestamp without time zone", _timestamp_in, _timestamp_out, 8),
    SqlType("date", 1082, "date", lambda t, s: date_in(t, s.db.now()), lambda v, _: date_out(v), 4),
    SqlType(
        "interval", 1186, "interval", lambda t, _: interval_in(t), lambda v, _: interval_out(v), 16
    ),
    SqlType("jsonb", 3802, "jsonb", lambda t, _: jsonb.parse(t), lambda v, _: v),
    SqlType("json", 114, "json", _json_in, lambda v, _: v),
    SqlType("bytea", 17, "bytea", lambda t, _: _bytea_in(t), lambda v, _: "\\x" + v.hex()),
    SqlType("void", 2278, "void", lambda t, _: t, lambda *_: "", 4),
    SqlType("record", 2249, "record", _record_in, lambda v, _: v),
    SqlType("regclass", 2205, "regclass", lambda t, _: t, lambda v, _: v, 4),
    SqlType("regtype", 2206, "regtype", lambda t, _: t, lambda v, _: v, 4),
)
BY_NAME: dict[str, SqlType] = {kind.name: kind for kind in _TYPES}
BY_OID: dict[int, SqlType] = {kind.oid: kind for kind in _TYPES}

UNKNOWN, TEXT, INT2, INT4, INT8 = (
    BY_NAME[name] for name in ("unknown", "text", "int2", "int4", "int8")
)
NUMERIC, FLOAT8, BOOL, UUID, TIMESTAMPTZ = (
    BY_NAME[name] for name in ("numeric", "float8", "bool", "uuid", "timestamptz")
)
TIMESTAMP, DATE, INTERVAL, JSONB, JSON = (
    BY_NAME[name] for name in ("timestamp", "date", "interval", "jsonb", "json")
)
VOID, RECORD, NAME, BYTEA, VARCHAR = (
    BY_NAME[name] for name in ("void", "record", "name", "bytea", "varchar")
)

_ARRAY_OIDS = {
    "text": 1009, "varchar": 1015, "name": 1003, "int2": 1005, "int4": 1007, "int8": 1016,
    "numeric": 1231, "float8": 1022, "bool": 1000, "uuid": 2951, "timestamptz": 1185,
    "timestamp": 1115, "date": 1182, "interval": 1187, "jsonb": 3807, "json": 199, "unknown": 1009,
    "bytea": 1001, "record": 2287, "void": 0, "oid": 1028, "regclass": 2210,
    "regtype": 2211,
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class ArrayType(SqlType):
    """An array of `element`."""

    element: SqlType = UNKNOWN


def _array_in(element: SqlType) -> TextIn:
    def read(text: str, session: Session) -> list[Value]:
        return [None if item is None else element.read(item, session) for item in split_array(text)]

    return read


def _array_out(element: SqlType) -> TextOut:
    def show(values: list[Value], session: Session) -> str:
        return "{" + ",".join(_array_item(element, value, session) for value in values) + "}"

    return show


def _array_item(element: SqlType, value: Value, session: Session) -> str:
    if value is None:
        return "NULL"
    text = element.show(value, session)
    if text and text.lower() != "null" and not any(mark in text for mark in '{},"\\ \t\n'):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


_ARRAY_ITEM = re.compile(
    r"""\s*(?:"((?:[^"\\]|\\.)*)"|((?:[^"\\{},\s]|\\.|\s+(?=[^\s,}]))+))\s*(,|\Z)""", re.DOTALL
)


def _array_detail(body: str, position: int) -> str | None:
    """What Postgres says of an item that is quoted only in part."""
    rest = body[position:]
    quoted_in_part = re.match(r'\s*(?:"(?:[^"\\]|\\.)*"\s*[^\s,]|[^",{}]*[^\s",{}]\s*")', rest)
    return "Incorrectly quoted array element." if quoted_in_part else None


def split_array(text: str) -> list[str | None]:
    """The items of a one-dimensional array's text."""
    body = text.strip()
    if body.startswith("["):
        raise unsupported(text, "bounds of arrays")
    malformed = EngineError("22P02", f'malformed array literal: "{text}"')
    if not body.startswith("{"):
        malformed.detail = 'Array value must start with "{" or dimension information.'
    if not (body.startswith("{") and body.endswith("}")):
        raise malformed
    body = body[1:-1]
    if re.match(r"\s*\{", body):
        raise unsupported(text, "arrays of arrays")
    items: list[str | None] = []
    position, more = 0, bool(body.strip())
    while more:
        found = _ARRAY_ITEM.match(body, position)
        if found is None:
            malformed.detail = _array_detail(body, position)
            raise malformed
        quoted, plain = found[1], found[2]
        if plain is not None and plain.lower() == "null":
            items.append(None)
        else:
            items.append(
                re.sub(r"\\(.)", r"\1", plain if quoted is None else quoted, flags=re.DOTALL)
            )
        position, more = found.end(), found[3] == ","
    return items


ARRAYS: dict[str, ArrayType] = {
    kind.name: ArrayType(
        f"_{kind.name}",
        _ARRAY_OIDS[kind.name],
        f"{kind.shown}[]",
        _array_in(kind),
        _array_out(kind),
        -1,
        kind,
    )
    for kind in _TYPES
}
for _array in ARRAYS.values():
    if _array.element is not UNKNOWN:  # whose oid is that of text[]
        BY_OID.setdefault(_array.oid, _array)
    BY_NAME[_array.name] = _array


INTEGERS = (INT2, INT4, INT8)
NUMBERS = (INT2, INT4, INT8, NUMERIC, FLOAT8)
STRINGS = (TEXT, VARCHAR, NAME, UNKNOWN)


@dataclass(frozen=True, slots=True, eq=False)
class RecordType(SqlType):
    """Rows with known columns; those of a table have a type of the table's own."""

    names: tuple[str, ...] = ()
    kinds: tuple[SqlType, ...] = ()


TABLE_ROW_OID = 16_384
"""Stands for the type of a table's rows, whose real oid differs from database to database."""


def record_type(
    names: Sequence[str], kinds: Sequence[SqlType], *, is_table: bool = False
) -> RecordType:
    """The type of rows with these columns."""

    def show(value: Value, session: Session) -> str:
        shown = [
            "" if item is None else _record_item(kind.show(item, session))
            for item, kind in zip(value, kinds, strict=True)
        ]
        return "(" + ",".join(shown) + ")"

    oid = TABLE_ROW_OID if is_table else RECORD.oid
    return RecordType("record", oid, "record", RECORD.read, show, -1, tuple(names), tuple(kinds))


def _record_item(text: str) -> str:
    if text and not any(mark in text for mark in '(),"\\ \t\n\r\v\f'):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '""')
    return f'"{escaped}"'
