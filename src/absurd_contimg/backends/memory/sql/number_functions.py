"""Functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, ROUND_HALF_UP, Decimal
from typing import Any

from absurd_contimg.backends.memory.errors import unsupported
from absurd_contimg.backends.memory.sql.arithmetic import arithmetic
from absurd_contimg.backends.memory.sql.casts import checked_number
from absurd_contimg.backends.memory.sql.coercion import converted
from absurd_contimg.backends.memory.sql.registry import (
    ambiguous_function,
    builtin,
    polymorphic,
    undefined_function,
    whole,
)
from absurd_contimg.backends.memory.sql.scope import Env, Expr
from absurd_contimg.backends.memory.sql.types import (
    FLOAT8,
    INT4,
    INTEGERS,
    NUMBERS,
    NUMERIC,
    UNKNOWN,
)
from absurd_contimg.backends.memory.values import floats, numerics

_DECIMAL_MODES = {
    "round": ROUND_HALF_UP,
    "floor": ROUND_FLOOR,
    "ceil": ROUND_CEILING,
    "trunc": ROUND_DOWN,
}
_FLOAT_ROUNDING: dict[str, Callable[[float], int]] = {
    "round": round,
    "floor": math.floor,
    "ceil": math.ceil,
    "trunc": math.trunc,
}


@polymorphic("round", "floor", "ceil", "ceiling", "trunc", "abs", "sign")
def rounded(arguments: list[Expr], name: str) -> Expr:
    """``round``, ``floor``, ``ceil``, ``trunc``, ``abs``, ``sign``."""
    work = "ceil" if name == "ceiling" else name
    digits = arguments[1] if len(arguments) == 2 and work in ("round", "trunc") else None
    if len(arguments) != (1 if digits is None else 2):
        raise undefined_function(name, [item.kind for item in arguments])
    expr = arguments[0]
    if expr.kind not in (*NUMBERS, UNKNOWN):
        raise undefined_function(name, [item.kind for item in arguments])
    if digits is not None:
        return _to_digits(work, expr, digits, name)
    if expr.kind is UNKNOWN and work == "trunc":  # it is one of network addresses too
        raise ambiguous_function(name, [UNKNOWN])
    if expr.kind is UNKNOWN or (expr.kind in INTEGERS and work != "abs"):
        expr = converted(expr, FLOAT8)
    kind, inner = expr.kind, expr.value

    def value(env: Env) -> Any:
        raw = inner(env)
        if raw is None:
            return None
        found = _round(work, raw)
        return checked_number(found, kind) if kind in INTEGERS else found

    return Expr(kind, value, name)


def _to_digits(work: str, expr: Expr, digits: Expr, name: str) -> Expr:
    if expr.kind is FLOAT8 or not whole(digits.kind):
        raise undefined_function(name, [expr.kind, digits.kind])
    inner, places = converted(expr, NUMERIC).value, converted(digits, INT4).value
    mode = _DECIMAL_MODES[work]

    def value(env: Env) -> Decimal | None:
        raw, count = inner(env), places(env)
        return None if raw is None or count is None else numerics.rounded(raw, count, mode)

    return Expr(NUMERIC, value, name)


def _round(name: str, value: Any) -> Any:  # noqa: PLR0911 - one return a kind of number
    if isinstance(value, Decimal):
        if name == "abs":
            return value.copy_abs()
        if name == "sign":
            return value if value.is_nan() else Decimal((value > 0) - (value < 0))
        return numerics.to_whole(value, _DECIMAL_MODES[name])
    if name == "abs":
        return abs(value)
    if name == "sign":
        return float((value > 0) - (value < 0))
    if not math.isfinite(value):
        return value
    return math.copysign(float(_FLOAT_ROUNDING[name](value)), value)


@polymorphic("mod")
def _mod(arguments: list[Expr], name: str) -> Expr:
    kinds = [item.kind for item in arguments]
    if kinds == [UNKNOWN, UNKNOWN]:
        raise ambiguous_function(name, kinds)
    if len(kinds) != 2 or not all(kind in (*INTEGERS, NUMERIC, UNKNOWN) for kind in kinds):
        raise undefined_function(name, kinds)
    return arithmetic("%", *arguments)._replace(name=name)


@polymorphic("power", "pow")
def _power(arguments: list[Expr], name: str) -> Expr:
    kinds = [item.kind for item in arguments]
    if len(kinds) != 2 or not all(kind in (*NUMBERS, UNKNOWN) for kind in kinds):
        raise undefined_function(name, kinds)
    if kinds == [UNKNOWN, UNKNOWN]:
        arguments = [converted(item, FLOAT8) for item in arguments]
    return arithmetic("^", *arguments)._replace(name=name)


_OF_FLOAT: dict[str, Callable[[float], float]] = {
    "sqrt": floats.square_root,
    "exp": floats.exponential,
    "ln": floats.logarithm,
    "log": lambda value: floats.logarithm(value, decimal=True),
    "log10": lambda value: floats.logarithm(value, decimal=True),
}


@polymorphic(*_OF_FLOAT)
def _of_float(arguments: list[Expr], name: str) -> Expr:
    """Only of floats: Postgres computes them of numerics to digits of its own."""
    kinds = [item.kind for item in arguments]
    if not all(kind in (*NUMBERS, UNKNOWN) for kind in kinds):
        raise undefined_function(name, kinds)
    if len(kinds) != 1 or NUMERIC in kinds:
        raise unsupported(name, "this function of numeric; cast to double precision")
    inner = converted(arguments[0], FLOAT8).value
    work = _OF_FLOAT[name]

    def value(env: Env) -> float | None:
        raw = inner(env)
        return None if raw is None else work(raw)

    return Expr(FLOAT8, value, name)


builtin("pi", (), FLOAT8, lambda _: math.pi)
builtin("div", (NUMERIC, NUMERIC), NUMERIC, lambda _, a, b: numerics.divide_whole(a, b))
