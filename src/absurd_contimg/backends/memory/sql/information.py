"""``information_schema``: the views that tell which tables and columns there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from absurd_contimg.backends.memory import schema
from absurd_contimg.backends.memory.sql.scope import ColumnInfo, Env, Row
from absurd_contimg.backends.memory.sql.types import BY_NAME, INT4, NAME, SqlType

_SHOWN = {"int4": "integer", "bool": "boolean", "timestamptz": "timestamp with time zone"}


def _tables(env: Env) -> list[Row]:
    found = sorted(row.name for row in env.session.db.relations.scan(env.tx))
    return [("memory", "absurd", name, "BASE TABLE") for name in found]


def _all_columns(env: Env) -> list[Row]:
    rows: list[Row] = []
    for relation in sorted(env.session.db.relations.scan(env.tx), key=lambda row: row.name):
        for position, column in enumerate(schema.TABLES[relation.letter], 1):
            shown = _SHOWN.get(column.type_name, column.type_name)
            nullable = "YES" if column.nullable else "NO"
            rows.append(("memory", "absurd", relation.name, column.name, position, nullable, shown))
    return rows


def _kind(name: str) -> SqlType:
    return BY_NAME["varchar"] if name in ("table_type", "is_nullable", "data_type") else NAME


def _text_columns(names: str) -> tuple[ColumnInfo, ...]:
    return tuple(
        ColumnInfo(name, INT4 if name == "ordinal_position" else _kind(name))
        for name in names.split()
    )


VIEWS: dict[str, tuple[tuple[ColumnInfo, ...], Callable[[Env], list[Any]]]] = {
    "tables": (_text_columns("table_catalog table_schema table_name table_type"), _tables),
    "columns": (
        _text_columns(
            "table_catalog table_schema table_name column_name ordinal_position is_nullable "
            "data_type"
        ),
        _all_columns,
    ),
}
