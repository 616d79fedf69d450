"""Aggregates: ``count``, ``sum``, ``min``, ``array_agg`` and their like, by name."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING, Any

from sqlglot import exp

from absurd_contimg.backends.memory import jsonb
from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.sql import json_functions
from absurd_contimg.backends.memory.sql.aggregate_parts import (
    Aggregate,
    Parts,
    known_of,
    only_argument,
    parts_of,
    rows_of,
    values_of,
    with_arguments,
)
from absurd_contimg.backends.memory.sql.coercion import converted, determined
from absurd_contimg.backends.memory.sql.comparison import sort_key
from absurd_contimg.backends.memory.sql.dialect import sql_of
from absurd_contimg.backends.memory.sql.ordered_set import compile_within_group
from absurd_contimg.backends.memory.sql.registry import (
    ambiguous_function,
    polymorphic_unknown,
    undefined_function,
)
from absurd_contimg.backends.memory.sql.scope import Env, Evaluate, Expr, Node
from absurd_contimg.backends.memory.sql.types import (
    ARRAYS,
    BOOL,
    BYTEA,
    FLOAT8,
    INT2,
    INT4,
    INT8,
    INTEGERS,
    INTERVAL,
    JSON,
    JSONB,
    NAME,
    NUMBERS,
    NUMERIC,
    TEXT,
    UNKNOWN,
    UUID,
    VARCHAR,
    RecordType,
)
from absurd_contimg.backends.memory.values import floats, numerics
from absurd_contimg.backends.memory.values import interval_arithmetic as spans

if TYPE_CHECKING:
    from absurd_contimg.backends.memory.sql.expressions import Compiler


def is_aggregate(node: Node) -> bool:
    """Whether a node is a call of an aggregate, with or without ``filter``."""
    if isinstance(node, exp.Filter | exp.WithinGroup):
        return True
    return isinstance(node, exp.Anonymous) and str(node.this).lower() in NAMES


def compile_aggregate(node: Node, compiler: Compiler) -> Aggregate:
    """The aggregate; 0A000 for one that is not supported."""
    condition: Evaluate | None = None
    if isinstance(node, exp.Filter):
        condition = compiler.boolean(node.expression.this, "FILTER").value
        node = node.this
    if isinstance(node, exp.WithinGroup):
        return compile_within_group(node, compiler, condition)
    name = str(node.this).lower()
    maker = _MAKERS.get(name)
    if maker is None:
        raise unsupported(sql_of(node), f"the aggregate {name}")
    if len(node.expressions) == 1 and isinstance(node.expressions[0], exp.Star):
        if name != "count":
            raise undefined_function(name, [])
        return Aggregate(INT8, _counter(condition), name)
    parts = parts_of(name, node, compiler, condition)
    made = maker(parts)
    if parts.distinct and any(item.kind is JSON for item in parts.arguments):
        raise EngineError("42883", "could not identify an equality operator for type json")
    return made


def _counter(condition: Evaluate | None) -> Callable[[list[Env]], int]:
    if condition is None:
        return len
    return lambda envs: sum(condition(env) is True for env in envs)


def _count(parts: Parts) -> Aggregate:
    only_argument(parts)
    return Aggregate(INT8, lambda envs: len(known_of(parts, envs)), parts.name)


def _extreme(parts: Parts) -> Aggregate:
    expr = only_argument(parts)
    if expr.kind in (UNKNOWN, VARCHAR, NAME):
        expr = converted(expr, TEXT)
    kind = expr.kind
    if kind in (BOOL, JSONB, JSON, UUID):
        raise undefined_function(parts.name, [kind])
    choose: Callable[..., Any] = max if parts.name == "max" else min
    parts = with_arguments(parts, expr)

    def value(envs: list[Env]) -> Any:
        found = known_of(parts, envs)
        return choose(found, key=lambda item: sort_key(kind, item)) if found else None

    return Aggregate(kind, value, parts.name)


def _numeric_only(parts: Parts) -> Expr:
    expr = only_argument(parts)
    if expr.kind is UNKNOWN:
        raise ambiguous_function(parts.name, [expr.kind])
    if expr.kind not in (*INTEGERS, NUMERIC, FLOAT8, INTERVAL):
        raise undefined_function(parts.name, [expr.kind])
    return expr


def _sum(parts: Parts) -> Aggregate:
    expr = _numeric_only(parts)
    kind = {INT2: INT8, INT4: INT8, INT8: NUMERIC}.get(expr.kind, expr.kind)

    def value(envs: list[Env]) -> Any:
        found = known_of(parts, envs)
        if not found:
            return None
        if kind is INTERVAL:
            return spans.total(found)
        if kind is FLOAT8:
            return floats.total(found)
        return numerics.total(map(Decimal, found)) if kind is NUMERIC else sum(found)

    return Aggregate(kind, value, parts.name)


def _average(parts: Parts) -> Aggregate:
    expr = _numeric_only(parts)
    kind = NUMERIC if expr.kind in INTEGERS else expr.kind

    def value(envs: list[Env]) -> Any:
        found = known_of(parts, envs)
        if not found:
            return None
        if kind is INTERVAL:
            return spans.mean(found)
        if kind is FLOAT8:
            moments = floats.moments(found)
            return moments.total / moments.number
        return numerics.divide(numerics.total(map(Decimal, found)), Decimal(len(found)))

    return Aggregate(kind, value, parts.name)


def _spread(parts: Parts) -> Aggregate:
    """``stddev`` and ``variance``."""
    expr = only_argument(parts)
    if expr.kind is UNKNOWN:
        expr = converted(expr, FLOAT8)
        parts = with_arguments(parts, expr)
    if expr.kind not in NUMBERS:
        raise undefined_function(parts.name, [expr.kind])
    less = 0 if parts.name.endswith("_pop") else 1
    root = parts.name.startswith("stddev")
    spread = _float_spread if expr.kind is FLOAT8 else _numeric_spread

    def value(envs: list[Env]) -> Any:
        found = known_of(parts, envs)
        return spread(found, less, root=root) if len(found) > less else None

    return Aggregate(FLOAT8 if expr.kind is FLOAT8 else NUMERIC, value, parts.name)


def _float_spread(found: list[float], less: int, *, root: bool) -> float:
    variance = floats.moments(found).variance(less)
    return math.sqrt(variance) if root else variance


def _numeric_spread(found: list[Any], less: int, *, root: bool) -> Decimal:
    """To as many digits as numeric_stddev_internal gives."""
    numbers = [Decimal(item) for item in found]
    if not all(item.is_finite() for item in numbers):
        return Decimal("NaN")
    count = len(numbers)
    with localcontext() as context:
        context.prec = 1200
        total, squares = Decimal(0), Decimal(0)
        for item in numbers:
            total, squares = total + item, squares + item * item
        part = count * squares - total * total
        if part <= 0:
            return Decimal(0)
        variance = numerics.divide(part, Decimal(count * (count - less)))
        if not root:
            return variance
        return numerics.rounded(variance.sqrt(), numerics.scale(variance))


def _truth(parts: Parts) -> Aggregate:
    expr = only_argument(parts)
    if expr.kind is UNKNOWN:
        expr = converted(expr, BOOL)
    if expr.kind is not BOOL:
        raise undefined_function(parts.name, [expr.kind])
    every, parts = parts.name != "bool_or", with_arguments(parts, expr)

    def value(envs: list[Env]) -> bool | None:
        found = known_of(parts, envs)
        return (all(found) if every else any(found)) if found else None

    return Aggregate(BOOL, value, parts.name)


def _bits(parts: Parts) -> Aggregate:
    expr = only_argument(parts)
    if expr.kind is UNKNOWN:
        raise ambiguous_function(parts.name, [expr.kind])
    if expr.kind not in INTEGERS:
        raise undefined_function(parts.name, [expr.kind])
    combine = {"bit_and": operator.and_, "bit_or": operator.or_, "bit_xor": operator.xor}
    work = combine[parts.name]

    def value(envs: list[Env]) -> int | None:
        found = known_of(parts, envs)
        return functools.reduce(work, found) if found else None

    return Aggregate(expr.kind, value, parts.name)


def _array(parts: Parts) -> Aggregate:
    expr = only_argument(parts)
    if expr.kind is UNKNOWN:
        expr = converted(expr, TEXT)
    if expr.kind.name not in ARRAYS or isinstance(expr.kind, RecordType):
        raise unsupported(parts.name, f"arrays of {expr.kind.shown}")
    parts = with_arguments(parts, expr)
    kind = ARRAYS[expr.kind.name]
    return Aggregate(kind, lambda envs: values_of(parts, envs) or None, parts.name)


def _string(parts: Parts) -> Aggregate:
    kinds = [item.kind for item in parts.arguments]
    if BYTEA in kinds:
        raise unsupported(parts.name, "string_agg of bytea")
    if len(kinds) != 2 or not all(kind in (TEXT, UNKNOWN) or kind.name in _TEXTS for kind in kinds):
        raise undefined_function(parts.name, kinds)
    text, separator = (converted(item, TEXT) for item in parts.arguments)
    parts = with_arguments(parts, text, separator)

    def value(envs: list[Env]) -> str | None:
        found = [
            (separator.value(env) or "", item)
            for env in rows_of(parts, envs)
            if (item := text.value(env)) is not None
        ]
        if not found:
            return None
        return str(found[0][1]) + "".join([between + item for between, item in found[1:]])

    return Aggregate(TEXT, value, parts.name)


_TEXTS = ("varchar", "name")


def _json_array(parts: Parts) -> Aggregate:
    expr = only_argument(parts)
    if expr.kind is UNKNOWN:
        raise polymorphic_unknown()
    binary, parts = parts.name == "jsonb_agg", with_arguments(parts, expr)

    def value(envs: list[Env]) -> str | None:
        found = values_of(parts, envs)
        if not found:
            return None
        session = envs[0].session
        items = [json_functions.to_json_text(item, expr.kind, session) for item in found]
        break_ = ", \n " if isinstance(expr.kind, RecordType) else ", "
        text = "[" + break_.join(items) + "]"
        return jsonb.parse(text) if binary else text

    return Aggregate(JSONB if binary else JSON, value, parts.name)


def _json_object(parts: Parts) -> Aggregate:
    if len(parts.arguments) != 2:
        raise undefined_function(parts.name, [item.kind for item in parts.arguments])
    key = determined(parts.arguments[0])
    member = parts.arguments[1]
    if member.kind is UNKNOWN:
        member = converted(member, TEXT)
    binary = parts.name == "jsonb_object_agg"

    def value(envs: list[Env]) -> str | None:
        rows = rows_of(parts, envs)
        if not rows:
            return None
        pairs = []
        for env in rows:
            name = json_functions.member_key(json_functions.key_text(key, env), 1, parts.name)
            shown = json_functions.to_json_text(member.value(env), member.kind, env.session)
            pairs.append(f"{jsonb.dumps(name)} : {shown}")
        text = "{ " + ", ".join(pairs) + " }"
        return jsonb.parse(text) if binary else text

    return Aggregate(JSONB if binary else JSON, value, parts.name)


def _any_value(parts: Parts) -> Aggregate:
    expr = only_argument(parts)
    if expr.kind is UNKNOWN:
        raise polymorphic_unknown()
    return Aggregate(expr.kind, lambda envs: next(iter(known_of(parts, envs)), None), parts.name)


_MAKERS: dict[str, Callable[[Parts], Aggregate]] = {
    "count": _count,
    "min": _extreme,
    "max": _extreme,
    "sum": _sum,
    "avg": _average,
    **dict.fromkeys(("bool_and", "bool_or", "every"), _truth),
    **dict.fromkeys(("bit_and", "bit_or", "bit_xor"), _bits),
    "array_agg": _array,
    "string_agg": _string,
    "jsonb_agg": _json_array,
    "json_agg": _json_array,
    "jsonb_object_agg": _json_object,
    "json_object_agg": _json_object,
    "any_value": _any_value,
    **dict.fromkeys(
        ("stddev", "stddev_samp", "stddev_pop", "variance", "var_samp", "var_pop"), _spread
    ),
}
NAMES = frozenset(_MAKERS) | {"corr", "regr_slope", "xmlagg"}
"""Every aggregate that Postgres has and somebody may use; not all are supported."""
