"""Postgres' own functions and aggregates: which arguments they take, and what they do."""

from __future__ import annotations

import math
import operator
import string
from collections.abc import Callable
from decimal import Decimal
from functools import partial, reduce
from typing import Any, NamedTuple

from sqlglot import exp

from absurd_contimg.backends.memory import jsonb
from absurd_contimg.backends.memory.errors import EngineError, Unsupported
from absurd_contimg.backends.memory.session_state import SessionState
from absurd_contimg.backends.memory.sql import casts
from absurd_contimg.backends.memory.sql.casts import common_type, converted, is_implicit
from absurd_contimg.backends.memory.sql.dialect import name_of
from absurd_contimg.backends.memory.sql.operators import check_ordered, comparison, sort_key
from absurd_contimg.backends.memory.sql.scope import Env, Evaluate, Expr, Node, Scope
from absurd_contimg.backends.memory.values import intervals, numerics, times, types
from absurd_contimg.backends.memory.values.numerics import rounded
from absurd_contimg.backends.memory.values.times import Interval, timestamptz_out
from absurd_contimg.backends.memory.values.types import JSONB, NUMERIC, TEXT, TIMESTAMPTZ, SqlType


class Form(NamedTuple):
    """A form of a strict function; the last `optional` arguments may be left out."""

    arguments: tuple[SqlType, ...]
    returns: SqlType
    work: Callable[..., Any]
    optional: int = 0


def call(name: str, arguments: list[Expr], names: list[str | None]) -> Expr:
    """A call of a function; `names` are those of arguments in named notation."""
    make = _SPECIAL.get(name)
    if name == "make_interval":  # its only form here
        names = [None] if names == ["secs"] else ["other"]
    if any(names) or (make is not None and not arguments):
        raise Unsupported(f"{name} with these arguments")
    return _strict_call(name, _FORMS[name], arguments) if make is None else make(arguments, name)


def _strict_call(name: str, forms: tuple[Form, ...], arguments: list[Expr]) -> Expr:
    """The form with most of the arguments' types; of several the first, as Postgres prefers."""
    kinds = [expr.kind for expr in arguments]
    fitting = [
        form
        for form in forms
        if len(form.arguments) - form.optional <= len(kinds) <= len(form.arguments)
        and all(map(is_implicit, kinds, form.arguments))
        and {(types.UNKNOWN, TIMESTAMPTZ), (types.UNKNOWN, types.INTERVAL)}.isdisjoint(
            zip(kinds, form.arguments, strict=False)
        )
    ]
    if not fitting or (len(fitting) > 1 and types.UNKNOWN in kinds):
        raise Unsupported(f"{name}({', '.join(kind.shown for kind in kinds)})")
    form = max(fitting, key=lambda each: sum(map(operator.is_, kinds, each.arguments)))
    given = zip(arguments, form.arguments, strict=False)
    values = [converted(expr, kind).value for expr, kind in given]

    def value(env: Env) -> Any:
        raw = [evaluate(env) for evaluate in values]
        return None if None in raw else form.work(env.session, *raw)

    return Expr(form.returns, value, name)


# -- choosing -----------------------------------------------------------------------------------


def _coalesce(arguments: list[Expr], name: str) -> Expr:
    kind = common_type([expr.kind for expr in arguments], "COALESCE")
    values = [converted(expr, kind).value for expr in arguments]

    def value(env: Env) -> Any:
        return next((raw for each in values if (raw := each(env)) is not None), None)

    return Expr(kind, value, name)


def _extreme(arguments: list[Expr], name: str) -> Expr:
    kind = common_type([expr.kind for expr in arguments], name.upper())
    check_ordered(kind, name)
    values = [converted(expr, kind).value for expr in arguments]
    choose: Callable[..., Any] = max if name == "greatest" else min

    def value(env: Env) -> Any:
        known = [raw for each in values if (raw := each(env)) is not None]
        return choose(known, key=lambda raw: sort_key(kind, raw), default=None)

    return Expr(kind, value, name)


def _nullif(arguments: list[Expr], name: str) -> Expr:
    if len(arguments) != 2:
        raise Unsupported("nullif of other than two arguments")
    first, second = arguments
    same = comparison("=", first, second).value
    if not {first.kind, second.kind} <= {*types.INTEGERS}:  # which are compared as they are
        first = casts.unified(first, second, "=")[0]
    return Expr(first.kind, lambda env: None if same(env) is True else first.value(env), name)


# -- settings and JSON --------------------------------------------------------------------------


