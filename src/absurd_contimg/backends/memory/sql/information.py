"""Catalogues, as far as tools ask them: tables, columns, functions and extensions."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from sqlglot import exp

from absurd_contimg.backends.memory import catalog, schema
from absurd_contimg.backends.memory.procedures.signatures import PROCEDURES
from absurd_contimg.backends.memory.sql.scope import ColumnInfo, Env, Row
from absurd_contimg.backends.memory.sql.types import BY_NAME, INT4, NAME, TEXT, SqlType

_SHOWN = {"int4": "integer", "bool": "boolean", "timestamptz": "timestamp with time zone"}


def _tables(env: Env) -> list[Row]:
    found = sorted(row.name for row in catalog.relations(env.tx).scan(env.tx))
    return [("memory", "absurd", name, "BASE TABLE") for name in found]


def _all_columns(env: Env) -> list[Row]:
    rows: list[Row] = []
    for relation in sorted(catalog.relations(env.tx).scan(env.tx), key=lambda row: row.name):
        for position, column in enumerate(schema.TABLES[relation.letter], 1):
            shown = _SHOWN.get(column.type_name, column.type_name)
            nullable = "YES" if column.nullable else "NO"
            rows.append(("memory", "absurd", relation.name, column.name, position, nullable, shown))
    return rows


def _kind(name: str) -> SqlType:
    words = ("table_type", "is_nullable", "data_type", "routine_type")
    return BY_NAME["varchar"] if name in words else NAME


def _text_columns(names: str) -> tuple[ColumnInfo, ...]:
    return tuple(
        ColumnInfo(name, INT4 if name == "ordinal_position" else _kind(name))
        for name in names.split()
    )


def _pg_tables(env: Env) -> list[Row]:
    found = sorted(row.name for row in catalog.relations(env.tx).scan(env.tx))
    return [("absurd", name, "postgres") for name in found]


def _routines(_: Env) -> list[Row]:
    return [
        ("memory", "absurd", name, "FUNCTION")
        for name, procedures in sorted(PROCEDURES.items())
        for _ in procedures
    ]


class View(NamedTuple):
    """A view of the catalogue; with a `schema_column` it only has the rows of Absurd's schema."""

    columns: tuple[ColumnInfo, ...]
    rows: Callable[[Env], list[Any]]
    schema_column: str | None = None


VIEWS: dict[tuple[str, str], View] = {
    ("information_schema", "tables"): View(
        _text_columns("table_catalog table_schema table_name table_type"), _tables, "table_schema"
    ),
    ("information_schema", "columns"): View(
        _text_columns(
            "table_catalog table_schema table_name column_name ordinal_position is_nullable "
            "data_type"
        ),
        _all_columns,
        "table_schema",
    ),
    ("information_schema", "routines"): View(
        _text_columns("routine_catalog routine_schema routine_name routine_type"),
        _routines,
        "routine_schema",
    ),
    ("information_schema", "schemata"): View(
        _text_columns("catalog_name schema_name schema_owner"),
        lambda _: [("memory", "absurd", "postgres")],
        "schema_name",
    ),
    ("pg_catalog", "pg_tables"): View(
        _text_columns("schemaname tablename tableowner"), _pg_tables, "schemaname"
    ),
    ("pg_catalog", "pg_namespace"): View(
        _text_columns("nspname"), lambda _: [("absurd",)], "nspname"
    ),
    ("pg_catalog", "pg_extension"): View(
        (ColumnInfo("extname", NAME), ColumnInfo("extversion", TEXT)),
        lambda _: [("plpgsql", "1.0")],
    ),
}


def is_told(where: Any, view: View, alias: str) -> bool:
    """Whether a condition asks for Absurd's schema or one of its tables, and for nothing else.

    Postgres has rows of its own in these views.
    """
    if view.schema_column is None:
        return True
    parts = [where]
    while parts:
        part = parts.pop()
        if isinstance(part, exp.And | exp.Paren):
            parts += [inner for inner in part.args.values() if inner is not None]
        if not isinstance(part, exp.EQ):
            continue
        column, literal = part.this, part.expression
        if not isinstance(column, exp.Column) or not isinstance(literal, exp.Literal):
            continue
        if column.table not in ("", alias):
            continue
        name = str(column.name).lower()
        if name == view.schema_column and literal.this == "absurd":
            return True
        if name in ("table_name", "tablename") and re.match(r"[trcewi]_", str(literal.this)):
            return True
    return False
