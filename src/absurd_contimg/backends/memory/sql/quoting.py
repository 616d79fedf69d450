"""Text as SQL writes it: ``quote_ident``, ``quote_literal`` and ``format``."""

from __future__ import annotations

import re
from typing import Any

from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.sql.coercion import as_text, converted, determined
from absurd_contimg.backends.memory.sql.registry import (
    anything,
    builtin,
    polymorphic,
    textual,
    undefined_function,
)
from absurd_contimg.backends.memory.sql.scope import Env, Expr
from absurd_contimg.backends.memory.sql.types import TEXT, UNKNOWN


def quoted(name: str) -> str:
    """An identifier in quotes if it needs them."""
    if re.fullmatch(r"[a-z_][a-z0-9_]*", name) and name not in RESERVED:
        return name
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as a literal."""
    if "\\" in text:
        return " E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
    return "'" + text.replace("'", "''") + "'"


def quote_literal(text: str) -> str:
    """`literal` as ``quote_literal`` gives it, without the blank."""
    return literal(text).lstrip()


RESERVED = frozenset(
    [
        "all",
        "analyse",
        "analyze",
        "and",
        "any",
        "array",
        "as",
        "asc",
        "asymmetric",
        "authorization",
        "between",
        "bigint",
        "binary",
        "bit",
        "boolean",
        "both",
        "case",
        "cast",
        "char",
        "character",
        "check",
        "coalesce",
        "collate",
        "collation",
        "column",
        "concurrently",
        "constraint",
        "create",
        "cross",
        "current_catalog",
        "current_date",
        "current_role",
        "current_schema",
        "current_time",
        "current_timestamp",
        "current_user",
        "dec",
        "decimal",
        "default",
        "deferrable",
        "desc",
        "distinct",
        "do",
        "else",
        "end",
        "except",
        "exists",
        "extract",
        "false",
        "fetch",
        "float",
        "for",
        "foreign",
        "freeze",
        "from",
        "full",
        "grant",
        "greatest",
        "group",
        "grouping",
        "having",
        "ilike",
        "in",
        "initially",
        "inner",
        "inout",
        "int",
        "integer",
        "intersect",
        "interval",
        "into",
        "is",
        "isnull",
        "join",
        "json",
        "json_array",
        "json_arrayagg",
        "json_exists",
        "json_object",
        "json_objectagg",
        "json_query",
        "json_scalar",
        "json_serialize",
        "json_table",
        "json_value",
        "lateral",
        "leading",
        "least",
        "left",
        "like",
        "limit",
        "localtime",
        "localtimestamp",
        "merge_action",
        "national",
        "natural",
        "nchar",
        "none",
        "normalize",
        "not",
        "notnull",
        "null",
        "nullif",
        "numeric",
        "offset",
        "on",
        "only",
        "or",
        "order",
        "out",
        "outer",
        "overlaps",
        "overlay",
        "placing",
        "position",
        "precision",
        "primary",
        "real",
        "references",
        "returning",
        "right",
        "row",
        "select",
        "session_user",
        "setof",
        "similar",
        "smallint",
        "some",
        "substring",
        "symmetric",
        "system_user",
        "table",
        "tablesample",
        "then",
        "time",
        "timestamp",
        "to",
        "trailing",
        "treat",
        "trim",
        "true",
        "union",
        "unique",
        "user",
        "using",
        "values",
        "varchar",
        "variadic",
        "verbose",
        "when",
        "where",
        "window",
        "with",
        "xmlattributes",
        "xmlconcat",
        "xmlelement",
        "xmlexists",
        "xmlforest",
        "xmlnamespaces",
        "xmlparse",
        "xmlpi",
        "xmlroot",
        "xmlserialize",
        "xmltable",
    ]
)
"""Keywords that ``quote_ident`` quotes."""


@polymorphic("quote_nullable", takes=(anything,))
def _quote_nullable(arguments: list[Expr], name: str) -> Expr:
    part = _shown(arguments[0]).value

    def value(env: Env) -> str:
        text = part(env)
        return "NULL" if text is None else quote_literal(text)

    return Expr(TEXT, value, name)


@polymorphic("format", takes=(textual,), more=anything)
def _format_text(arguments: list[Expr], name: str) -> Expr:
    """``format`` with ``%s``, ``%I``, ``%L`` and ``%%``."""
    first, *others = arguments
    parts = [as_text(first).value, *(as_text(determined(expr)).value for expr in others)]

    def value(env: Env) -> str | None:
        pattern, *values = (part(env) for part in parts)
        return None if pattern is None else _formatted(pattern, values)

    return Expr(TEXT, value, name)


def _formatted(pattern: str, values: list[str | None]) -> str:
    pieces: list[str] = []
    rest = iter(values)
    position = 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if character != "%":
            pieces.append(character)
            continue
        kind = pattern[position : position + 1]
        position += 1
        if kind == "%":
            pieces.append("%")
            continue
        if kind.isdigit() or kind in ("-", "*"):
            raise unsupported(pattern, "positions and widths in format()")
        if not kind:
            raise EngineError(
                "22023", "unterminated format() type specifier", hint='For a single "%" use "%%".'
            )
        if kind not in ("s", "I", "L"):
            raise EngineError(
                "22023",
                f'unrecognized format() type specifier "{kind}"',
                hint='For a single "%" use "%%".',
            )
        try:
            item = next(rest)
        except StopIteration:
            raise EngineError("22023", "too few arguments for format()") from None
        if kind == "s":
            pieces.append(item or "")
        elif kind == "L":
            pieces.append("NULL" if item is None else literal(item))
        elif item is None:
            raise EngineError("22004", "null values cannot be formatted as an SQL identifier")
        else:
            pieces.append(quoted(item))
    return "".join(pieces)


def _shown(expr: Expr) -> Expr:
    """A value of any type as a cast to text shows it."""
    return as_text(expr) if expr.kind is UNKNOWN else converted(expr, TEXT)


def _any_text(name: str, work: Any) -> None:
    """Register a function of one value of any type, taken as text."""

    def make(arguments: list[Expr], shown: str) -> Expr:
        if len(arguments) != 1:
            raise undefined_function(name, [item.kind for item in arguments])
        part = _shown(arguments[0]).value

        def value(env: Env) -> str | None:
            text = part(env)
            return None if text is None else work(text)

        return Expr(TEXT, value, shown)

    polymorphic(name)(make)


_any_text("quote_literal", quote_literal)
builtin("quote_ident", (TEXT,), TEXT, lambda _, a: quoted(a))
