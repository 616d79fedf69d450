"""Aggregates: ``count``, ``sum``, ``min``, ``array_agg`` and their like, by name."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlglot import exp

from absurd_contimg.backends.memory import jsonb
from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.sql import json_functions
from absurd_contimg.backends.memory.sql.arithmetic import divide_numeric, scale_interval
from absurd_contimg.backends.memory.sql.coercion import as_text, converted
from absurd_contimg.backends.memory.sql.comparison import null_key, row_key, sort_key
from absurd_contimg.backends.memory.sql.registry import (
    ambiguous_function,
    polymorphic_unknown,
    undefined_function,
)
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
    JSON,
    JSONB,
    NUMERIC,
    TEXT,
    UNKNOWN,
    UUID,
    ArrayType,
    RecordType,
    SqlType,
)
from absurd_contimg.backends.memory.times import Interval

if TYPE_CHECKING:
    from absurd_contimg.backends.memory.sql.expressions import Compiler


class Aggregate(NamedTuple):
    """A compiled aggregate: its value for the environments of a group's rows."""

    kind: SqlType
    value: Callable[[list[Env]], Any]
    name: str


class _Parts(NamedTuple):
    """An aggregate's arguments with what stands around them."""

    name: str
    arguments: list[Expr]
    condition: Evaluate | None
    order: list[tuple[Expr, bool, bool]]
    distinct: bool


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
        return _within_group(node, compiler, condition)
    name = str(node.this).lower()
    maker = _MAKERS.get(name)
    if maker is None:
        raise unsupported(str(node.sql(dialect="postgres")), f"the aggregate {name}")
    if len(node.expressions) == 1 and isinstance(node.expressions[0], exp.Star):
        if name != "count":
            raise EngineError("42883", f"function {name}() does not exist")
        return Aggregate(INT8, _counter(condition), name)
    return maker(_parts(name, node, compiler, condition))


def _counter(condition: Evaluate | None) -> Callable[[list[Env]], int]:
    if condition is None:
        return len
    return lambda envs: sum(condition(env) is True for env in envs)


def _parts(name: str, node: Node, compiler: Compiler, condition: Evaluate | None) -> _Parts:
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
    if name == "array_agg" and any(item.kind is UNKNOWN for item in arguments):
        raise ambiguous_function(name, [item.kind for item in arguments])
    if distinct and order and not _among(clause, items):
        raise EngineError(
            "42P10",
            "in an aggregate with DISTINCT, ORDER BY expressions must appear in argument list",
        )
    return _Parts(name, arguments, condition, order, distinct)


def _among(clause: exp.Order, items: list[Node]) -> bool:
    shown = {item.sql(dialect="postgres") for item in items}
    return all(item.this.sql(dialect="postgres") in shown for item in clause.expressions)


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
    if parts.distinct:
        return _distinct(parts, envs)
    return envs


def _distinct(parts: _Parts, envs: list[Env]) -> list[Env]:
    """One row for each of the arguments' values; Postgres sorts to find them."""
    kept: dict[Any, Env] = {}
    kinds = [item.kind for item in parts.arguments]
    for env in envs:
        row = tuple([item.value(env) for item in parts.arguments])
        kept.setdefault(row_key(kinds, row), env)
    found = list(kept.values())
    return found if parts.order else sorted(found, key=lambda env: _key(parts, env))


def _key(parts: _Parts, env: Env) -> list[tuple[int, Any]]:
    return [null_key(item.kind, item.value(env), nulls_first=False) for item in parts.arguments]


def _values(parts: _Parts, envs: list[Env]) -> list[Any]:
    evaluate = parts.arguments[0].value
    return [evaluate(env) for env in _rows(parts, envs)]


def _known(parts: _Parts, envs: list[Env]) -> list[Any]:
    return [item for item in _values(parts, envs) if item is not None]


def _one(parts: _Parts) -> Expr:
    """The only argument; 42883 if there are more or none."""
    if len(parts.arguments) != 1:
        raise undefined_function(parts.name, [item.kind for item in parts.arguments])
    return parts.arguments[0]


def _with(parts: _Parts, *arguments: Expr) -> _Parts:
    return parts._replace(arguments=list(arguments))


def _count(parts: _Parts) -> Aggregate:
    _one(parts)
    return Aggregate(INT8, lambda envs: len(_known(parts, envs)), parts.name)


def _extreme(parts: _Parts) -> Aggregate:
    expr = _one(parts)
    if expr.kind is UNKNOWN:
        expr = converted(expr, TEXT)
    kind = expr.kind
    if kind in (BOOL, JSONB, JSON, UUID):
        raise undefined_function(parts.name, [kind])
    choose: Callable[..., Any] = max if parts.name == "max" else min
    parts = _with(parts, expr)

    def value(envs: list[Env]) -> Any:
        found = _known(parts, envs)
        return choose(found, key=lambda item: sort_key(kind, item)) if found else None

    return Aggregate(kind, value, parts.name)


