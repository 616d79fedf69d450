"""``with recursive``: a common table that refers to itself once, after ``union``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlglot import exp

from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.sql.coercion import common_type
from absurd_contimg.backends.memory.sql.comparison import row_key
from absurd_contimg.backends.memory.sql.dialect import sql_of
from absurd_contimg.backends.memory.sql.expressions import name_of, unwrapped
from absurd_contimg.backends.memory.sql.scope import ColumnInfo, Env, Node, Row, Scope
from absurd_contimg.backends.memory.sql.types import TEXT, UNKNOWN

if TYPE_CHECKING:
    from absurd_contimg.backends.memory.sql.queries import Planner

ROWS_MAX = 100_000
"""More rows are taken for a recursion without an end. Postgres would go on until it is stopped."""

Rows = Callable[[Env], list[Row]]


def refers(node: Node, name: str) -> int:
    """How often a query names a table."""
    return sum(
        isinstance(table.this, exp.Identifier)
        and name_of(table.this) == name
        and table.args.get("db") is None
        for table in node.find_all(exp.Table)
    )


def renamed(item: exp.CTE, columns: list[ColumnInfo]) -> tuple[ColumnInfo, ...]:
    """The columns with the names that the ``with`` gives them."""
    names = [name_of(column) for column in item.args["alias"].columns]
    if len(names) > len(columns):
        raise EngineError(
            "42P10",
            f'WITH query "{name_of(item.args["alias"].this)}" has {len(columns)} columns available '
            f"but {len(names)} columns specified",
        )
    return tuple(
        column._replace(name=names[index]) if index < len(names) else column
        for index, column in enumerate(columns)
    )


def compile_recursive(
    planner: Planner, item: exp.CTE, name: str, scope: Scope
) -> tuple[list[ColumnInfo], Rows]:
    """Its columns, which are those of the first part, and what gives its rows."""
    union = unwrapped(item.this)
    if not isinstance(union, exp.Union) or refers(union.this, name):
        raise EngineError(
            "42P19",
            f'recursive query "{name}" does not have the form non-recursive-term UNION [ALL] '
            "recursive-term",
        )
    step = unwrapped(union.expression)
    unusual = [union.args.get(clause) for clause in ("order", "limit", "offset", "with_", "with")]
    if any(unusual) or refers(step, name) > 1 or not _is_simple(step, name):
        raise unsupported(sql_of(union), "this form of a recursive query")
    first, first_rows = planner.query(union.this, scope.child())
    columns = [
        ColumnInfo(column.name, TEXT if column.kind is UNKNOWN else column.kind) for column in first
    ]
    inner = scope.child()
    inner.ctes[name] = renamed(item, columns)
    again, again_rows = planner.query(step, inner)
    _check_types(name, columns, again)
    distinct = bool(union.args.get("distinct"))

    def rows(env: Env) -> list[Row]:
        known = set[Any]()
        kinds = [column.kind for column in columns]
        found: list[Row] = []
        working = first_rows(env.child())
        while working:
            if distinct:
                working = [row for row in working if _is_new(row_key(kinds, row), known)]
            found += working
            if len(found) > ROWS_MAX:
                raise unsupported(sql_of(union), f"a recursion of more than {ROWS_MAX} rows")
            here = env.child()
            here.ctes[name] = working
            working = again_rows(here)
        return found

    return columns, rows


def _is_simple(step: Node, name: str) -> bool:
    """Whether the table stands in the ``from`` of the step itself, and nothing is aggregated."""
    if not isinstance(step, exp.Select) or step.args.get("group"):
        return False
    clause = step.args.get("from_") or step.args.get("from")
    joins = step.args.get("joins") or []
    tables = [] if clause is None else [clause.this, *(join.this for join in joins)]
    outer = any(join.args.get("side") for join in joins)
    return not outer and any(
        isinstance(table, exp.Table) and refers(table, name) for table in tables
    )


def _is_new(key: Any, known: set[Any]) -> bool:
    if key in known:
        return False
    known.add(key)
    return True


def _check_types(name: str, columns: list[ColumnInfo], again: list[ColumnInfo]) -> None:
    if len(columns) != len(again):
        raise EngineError("42601", "each UNION query must have the same number of columns")
    for position, (one, other) in enumerate(zip(columns, again, strict=True), 1):
        overall = common_type([one.kind, other.kind], "UNION")
        if overall is not one.kind:
            raise EngineError(
                "42804",
                f'recursive query "{name}" column {position} has type {one.kind.shown} in '
                f"non-recursive term but type {overall.shown} overall",
                hint="Cast the output of the non-recursive term to the correct type.",
            )
        if other.kind is not overall and other.kind is not UNKNOWN:
            raise unsupported(other.kind.shown, "another type in the recursive term")
