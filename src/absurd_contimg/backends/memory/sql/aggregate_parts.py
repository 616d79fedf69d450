"""An aggregate's call: its arguments, and the rows and values that it takes of a group."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlglot import exp

from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.sql.comparison import null_key, row_key
from absurd_contimg.backends.memory.sql.dialect import sql_of
from absurd_contimg.backends.memory.sql.registry import (
    ambiguous_function,
    undefined_function,
)
from absurd_contimg.backends.memory.sql.scope import Env, Evaluate, Expr, Node
from absurd_contimg.backends.memory.sql.types import (
    UNKNOWN,
    SqlType,
)

if TYPE_CHECKING:
    from absurd_contimg.backends.memory.sql.expressions import Compiler


class Aggregate(NamedTuple):
    """A compiled aggregate: its value for the environments of a group's rows."""

    kind: SqlType
    value: Callable[[list[Env]], Any]
    name: str


class Parts(NamedTuple):
    """An aggregate's arguments with what stands around them."""

    name: str
    arguments: list[Expr]
    condition: Evaluate | None
    order: list[tuple[Expr, bool, bool]]
    distinct: bool


def parts_of(name: str, node: Node, compiler: Compiler, condition: Evaluate | None) -> Parts:
    """The call's parts; 42P10 for an order that ``distinct`` does not tell."""
    items = list(node.expressions)
    order: list[tuple[Expr, bool, bool]] = []
    if items and isinstance(items[-1], exp.Order):
        clause = items[-1]
        items[-1] = clause.this
        order = [
            (
                compiler.compile(item.this),
                bool(item.args.get("desc")),
                bool(item.args.get("nulls_first")),
            )
            for item in clause.expressions
        ]
    distinct = bool(items) and isinstance(items[0], exp.Distinct)
    if distinct:
        items = [*items[0].expressions, *items[1:]]
    arguments = [compiler.compile(item) for item in items]
    if name == "array_agg" and [item.kind for item in arguments] == [UNKNOWN]:
        raise ambiguous_function(name, [item.kind for item in arguments])
    if distinct and order and not _among(clause, items):
        raise EngineError(
            "42P10",
            "in an aggregate with DISTINCT, ORDER BY expressions must appear in argument list",
        )
    return Parts(name, arguments, condition, order, distinct)


def _among(clause: exp.Order, items: list[Node]) -> bool:
    shown = {sql_of(item) for item in items}
    return all(sql_of(item.this) in shown for item in clause.expressions)


def rows_of(parts: Parts, envs: list[Env]) -> list[Env]:
    """The rows that the aggregate takes, in its order."""
    if parts.condition is not None:
        envs = [env for env in envs if parts.condition(env) is True]
    for expr, descending, nulls_first in reversed(parts.order):
        envs = sorted(
            envs,
            key=lambda env, expr=expr, down=descending, first=nulls_first: null_key(  # type: ignore[misc]
                expr.kind, expr.value(env), nulls_first=first is not down
            ),
            reverse=descending,
        )
    if parts.distinct:
        return _distinct(parts, envs)
    return envs


def _distinct(parts: Parts, envs: list[Env]) -> list[Env]:
    """One row for each of the arguments' values; Postgres sorts to find them."""
    kept: dict[Any, Env] = {}
    kinds = [item.kind for item in parts.arguments]
    for env in envs:
        row = tuple([item.value(env) for item in parts.arguments])
        kept.setdefault(row_key(kinds, row), env)
    found = list(kept.values())
    return found if parts.order else sorted(found, key=lambda env: _key(parts, env))


def _key(parts: Parts, env: Env) -> list[tuple[int, Any]]:
    return [null_key(item.kind, item.value(env), nulls_first=False) for item in parts.arguments]


def values_of(parts: Parts, envs: list[Env]) -> list[Any]:
    """The first argument's values, nulls included."""
    evaluate = parts.arguments[0].value
    return [evaluate(env) for env in rows_of(parts, envs)]


def known_of(parts: Parts, envs: list[Env]) -> list[Any]:
    """The same without nulls."""
    return [item for item in values_of(parts, envs) if item is not None]


def only_argument(parts: Parts) -> Expr:
    """The only argument; 42883 if there are more or none."""
    if len(parts.arguments) != 1:
        raise undefined_function(parts.name, [item.kind for item in parts.arguments])
    return parts.arguments[0]


def with_arguments(parts: Parts, *arguments: Expr) -> Parts:
    """The same call with other arguments."""
    return parts._replace(arguments=list(arguments))