def _numeric_only(parts: _Parts) -> Expr:
    expr = _one(parts)
    if expr.kind is UNKNOWN:
        raise ambiguous_function(parts.name, [expr.kind])
    if expr.kind not in (*INTEGERS, NUMERIC, FLOAT8, INTERVAL):
        raise undefined_function(parts.name, [expr.kind])
    return expr


def _sum(parts: _Parts) -> Aggregate:
    expr = _numeric_only(parts)
    kind = {INT2: INT8, INT4: INT8, INT8: NUMERIC}.get(expr.kind, expr.kind)

    def value(envs: list[Env]) -> Any:
        found = _known(parts, envs)
        if not found:
            return None
        if kind is INTERVAL:
            return Interval(*(sum(fields) for fields in zip(*found, strict=True)))
        total = functools.reduce(operator.add, found)  # floats one by one, as Postgres adds them
        return Decimal(total) if kind is NUMERIC else total

    return Aggregate(kind, value, parts.name)


def _average(parts: _Parts) -> Aggregate:
    expr = _numeric_only(parts)
    kind = NUMERIC if expr.kind in INTEGERS else expr.kind

    def value(envs: list[Env]) -> Any:
        found = _known(parts, envs)
        if not found:
            return None
        if kind is INTERVAL:
            total = Interval(*(sum(fields) for fields in zip(*found, strict=True)))
            return scale_interval(total, len(found), divide=True)
        if kind is FLOAT8:
            return functools.reduce(operator.add, found) / len(found)
        return divide_numeric(Decimal(sum(found)), Decimal(len(found)))

    return Aggregate(kind, value, parts.name)


def _spread(parts: _Parts) -> Aggregate:
    """``stddev`` and ``variance``."""
    expr = _numeric_only(parts)
    if expr.kind is INTERVAL:
        raise undefined_function(parts.name, [expr.kind])
    less = 0 if parts.name.endswith("_pop") else 1
    root = parts.name.startswith("stddev")
    spread = _float_spread if expr.kind is FLOAT8 else _numeric_spread

    def value(envs: list[Env]) -> Any:
        found = _known(parts, envs)
        return spread(found, less, root=root) if len(found) > less else None

    return Aggregate(FLOAT8 if expr.kind is FLOAT8 else NUMERIC, value, parts.name)


def _float_spread(found: list[float], less: int, *, root: bool) -> float:
    """By Youngs and Cramer, in the order of the rows, as float8_accum does."""
    total = squares = 0.0
    for count, item in enumerate(found, 1):
        total += item
        if count > 1:
            part = item * count - total
            squares += part * part / (count * (count - 1))
    variance = squares / (len(found) - less)
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
        variance = divide_numeric(part, Decimal(count * (count - less)))
        if not root:
            return variance
        last_digit = Decimal(1).scaleb(int(variance.as_tuple().exponent))
        return variance.sqrt().quantize(last_digit, ROUND_HALF_UP)


def _truth(parts: _Parts) -> Aggregate:
    expr = _one(parts)
    if expr.kind is UNKNOWN:
        expr = converted(expr, BOOL)
    if expr.kind is not BOOL:
        raise undefined_function(parts.name, [expr.kind])
    every, parts = parts.name != "bool_or", _with(parts, expr)

    def value(envs: list[Env]) -> bool | None:
        found = _known(parts, envs)
        return (all(found) if every else any(found)) if found else None

    return Aggregate(BOOL, value, parts.name)


def _array(parts: _Parts) -> Aggregate:
    expr = _one(parts)
    if expr.kind is UNKNOWN:
        expr = converted(expr, TEXT)
    if expr.kind.name not in ARRAYS or isinstance(expr.kind, RecordType):
        raise unsupported(parts.name, f"arrays of {expr.kind.shown}")
    parts = _with(parts, expr)
    kind = ARRAYS[expr.kind.name]
    return Aggregate(kind, lambda envs: _values(parts, envs) or None, parts.name)


def _string(parts: _Parts) -> Aggregate:
    kinds = [item.kind for item in parts.arguments]
    if len(kinds) != 2 or not all(kind in (TEXT, UNKNOWN) or kind.name in _TEXTS for kind in kinds):
        raise undefined_function(parts.name, kinds)
    text, separator = (converted(item, TEXT) for item in parts.arguments)
    parts = _with(parts, text, separator)

    def value(envs: list[Env]) -> str | None:
        found = [
            (separator.value(env) or "", item)
            for env in _rows(parts, envs)
            if (item := text.value(env)) is not None
        ]
        if not found:
            return None
        return str(found[0][1]) + "".join([between + item for between, item in found[1:]])

    return Aggregate(TEXT, value, parts.name)


