"""Rows of ``union``, ``intersect`` and ``except``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from absurd_contimg.backends.memory.sql.coercion import converted
from absurd_contimg.backends.memory.sql.comparison import row_key
from absurd_contimg.backends.memory.sql.scope import ColumnInfo, Env, Expr, Row
from absurd_contimg.backends.memory.sql.types import UNKNOWN, SqlType


def matched_rows(
    first: list[Row], second: list[Row], kinds: list[SqlType], *, keep: bool, all_rows: bool
) -> list[Row]:
    """``intersect`` and ``except``; with ``all`` a row of `second` matches one of `first`."""
    others = Counter(row_key(kinds, row) for row in second)
    found: list[Row] = []
    for row in first:
        key = row_key(kinds, row)
        matched = others[key] > 0
        if matched and all_rows:
            others[key] -= 1
        if matched is keep:
            found.append(row)
    return found


def unique_rows(rows: list[Row], kinds: list[SqlType]) -> list[Row]:
    """Rows without duplicates, in order of their first."""
    return list({row_key(kinds, row): row for row in reversed(rows)}.values())[::-1]


def caster(column: ColumnInfo, kind: Any) -> Callable[[Any, Env], Any]:
    """What casts values of a column to the type of the whole."""
    if column.kind is kind or column.kind is UNKNOWN:
        return lambda value, _: value

    def cast(value: Any, env: Env) -> Any:
        expr = converted(Expr(column.kind, lambda _: value), kind)
        return expr.value(env)

    return cast


def cast_row(
    row: Row,
    casts: list[tuple[Callable[[Any, Env], Any], Callable[[Any, Env], Any]]],
    side: int,
    env: Env,
) -> Row:
    """A row in the types of the whole; `side` is 0 for the left query."""
    return tuple(
        None if value is None else cast[side](value, env)
        for value, cast in zip(row, casts, strict=True)
    )
