"""Functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, ROUND_HALF_UP, Decimal
from typing import Any

from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.sql.arithmetic import arithmetic
from absurd_contimg.backends.memory.sql.casts import checked_number
from absurd_contimg.backends.memory.sql.coercion import converted
from absurd_contimg.backends.memory.sql.registry import builtin, polymorphic, undefined_function
from absurd_contimg.backends.memory.sql.scope import Env, Expr
from absurd_contimg.backends.memory.sql.types import (
    FLOAT8,
    INT4,
    INTEGERS,
    NUMBERS,
    NUMERIC,
    UNKNOWN,
)

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
    if expr.kind is FLOAT8:
        raise undefined_function(name, [expr.kind, digits.kind])
    inner, places = converted(expr, NUMERIC).value, converted(digits, INT4).value
    mode = _DECIMAL_MODES[work]

    def value(env: Env) -> Decimal | None:
        raw, count = inner(env), places(env)
        if raw is None or count is None or not raw.is_finite():
            return None if count is None or raw is None else Decimal(raw)
        cut = raw.quantize(Decimal(1).scaleb(-count), mode)
        return cut if count >= 0 else Decimal(int(cut))

    return Expr(NUMERIC, value, name)


def _round(name: str, value: Any) -> Any:  # noqa: PLR0911 - one return a kind of number
    if name == "abs":
        return abs(value)
    if isinstance(value, Decimal):
        if not value.is_finite():
            return (
                Decimal(1 if value > 0 else -1) if name == "sign" and not value.is_nan() else value
            )
        if name == "sign":
            return Decimal((value > 0) - (value < 0))
        return value.to_integral_value(_DECIMAL_MODES[name])
    if name == "sign":
        return value if math.isnan(value) else float((value > 0) - (value < 0))
    if not math.isfinite(value):
        return value
    return math.copysign(float(_FLOAT_ROUNDING[name](value)), value)


@polymorphic("mod")
def _mod(arguments: list[Expr], name: str) -> Expr:
    if len(arguments) != 2 or FLOAT8 in (arguments[0].kind, arguments[1].kind):
        raise undefined_function(name, [item.kind for item in arguments])
    return arithmetic("%", *arguments)._replace(name=name)


@polymorphic("power", "pow")
def _power(arguments: list[Expr], name: str) -> Expr:
    if len(arguments) != 2:
        raise undefined_function(name, [item.kind for item in arguments])
    return arithmetic("^", *arguments)._replace(name=name)


def _sqrt(value: float) -> float:
    if value < 0:
        raise EngineError("2201F", "cannot take square root of a negative number")
    return math.sqrt(value)


def _log(value: float, base: float) -> float:
    if value == 0:
        raise EngineError("2201E", "cannot take logarithm of zero")
    if value < 0:
        raise EngineError("2201E", "cannot take logarithm of a negative number")
    return math.log10(value) if base == 10 else math.log(value)


@polymorphic("sqrt", "exp", "ln", "log", "log10")
def _of_float(arguments: list[Expr], name: str) -> Expr:
    """Only of floats: Postgres computes them of numerics to digits of its own."""
    if len(arguments) != 1 or arguments[0].kind is NUMERIC:
        raise unsupported(name, "this function of numeric; cast to double precision")
    inner = converted(arguments[0], FLOAT8).value
    work: dict[str, Callable[[float], float]] = {
        "sqrt": _sqrt,
        "exp": math.exp,
        "ln": lambda value: _log(value, math.e),
        "log": lambda value: _log(value, 10),
        "log10": lambda value: _log(value, 10),
    }

    def value(env: Env) -> float | None:
        raw = inner(env)
        return None if raw is None else work[name](raw)

    return Expr(FLOAT8, value, name)


builtin("pi", (), FLOAT8, lambda _: math.pi)
builtin("div", (NUMERIC, NUMERIC), NUMERIC, lambda _, a, b: _div(a, b))


def _div(a: Decimal, b: Decimal) -> Decimal:
    if b == 0:
        raise EngineError("22012", "division by zero")
    return a // b