_TEXTS = ("varchar", "name")


def _json_array(parts: _Parts) -> Aggregate:
    expr = _one(parts)
    if expr.kind is UNKNOWN:
        raise polymorphic_unknown()
    binary, parts = parts.name == "jsonb_agg", _with(parts, expr)

    def value(envs: list[Env]) -> str | None:
        found = _values(parts, envs)
        if not found:
            return None
        session = envs[0].session
        items = [json_functions.to_json_text(item, expr.kind, session) for item in found]
        break_ = ", \n " if isinstance(expr.kind, RecordType) else ", "
        text = "[" + break_.join(items) + "]"
        return jsonb.parse(text) if binary else text

    return Aggregate(JSONB if binary else JSON, value, parts.name)


def _json_object(parts: _Parts) -> Aggregate:
    if len(parts.arguments) != 2:
        raise undefined_function(parts.name, [item.kind for item in parts.arguments])
    key = as_text(parts.arguments[0])
    member = parts.arguments[1]
    if member.kind is UNKNOWN:
        member = converted(member, TEXT)
    binary = parts.name == "jsonb_object_agg"

    def value(envs: list[Env]) -> str | None:
        rows = _rows(parts, envs)
        if not rows:
            return None
        pairs = []
        for env in rows:
            name = json_functions.member_key(key.value(env), 1, parts.name)
            shown = json_functions.to_json_text(member.value(env), member.kind, env.session)
            pairs.append(f"{jsonb.dumps(name)} : {shown}")
        text = "{ " + ", ".join(pairs) + " }"
        return jsonb.parse(text) if binary else text

    return Aggregate(JSONB if binary else JSON, value, parts.name)


def _any_value(parts: _Parts) -> Aggregate:
    expr = _one(parts)
    return Aggregate(expr.kind, lambda envs: next(iter(_known(parts, envs)), None), parts.name)


def _within_group(
    node: exp.WithinGroup, compiler: Compiler, condition: Evaluate | None
) -> Aggregate:
    """``percentile_cont``, ``percentile_disc`` and ``mode``."""
    call = node.this
    name = str(call.this).lower() if isinstance(call, exp.Anonymous) else ""
    if name not in ("percentile_cont", "percentile_disc", "mode"):
        raise unsupported(node.sql(dialect="postgres"), "this aggregate")
    ordered = node.expression.expressions[0]
    expr = compiler.compile(ordered.this)
    if ordered.args.get("desc"):
        raise unsupported(node.sql(dialect="postgres"), "a descending order within group")
    if name == "percentile_cont" and expr.kind is not INTERVAL:
        expr = converted(expr, FLOAT8)
    if expr.kind is UNKNOWN:
        raise polymorphic_unknown()
    parts = _Parts(name, [expr], condition, [], distinct=False)
    if name == "mode":
        return Aggregate(expr.kind, lambda envs: _mode(expr, _known(parts, envs)), name)
    wanted = compiler.compile(call.expressions[0])
    several = isinstance(wanted.kind, ArrayType)
    fraction = converted(wanted, ARRAYS["float8"] if several else FLOAT8).value

    def value(envs: list[Env]) -> Any:
        found = sorted(_known(parts, envs), key=lambda item: sort_key(expr.kind, item))
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
            raise unsupported(node.sql(dialect="postgres"), f"arrays of {kind.shown}")
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
    difference = Interval(high.months - low.months, high.days - low.days, high.us - low.us)
    part = scale_interval(difference, rest)
    return Interval(low.months + part.months, low.days + part.days, low.us + part.us)


def _mode(expr: Expr, found: list[Any]) -> Any:
    """The most frequent value, of several the least."""
    counts: dict[Any, tuple[int, Any]] = {}
    for item in sorted(found, key=lambda item: sort_key(expr.kind, item)):
        key = row_key([expr.kind], (item,))
        times, first = counts.get(key, (0, item))
        counts[key] = (times + 1, first)
    return max(counts.values(), key=lambda pair: pair[0])[1] if counts else None


_MAKERS: dict[str, Callable[[_Parts], Aggregate]] = {
    "count": _count,
    "min": _extreme,
    "max": _extreme,
    "sum": _sum,
    "avg": _average,
    **dict.fromkeys(("bool_and", "bool_or", "every"), _truth),
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
NAMES = frozenset(_MAKERS) | {"bit_and", "bit_or", "bit_xor", "corr", "regr_slope", "xmlagg"}
"""Every aggregate that Postgres has and somebody may use; not all are supported."""
