"""The SQL types of the emulator: oids, names, text forms, and the columns and rows of a result.

Values are the engine's own: integers for ``timestamptz`` (microseconds) and ``uuid``, canonical
text for ``jsonb``, `Interval` for ``interval``, `Decimal` for ``numeric``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from absurd_contimg.backends.memory import jsonb
from absurd_contimg.backends.memory.errors import Unsupported
from absurd_contimg.backends.memory.session_state import SessionState
from absurd_contimg.backends.memory.values import intervals, numerics, text, times

Value = Any
Read = Callable[[str], Value]
Show = Callable[[Value], str]


@dataclass(frozen=True, slots=True, eq=False)
class SqlType:
    """A type: `name` as catalogues have it, `shown` as messages have it."""

    name: str
    oid: int
    shown: str
    read: Callable[[str, SessionState], Value]
    show: Callable[[Value, SessionState], str]
    size: int = -1


def _plain(name: str, oid: int, shown: str, read: Read, show: Show, size: int = -1) -> SqlType:
    """A type whose text form does not depend on the session."""
    return SqlType(name, oid, shown, lambda raw, _: read(raw), lambda raw, _: show(raw), size)


_TYPES = (
    _plain("unknown", 705, "unknown", str, str),
    _plain("text", 25, "text", str, str),
    _plain("int2", 21, "smallint", lambda raw: text.integer_in(raw, "smallint"), str, 2),
    _plain("int4", 23, "integer", text.integer_in, str, 4),
    _plain("int8", 20, "bigint", lambda raw: text.integer_in(raw, "bigint"), str, 8),
    _plain("numeric", 1700, "numeric", numerics.numeric_in, numerics.numeric_out),
    _plain("float8", 701, "double precision", text.double_in, numerics.double_out, 8),
    _plain("bool", 16, "boolean", text.boolean_in, lambda raw: "t" if raw else "f", 1),
    _plain("uuid", 2950, "uuid", text.uuid_in, text.uuid_out, 16),
    SqlType(
        "timestamptz",
        1184,
        "timestamp with time zone",
        lambda raw, session: times.timestamptz_in(raw, session.zone, session.db.now()),
        lambda raw, session: times.timestamptz_out(raw, session.zone),
        8,
    ),
    _plain("interval", 1186, "interval", intervals.interval_in, intervals.interval_out, 16),
    _plain("jsonb", 3802, "jsonb", jsonb.parse, str),
    _plain("void", 2278, "void", str, lambda _: "", 4),
)
BY_NAME: dict[str, SqlType] = {kind.name: kind for kind in _TYPES}
BY_OID: dict[int, SqlType] = {kind.oid: kind for kind in _TYPES}

UNKNOWN, TEXT, INT2, INT4, INT8, NUMERIC, FLOAT8, BOOL, UUID = _TYPES[:9]
TIMESTAMPTZ, INTERVAL, JSONB, VOID = _TYPES[9:]
INTEGERS = (INT2, INT4, INT8)
NUMBERS = (INT2, INT4, INT8, NUMERIC, FLOAT8)
STRINGS = (TEXT, UNKNOWN)


@dataclass(frozen=True, slots=True, eq=False)
class ArrayType(SqlType):
    """An array of `element`."""

    element: SqlType = UNKNOWN


def _array_type(element: SqlType, oid: int) -> ArrayType:
    def read(raw: str, session: SessionState) -> list[Value]:
        return [None if item is None else element.read(item, session) for item in _items(raw)]

    def show(_: list[Value], __: SessionState) -> str:
        raise Unsupported("arrays as text")

    return ArrayType(f"_{element.name}", oid, f"{element.shown}[]", read, show, -1, element)


_ITEM = r'\s*(?:"(?:[^"\\]|\\.)*"|[^"\\{},\s]+)\s*'
_ARRAY = re.compile(rf"\s*{{(?:{_ITEM}(?:,{_ITEM})*)?\s*}}\s*", re.DOTALL)


def _items(raw: str) -> list[str | None]:
    """The items of an array's text; what is not of the plain form is refused."""
    if not _ARRAY.fullmatch(raw):
        raise Unsupported(f"this form of an array ({raw})")
    items = [item.strip() for item in re.findall(_ITEM, raw.strip()[1:-1], re.DOTALL)]
    return [
        re.sub(r"\\(.)", r"\1", item[1:-1], flags=re.DOTALL)
        if item[0] == '"'
        else None
        if item.lower() == "null"
        else item
        for item in items
    ]


ARRAYS: dict[SqlType, ArrayType] = {
    element: _array_type(element, oid)
    for element, oid in (
        (TEXT, 1009), (INT2, 1005), (INT4, 1007), (INT8, 1016), (NUMERIC, 1231), (FLOAT8, 1022),
        (BOOL, 1000), (UUID, 2951), (TIMESTAMPTZ, 1185), (JSONB, 3807),
    )
}  # fmt: skip
BY_OID.update({array.oid: array for array in ARRAYS.values()})


@dataclass(frozen=True, slots=True, eq=False)
class RecordType(SqlType):
    """Rows with known columns: what a procedure with several columns returns."""

    kinds: tuple[SqlType, ...] = ()


def _field(shown: str) -> str:
    """A field of a record, in quotes where it needs them."""
    if shown and not re.search(r'[(),"\\\s]', shown):
        return shown
    escaped = shown.replace("\\", "\\\\").replace('"', '""')
    return f'"{escaped}"'


def record_type(kinds: Sequence[SqlType]) -> RecordType:
    """The type of rows with columns of these types."""

    def show(value: Value, session: SessionState) -> str:
        shown = [
            "" if item is None else _field(kind.show(item, session))
            for item, kind in zip(value, kinds, strict=True)
        ]
        return "(" + ",".join(shown) + ")"

    return RecordType("record", 2249, "record", UNKNOWN.read, show, -1, tuple(kinds))


# -- what a statement answers -------------------------------------------------------------------

Row = tuple[Any, ...]


class ColumnInfo(NamedTuple):
    """A column of a result, or of something in a ``from``."""

    name: str
    kind: SqlType


@dataclass(slots=True)
class Result:
    """A command tag, and rows if the statement has columns."""

    tag: str
    columns: tuple[ColumnInfo, ...] | None = None
    rows: list[Row] = field(default_factory=list)
    count: int = -1
