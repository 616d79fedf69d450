"""Aggregates over an order: ``percentile_cont``, ``percentile_disc`` and ``mode``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from sqlglot import exp

from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.sql.aggregate_parts import (
    Aggregate,
    Parts,
    known_of,
)
from absurd_contimg.backends.memory.sql.coercion import converted
from absurd_contimg.backends.memory.sql.comparison import row_key, sort_key
from absurd_contimg.backends.memory.sql.dialect import sql_of
from absurd_contimg.backends.memory.sql.registry import (
    polymorphic_unknown,
    undefined_function,
)
from absurd_contimg.backends.memory.sql.scope import Env, Evaluate, Expr
from absurd_contimg.backends.memory.sql.types import (
    ARRAYS,
    FLOAT8,
    INTERVAL,
    JSON,
    NUMBERS,
    UNKNOWN,
    ArrayType,
    SqlType,
)
from absurd_contimg.backends.memory.values import interval_arithmetic as spans

if TYPE_CHECKING:
    from absurd_contimg.backends.memory.sql.expressions import Compiler


def compile_within_group(
    node: exp.WithinGroup, compiler: Compiler, condition: Evaluate | None
) -> Aggregate:
    """``percentile_cont``, ``percentile_disc`` and ``mode``."""
    call = node.this
    name = str(call.this).lower() if isinstance(call, exp.Anonymous) else ""
    if name not in ("percentile_cont", "percentile_disc", "mode"):
        raise unsupported(sql_of(node), "this aggregate")
    ordered = node.expression.expressions[0]
    expr = compiler.compile(ordered.this)
    if ordered.args.get("desc"):
        raise unsupported(sql_of(node), "a descending order within group")
    if name == "percentile_cont" and expr.kind is not INTERVAL:
        if expr.kind not in (*NUMBERS, UNKNOWN):
            kinds = [compiler.compile(item).kind for item in call.expressions]
            raise undefined_function(name, [*kinds, expr.kind])
        expr = converted(expr, FLOAT8)
    if expr.kind is UNKNOWN:
        raise polymorphic_unknown()
    if expr.kind is JSON:
        raise EngineError(
            "42883",
            "could not identify an ordering operator for type json",
            hint="Use an explicit ordering operator or modify the query.",
        )
    parts = Parts(name, [expr], condition, [], distinct=False)
    if name == "mode":
        return Aggregate(expr.kind, lambda envs: _mode(expr, known_of(parts, envs)), name)
    wanted = compiler.compile(call.expressions[0])
    several = isinstance(wanted.kind, ArrayType)
    fraction = converted(wanted, ARRAYS["float8"] if several else FLOAT8).value

    def value(envs: list[Env]) -> Any:
        found = sorted(known_of(parts, envs), key=lambda item: sort_key(expr.kind, item))
        if not found:
            return None
        places = fraction(envs[0])
        if several and places is not None:
            return [at(found, place) for place in places]
        return at(found, places)

    def at(found: list[Any], place: float | None) -> Any:
        if place is None:
            return None
        if not 0 <= place <= 1:
            raise EngineError("22003", f"percentile value {place:g} is not between 0 and 1")
        if name == "percentile_disc":
            return found[max(math.ceil(place * len(found)) - 1, 0)]
        return _between(found, place, expr.kind)

    kind = expr.kind
    if several:
        if kind.name not in ARRAYS:
            raise unsupported(sql_of(node), f"arrays of {kind.shown}")
        kind = ARRAYS[kind.name]
    return Aggregate(kind, value, name)


def _between(found: list[Any], place: float, kind: SqlType) -> Any:
    position = place * (len(found) - 1)
    low = found[math.floor(position)]
    high = found[math.ceil(position)]
    rest = position - math.floor(position)
    if rest == 0:
        return low
    if kind is not INTERVAL:
        return low + rest * (high - low)
    return spans.between(low, high, rest)


def _mode(expr: Expr, found: list[Any]) -> Any:
    """The most frequent value, of several the least."""
    counts: dict[Any, tuple[int, Any]] = {}
    for item in sorted(found, key=lambda item: sort_key(expr.kind, item)):
        key = row_key([expr.kind], (item,))
        times, first = counts.get(key, (0, item))
        counts[key] = (times + 1, first)
    return max(counts.values(), key=lambda pair: pair[0])[1] if counts else None
