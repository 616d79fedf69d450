"""Aggregates: ``count``, ``sum``, ``min``, ``array_agg`` and their like."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlglot import exp

from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.sql import functions, operators
from absurd_contimg.backends.memory.sql.scope import Env, Evaluate, Expr, Node
from absurd_contimg.backends.memory.sql.types import (
    ARRAYS,
    BOOL,
    FLOAT8,
    INT2,
    INT4,
    INT8,
    INTEGERS,
    INTERVAL,
    JSONB,
    NUMERIC,
    TEXT,
    UNKNOWN,
    SqlType,
)
from absurd_contimg.backends.memory.times import Interval

if TYPE_CHECKING:
    from absurd_contimg.backends.memory.sql.expressions import Compiler

ANONYMOUS = frozenset({"jsonb_agg", "json_agg", "jsonb_object_agg", "every"})
"""Aggregates that sqlglot does not know as such."""


class Aggregate(NamedTuple):
    """A compiled aggregate: its value for the environments of a group's rows."""

    kind: SqlType
    value: Callable[[list[Env]], Any]
    name: str


class _Parts(NamedTuple):
    """An aggregate's argument with what stands around it."""

    call: Node
    condition: Evaluate | None
    order: list[tuple[Expr, bool, bool]]
    distinct: bool


def compile_aggregate(node: Node, compiler: Compiler) -> Aggregate | None:
    """The aggregate, None if it is not one that we know."""
    condition: Evaluate | None = None
    if isinstance(node, exp.Filter):
        condition = compiler.boolean(node.expression.this, "FILTER").value
        node = node.this
    if isinstance(node, exp.WithinGroup):
        return _percentile(node, compiler, condition)
    parts = _parts(node, compiler, condition)
    if isinstance(node, exp.Count):
        return _count(node, parts, compiler)
    maker = _MAKERS.get(type(node))
    if isinstance(node, exp.Anonymous):
        maker = _JSON_MAKERS.get(str(node.this).lower())
    return None if maker is None else maker(node, parts, compiler)


def _parts(node: Node, compiler: Compiler, condition: Evaluate | None) -> _Parts:
    argument = node.args.get("this")
    if isinstance(node, exp.Anonymous):
        argument = node.expressions[0] if node.expressions else None
    order: list[tuple[Expr, bool, bool]] = []
    if isinstance(argument, exp.Order):
        order = [
            (
                compiler.compile(item.this),
                bool(item.args.get("desc")),
                bool(item.args.get("nulls_first")),
            )
            for item in argument.expressions
        ]
        argument = argument.this
    distinct = isinstance(argument, exp.Distinct)
    if isinstance(argument, exp.Distinct):
        argument = argument.expressions[0]
    return _Parts(argument if argument is not None else exp.Star(), condition, order, distinct)


def _rows(parts: _Parts, envs: list[Env]) -> list[Env]:
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
    return envs


def null_key(kind: SqlType, value: Any, *, nulls_first: bool) -> tuple[int, Any]:
    """A sort key that puts nulls first or last."""
    if value is None:
        return (-1 if nulls_first else 1, 0)
    return (0, operators.sort_key(kind, value))


def _values(parts: _Parts, expr: Expr, envs: list[Env]) -> list[Any]:
    found = [expr.value(env) for env in _rows(parts, envs)]
    if not parts.distinct:
        return found
    unique: dict[Any, Any] = {}
    for item in found:
        key = None if item is None else operators.sort_key(expr.kind, item)
        unique.setdefault(repr(key), item)
    nulls = [item for item in unique.values() if item is None]
    known = [item for item in unique.values() if item is not None]
    if not parts.order:  # Postgres sorts to find duplicates
        known.sort(key=lambda item: operators.sort_key(expr.kind, item))
    return known + nulls


def _count(node: exp.Count, parts: _Parts, compiler: Compiler) -> Aggregate:
    if isinstance(node.this, exp.Star):
        return Aggregate(INT8, lambda envs: len(_rows(parts, envs)), "count")
    expr = compiler.compile(parts.call)
    return Aggregate(
        INT8,
        lambda envs: sum(item is not None for item in _values(parts, expr, envs)),
        "count",
    )


def _known(parts: _Parts, expr: Expr, envs: list[Env]) -> list[Any]:
    return [item for item in _values(parts, expr, envs) if item is not None]


def _extreme(choose: Callable[..., Any], name: str) -> Callable[..., Aggregate]:
    def make(_: Node, parts: _Parts, compiler: Compiler) -> Aggregate:
        expr = compiler.compile(parts.call)
        if expr.kind is UNKNOWN:
            expr = operators.converted(expr, TEXT)
        if expr.kind is BOOL or expr.kind is JSONB:
            raise functions.undefined_function(name, [expr.kind])

        def value(envs: list[Env]) -> Any:
            found = _known(parts, expr, envs)
            return (
                choose(found, key=lambda item: operators.sort_key(expr.kind, item))
                if found
                else None
            )

        return Aggregate(expr.kind, value, name)

    return make


def _sum(_: Node, parts: _Parts, compiler: Compiler) -> Aggregate:
    expr = compiler.compile(parts.call)
    kind = {INT2: INT8, INT4: INT8, INT8: NUMERIC}.get(expr.kind, expr.kind)
    _numeric_only("sum", expr.kind)

    def value(envs: list[Env]) -> Any:
        found = _known(parts, expr, envs)
        if not found:
            return None
        if expr.kind is INTERVAL:
            return Interval(*(sum(fields) for fields in zip(*found, strict=True)))
        total = sum(found)
        return Decimal(total) if kind is NUMERIC else total

    return Aggregate(kind, value, "sum")


