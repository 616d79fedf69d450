"""Aggregates: ``count``, ``sum``, ``avg``, ``min`` and ``max``."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import partial, reduce
from operator import truediv
from typing import Any, NamedTuple

from sqlglot import exp

from absurd_contimg.backends.memory.errors import Unsupported
from absurd_contimg.backends.memory.sql.casts import as_text, unmatched
from absurd_contimg.backends.memory.sql.dialect import name_of
from absurd_contimg.backends.memory.sql.operators import check_ordered, sort_key
from absurd_contimg.backends.memory.sql.scope import Env, Evaluate, Expr, Node, Scope
from absurd_contimg.backends.memory.values import intervals, numerics, types
from absurd_contimg.backends.memory.values.types import FLOAT8, INT8, INTERVAL, NUMERIC, SqlType

NAMES = frozenset({"avg", "count", "max", "min", "sum"})
Combine = Callable[[list[Any]], Any]
"""What makes the result of a group's values, of which none is null."""


class Aggregate(NamedTuple):
    """A compiled aggregate: its value for the rows of a group."""

    kind: SqlType
    value: Callable[[list[Env]], Any]


def compile_aggregate(
    node: Node, scope: Scope, compile_argument: Callable[[Node], Expr], condition: Evaluate | None
) -> Aggregate:
    """A call of an aggregate, of the rows where the condition of its ``filter`` holds."""
    name, items = str(node.this).lower(), list(node.expressions)
    distinct = bool(items) and isinstance(items[0], exp.Distinct)
    if distinct:
        items = list(items[0].expressions)
    if name not in NAMES or len(items) != 1:
        raise Unsupported(f"the aggregate {name} with these arguments")
    item, expr = items[0], Expr(types.BOOL, lambda _: True)  # count(*) counts any row
    if isinstance(item, exp.Column) and isinstance(item.this, exp.Star):
        index = scope.places_of(name_of(item.args["table"]))[0][0]
        expr = Expr(types.BOOL, lambda env: env.rows[index])  # an outer join's row may be null
    elif not isinstance(item, exp.Star):
        return _aggregate(name, compile_argument(item), condition, distinct=distinct)
    if name != "count" or distinct:
        raise Unsupported(f"{name} of whole rows")
    return _aggregate(name, expr, condition)


def _aggregate(
    name: str, expr: Expr, condition: Evaluate | None, *, distinct: bool = False
) -> Aggregate:
    """An aggregate of one argument; 42883 for one of a type that it does not take."""
    expr = as_text(expr) if name in ("max", "min") else expr
    make = {"count": _count, "sum": _sum, "avg": _average}.get(name, _extreme)
    kind, combine = make(name, expr.kind)
    if distinct:
        expr = as_text(expr)
        check_ordered(expr.kind, "DISTINCT")
    argument, inner = expr.kind, expr.value

    def value(envs: list[Env]) -> Any:
        if condition is not None:
            envs = [env for env in envs if condition(env) is True]
        known = [raw for env in envs if (raw := inner(env)) is not None]
        if distinct:
            known = list({sort_key(argument, raw): raw for raw in known}.values())
        return combine(known)

    return Aggregate(kind, value)


def _count(_: str, __: SqlType) -> tuple[SqlType, Combine]:
    return INT8, len


def _extreme(name: str, kind: SqlType) -> tuple[SqlType, Combine]:
    if kind in (types.BOOL, types.JSONB, types.UUID):
        raise unmatched("function", f"{name}({kind.shown})")
    check_ordered(kind, name)
    choose: Callable[..., Any] = max if name == "max" else min
    return kind, lambda known: choose(known, key=lambda raw: sort_key(kind, raw), default=None)


_SUMS: dict[SqlType, tuple[SqlType, Combine]] = {
    types.INT2: (INT8, sum),
    types.INT4: (INT8, sum),
    INT8: (NUMERIC, lambda known: Decimal(sum(known))),
    NUMERIC: (NUMERIC, partial(reduce, numerics.NUMERIC_WORK["+"])),
    FLOAT8: (FLOAT8, partial(reduce, numerics.FLOAT_WORK["+"])),
    INTERVAL: (INTERVAL, partial(reduce, intervals.add)),
}


def _number(name: str, kind: SqlType) -> tuple[SqlType, Combine]:
    if kind not in _SUMS:
        raise unmatched("function", f"{name}({kind.shown})", unique=kind is not types.UNKNOWN)
    return _SUMS[kind]


def _sum(name: str, kind: SqlType) -> tuple[SqlType, Combine]:
    result, total = _number(name, kind)
    return result, lambda known: total(known) if known else None


def _average(name: str, kind: SqlType) -> tuple[SqlType, Combine]:
    _, total = _number(name, kind)

    def mean(known: list[Any]) -> Any:
        if not known:
            return None
        if kind is INTERVAL:
            return intervals.scaled(total(known), len(known), truediv)
        if kind is FLOAT8:
            return total(known) / len(known)
        return numerics.divide(Decimal(total(known)), Decimal(len(known)))

    return NUMERIC if kind in types.INTEGERS else kind, mean