def _current_setting(session: SessionState, name: str, missing_ok: bool = False) -> str | None:
    value = session.setting(name)
    if value is None and not missing_ok:
        raise EngineError("42704", f'unrecognized configuration parameter "{name}"')
    return value


def _set_config(arguments: list[Expr], name: str) -> Expr:
    kinds = (TEXT, TEXT, types.BOOL)
    if len(arguments) != 3 or not all(map(is_implicit, [expr.kind for expr in arguments], kinds)):
        raise Unsupported(f"{name} with these arguments")
    values = [converted(expr, kind).value for expr, kind in zip(arguments, kinds, strict=True)]

    def value(env: Env) -> str:
        setting, text, local = (evaluate(env) for evaluate in values)
        if setting is None:
            raise EngineError("22004", "SET requires parameter name")
        env.session.set(setting, text, local=bool(local))
        return env.session.setting(setting) or ""

    return Expr(TEXT, value, name)


def _json_text(raw: Any, kind: SqlType, session: SessionState) -> str:
    if raw is None:
        return jsonb.NULL
    if kind is JSONB:
        return str(raw)
    shown = "true" if raw is True else "false" if raw is False else kind.show(raw, session)
    if kind is TIMESTAMPTZ:
        shown = timestamptz_out(raw, session.zone, iso=True)
    is_bare = kind is types.BOOL or (kind in types.NUMBERS and math.isfinite(raw))
    return jsonb.parse(shown if is_bare else jsonb.dumps(shown))


def _checked(expr: Expr) -> Expr:
    expr = casts.determined(expr)
    if isinstance(expr.kind, types.ArrayType | types.RecordType):
        raise Unsupported(f"JSON of {expr.kind.shown}")
    return expr


def _to_jsonb(arguments: list[Expr], name: str) -> Expr:
    if len(arguments) != 1 or arguments[0].kind is types.UNKNOWN:
        raise Unsupported("to_jsonb of other than one argument with a type")
    expr = _checked(arguments[0])

    def value(env: Env) -> str | None:
        raw = expr.value(env)
        return None if raw is None else _json_text(raw, expr.kind, env.session)

    return Expr(JSONB, value, name)


def _build_object(arguments: list[Expr], name: str) -> Expr:
    known = [_checked(expr) for expr in arguments]
    if len(known) % 2 or any(expr.kind is not TEXT for expr in known[::2]):
        raise Unsupported(f"{name} of other than pairs of a text and a value")

    def value(env: Env) -> str:
        members = {}
        for index in range(0, len(known), 2):
            key, member = known[index].value(env), known[index + 1]
            if key is None:
                raise EngineError("22023", f"argument {index + 1}: key must not be null")
            text = _json_text(member.value(env), member.kind, env.session)
            members[key] = jsonb.tree(text)
        return jsonb.dumps(members)

    return Expr(JSONB, value, name)


def _array_length(_: SessionState, text: str) -> int:
    value = jsonb.tree(text)
    if not isinstance(value, list):
        word = "a non-array" if isinstance(value, dict) else "a scalar"
        raise EngineError("22023", f"cannot get array length of {word}")
    return len(value)


_UPPER = str.maketrans(string.ascii_lowercase, string.ascii_uppercase)
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
"""In the locale C only letters of ASCII change."""


def _round_float(_: SessionState, raw: float) -> float:
    return math.copysign(round(raw), raw) if math.isfinite(raw) else raw


def _round(_: SessionState, raw: Decimal, digits: int = 0) -> Decimal:
    if not 0 <= digits <= 100:
        raise Unsupported(f"round to {digits} digits")
    return rounded(raw, digits)


def _abs(kind: SqlType) -> Form:
    def work(_: SessionState, raw: Any) -> Any:
        if kind in types.INTEGERS and raw == -(1 << (8 * kind.size - 1)):
            raise EngineError("22003", f"{kind.shown} out of range")
        return raw.copy_abs() if kind is NUMERIC else abs(raw)

    return Form((kind,), kind, work)


# -- times --------------------------------------------------------------------------------------

_CLOCKS: dict[str, Callable[[SessionState], int]] = {
    "now": SessionState.transaction_time,
    "transaction_timestamp": SessionState.transaction_time,
    "current_timestamp": SessionState.transaction_time,
    "statement_timestamp": lambda session: session.clock,
    "clock_timestamp": lambda session: session.db.now(),
}


def _epoch(_: SessionState, raw: Any) -> Decimal:
    if raw in (times.INFINITE, times.INFINITY, times.NEG_INFINITE, times.NEG_INFINITY):
        raise Unsupported("the epoch of infinity")
    return Decimal(raw.epoch_us() if isinstance(raw, Interval) else raw).scaleb(-6)