def _numeric_only(name: str, kind: SqlType) -> None:
    if kind not in (*INTEGERS, NUMERIC, FLOAT8, INTERVAL):
        raise functions.undefined_function(name, [kind])


def _average(_: Node, parts: _Parts, compiler: Compiler) -> Aggregate:
    expr = compiler.compile(parts.call)
    _numeric_only("avg", expr.kind)
    kind = NUMERIC if expr.kind in INTEGERS else expr.kind

    def value(envs: list[Env]) -> Any:
        found = _known(parts, expr, envs)
        if not found:
            return None
        if kind is INTERVAL:
            total = Interval(*(sum(fields) for fields in zip(*found, strict=True)))
            return operators.scale_interval(total, len(found), divide=True)
        if kind is FLOAT8:
            return sum(found) / len(found)
        return operators.divide_numeric(Decimal(sum(found)), Decimal(len(found)))

    return Aggregate(kind, value, "avg")


def _truth(every: bool, name: str) -> Callable[..., Aggregate]:
    def make(_: Node, parts: _Parts, compiler: Compiler) -> Aggregate:
        expr = compiler.boolean(parts.call, name)

        def value(envs: list[Env]) -> bool | None:
            found = _known(parts, expr, envs)
            return (all(found) if every else any(found)) if found else None

        return Aggregate(BOOL, value, name)

    return make


def _array(_: Node, parts: _Parts, compiler: Compiler) -> Aggregate:
    expr = compiler.compile(parts.call)
    if expr.kind is UNKNOWN:
        expr = operators.converted(expr, TEXT)
    kind = ARRAYS[expr.kind.name]
    return Aggregate(kind, lambda envs: _values(parts, expr, envs) or None, "array_agg")


def _string(node: Node, parts: _Parts, compiler: Compiler) -> Aggregate:
    expr = operators.converted(compiler.compile(parts.call), TEXT)
    separator = operators.converted(compiler.compile(node.args["separator"]), TEXT).value

    def value(envs: list[Env]) -> str | None:
        found = _known(parts, expr, envs)
        return (separator(envs[0]) or "").join(found) if found else None

    return Aggregate(TEXT, value, "string_agg")


def _json_array(node: Node, parts: _Parts, compiler: Compiler) -> Aggregate:
    expr = compiler.compile(parts.call)

    def value(envs: list[Env]) -> str | None:
        if not (found := _values(parts, expr, envs)):
            return None
        session = envs[0].session
        items = [functions.to_json_text(item, expr.kind, session) for item in found]
        return "[" + ", ".join(items) + "]"

    return Aggregate(JSONB, value, str(node.this).lower())


def _json_object(node: Node, parts: _Parts, compiler: Compiler) -> Aggregate:
    members = node.expressions or [node.this, node.args.get("expression")]
    pair = functions.build_object([compiler.compile(item) for item in members], "jsonb_object_agg")

    def value(envs: list[Env]) -> str | None:
        rows = _rows(parts, envs)
        if not rows:
            return None
        merged = "{}"
        for env in rows:
            merged = operators.join_json(merged, pair.value(env))
        return merged

    return Aggregate(JSONB, value, "jsonb_object_agg")


def _percentile(
    node: exp.WithinGroup, compiler: Compiler, condition: Evaluate | None
) -> Aggregate | None:
    if not isinstance(node.this, exp.PercentileCont | exp.PercentileDisc):
        return None
    continuous = isinstance(node.this, exp.PercentileCont)
    fraction = operators.converted(compiler.compile(node.this.this), FLOAT8).value
    ordered = node.expression.expressions[0]
    expr = compiler.compile(ordered.this)
    if continuous and expr.kind is not INTERVAL:
        expr = operators.converted(expr, FLOAT8)
    parts = _Parts(ordered.this, condition, [], distinct=False)

    def value(envs: list[Env]) -> Any:
        found = sorted(
            _known(parts, expr, envs), key=lambda item: operators.sort_key(expr.kind, item)
        )
        if not found:
            return None
        place = fraction(envs[0])
        if not 0 <= place <= 1:
            raise EngineError("22003", f"percentile value {place:g} is not between 0 and 1")
        if not continuous:
            return found[max(-int(-place * len(found) // 1) - 1, 0)]
        position = place * (len(found) - 1)
        low = found[int(position)]
        high = found[min(int(position) + 1, len(found) - 1)]
        rest = position - int(position)
        if expr.kind is INTERVAL:
            return Interval(us=round(low.span() + rest * (high.span() - low.span())))
        return low + rest * (high - low)

    return Aggregate(expr.kind, value, "percentile_cont" if continuous else "percentile_disc")


_MAKERS: dict[type, Callable[..., Aggregate]] = {
    exp.Min: _extreme(min, "min"),
    exp.Max: _extreme(max, "max"),
    exp.Sum: _sum,
    exp.Avg: _average,
    exp.LogicalAnd: _truth(every=True, name="bool_and"),
    exp.LogicalOr: _truth(every=False, name="bool_or"),
    exp.ArrayAgg: _array,
    exp.GroupConcat: _string,
}
for _class in ("JSONBObjectAgg", "JSONObjectAgg"):
    if hasattr(exp, _class):
        _MAKERS[getattr(exp, _class)] = _json_object
_JSON_MAKERS: dict[str, Callable[..., Aggregate]] = {
    "jsonb_agg": _json_array,
    "json_agg": _json_array,
    "jsonb_object_agg": _json_object,
    "every": _truth(every=True, name="every"),
}