_FORMS: dict[str, tuple[Form, ...]] = {
    "length": (Form((TEXT,), types.INT4, lambda _, raw: len(raw)),),
    "lower": (Form((TEXT,), TEXT, lambda _, raw: raw.translate(_LOWER)),),
    "upper": (Form((TEXT,), TEXT, lambda _, raw: raw.translate(_UPPER)),),
    "left": (Form((TEXT, types.INT4), TEXT, lambda _, raw, count: raw[:count]),),
    "abs": tuple(map(_abs, types.NUMBERS)),
    "round": (
        Form((NUMERIC, types.INT4), NUMERIC, _round),
        Form((types.FLOAT8,), types.FLOAT8, _round_float),
        Form((NUMERIC,), NUMERIC, _round),
    ),
    "jsonb_typeof": (Form((JSONB,), TEXT, lambda _, raw: jsonb.kind(raw)),),
    "jsonb_array_length": (Form((JSONB,), types.INT4, _array_length),),
    "current_setting": (Form((TEXT, types.BOOL), TEXT, _current_setting, 1),),
    "date_trunc": (
        Form(
            (TEXT, TIMESTAMPTZ),
            TIMESTAMPTZ,
            lambda session, unit, time: times.date_trunc(time, unit, session.zone),
        ),
    ),
    "make_interval": (
        Form((types.FLOAT8,), types.INTERVAL, lambda _, raw: Interval(us=times.seconds_us(raw))),
    ),
    "extract": (Form((TIMESTAMPTZ,), NUMERIC, _epoch), Form((types.INTERVAL,), NUMERIC, _epoch)),
    **{name: (Form((), TIMESTAMPTZ, work),) for name, work in _CLOCKS.items()},
}
_SPECIAL: dict[str, Callable[[list[Expr], str], Expr]] = {
    "coalesce": _coalesce,
    "greatest": _extreme,
    "least": _extreme,
    "nullif": _nullif,
    "to_jsonb": _to_jsonb,
    "jsonb_build_object": _build_object,
    "set_config": _set_config,
}
NAMES = frozenset({*_FORMS, *_SPECIAL})


# -- aggregates ---------------------------------------------------------------------------------

AGGREGATES = frozenset({"avg", "count", "max", "min", "sum"})
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
    if name not in AGGREGATES or len(items) != 1:
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
    expr = casts.as_text(expr) if name in ("max", "min") else expr
    make = {"count": _count, "sum": _sum, "avg": _average}.get(name, _extreme_of)
    kind, combine = make(name, expr.kind)
    if distinct:
        expr = casts.as_text(expr)
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
    return types.INT8, len


def _extreme_of(name: str, kind: SqlType) -> tuple[SqlType, Combine]:
    if kind in (types.BOOL, types.JSONB, types.UUID):
        raise casts.unmatched("function", f"{name}({kind.shown})")
    check_ordered(kind, name)
    choose: Callable[..., Any] = max if name == "max" else min
    return kind, lambda known: choose(known, key=lambda raw: sort_key(kind, raw), default=None)


_SUMS: dict[SqlType, tuple[SqlType, Combine]] = {
    types.INT2: (types.INT8, sum),
    types.INT4: (types.INT8, sum),
    types.INT8: (NUMERIC, lambda known: Decimal(sum(known))),
    NUMERIC: (NUMERIC, partial(reduce, numerics.NUMERIC_WORK["+"])),
    types.FLOAT8: (types.FLOAT8, partial(reduce, numerics.FLOAT_WORK["+"])),
    types.INTERVAL: (types.INTERVAL, partial(reduce, intervals.add)),
}


def _summable(name: str, kind: SqlType) -> tuple[SqlType, Combine]:
    if kind not in _SUMS:
        raise casts.unmatched("function", f"{name}({kind.shown})", unique=kind is not types.UNKNOWN)
    return _SUMS[kind]


def _sum(name: str, kind: SqlType) -> tuple[SqlType, Combine]:
    result, total = _summable(name, kind)
    return result, lambda known: total(known) if known else None


def _average(name: str, kind: SqlType) -> tuple[SqlType, Combine]:
    _, total = _summable(name, kind)

    def mean(known: list[Any]) -> Any:
        if not known:
            return None
        if kind is types.INTERVAL:
            return intervals.scaled(total(known), len(known), operator.truediv)
        if kind is types.FLOAT8:
            return total(known) / len(known)
        return numerics.divide(Decimal(total(known)), Decimal(len(known)))

    return NUMERIC if kind in types.INTEGERS else kind, mean
