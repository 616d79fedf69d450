"""Arithmetic: numbers, times and intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Any

from absurd_contimg.backends.memory import times
from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.session import Session
from absurd_contimg.backends.memory.sql.casts import checked_number
from absurd_contimg.backends.memory.sql.coercion import (
    TIMES,
    ambiguous_operator,
    converted,
    undefined_operator,
)
from absurd_contimg.backends.memory.sql.scope import Env, Evaluate, Expr
from absurd_contimg.backends.memory.sql.types import (
    DATE,
    FLOAT8,
    INT4,
    INTEGERS,
    INTERVAL,
    NUMBERS,
    NUMERIC,
    TIMESTAMP,
    TIMESTAMPTZ,
    UNKNOWN,
    SqlType,
)
from absurd_contimg.backends.memory.times import Interval

Binary = Callable[[Any, Any, Session], Any]


def strict(kind: SqlType, left: Evaluate, right: Evaluate, work: Binary) -> Expr:
    """What two values give; null if one of them is."""

    def value(env: Env) -> Any:
        a = left(env)
        if a is None:
            return None
        b = right(env)
        return None if b is None else work(a, b, env.session)

    return Expr(kind, value)


def arithmetic(symbol: str, left: Expr, right: Expr) -> Expr:
    """``+ - * / % ^``."""
    left, right = _guess(symbol, left, right)
    one, other = left.kind, right.kind
    if one in NUMBERS and other in NUMBERS:
        return _number_arithmetic(symbol, left, right)
    if one is UNKNOWN and other is UNKNOWN and symbol != "^":
        raise ambiguous_operator(symbol, one, other)
    work = _time_arithmetic(symbol, one, other)
    if work is None:
        raise undefined_operator(symbol, one, other)
    kind, function = work
    return strict(kind, left.value, right.value, function)


def _guess(symbol: str, left: Expr, right: Expr) -> tuple[Expr, Expr]:
    """A literal of unknown type is taken for what the other side suggests."""
    if left.kind is UNKNOWN and right.kind is not UNKNOWN:
        left = converted(left, right.kind)
    elif right.kind is UNKNOWN and left.kind is not UNKNOWN:
        guess = INTERVAL if left.kind in TIMES and symbol == "+" else left.kind
        right = converted(right, guess)
    return left, right


def _number_arithmetic(symbol: str, left: Expr, right: Expr) -> Expr:
    kind = max(left.kind, right.kind, key=NUMBERS.index)
    if symbol == "^":
        if kind is NUMERIC:
            raise unsupported("numeric ^ numeric", "powers of numeric; cast to double precision")
        kind = FLOAT8
    if symbol == "%" and kind is FLOAT8:
        raise undefined_operator(symbol, left.kind, right.kind)
    one, other = converted(left, kind), converted(right, kind)

    def work(a: Any, b: Any, _: Session) -> Any:
        if symbol in ("/", "%") and b == 0:
            raise EngineError("22012", "division by zero")
        if kind in INTEGERS:
            return checked_number(_integer_arithmetic(symbol, a, b), kind)
        if kind is FLOAT8:
            return _float_arithmetic(symbol, a, b)
        return _numeric_arithmetic(symbol, a, b)

    return strict(kind, one.value, other.value, work)


def _integer_arithmetic(symbol: str, a: int, b: int) -> int:
    if symbol == "+":
        return a + b
    if symbol == "-":
        return a - b
    if symbol == "*":
        return a * b
    quotient = abs(a) // abs(b) * (1 if (a >= 0) == (b >= 0) else -1)
    return quotient if symbol == "/" else a - quotient * b


def _float_arithmetic(symbol: str, a: float, b: float) -> float:
    try:
        value = {
            "+": lambda: a + b,
            "-": lambda: a - b,
            "*": lambda: a * b,
            "/": lambda: a / b,
            "^": lambda: math.pow(a, b),
        }[symbol]()
    except OverflowError:
        value = math.inf
    if math.isinf(value) and not (math.isinf(a) or math.isinf(b)):
        raise EngineError("22003", "value out of range: overflow")
    return value


def _numeric_arithmetic(symbol: str, a: Decimal, b: Decimal) -> Decimal:
    with localcontext() as context:
        context.prec = 400
        if symbol == "+":
            return a + b
        if symbol == "-":
            return a - b
        if symbol == "*":
            return a * b
        if symbol == "%":
            return a % b
        return divide_numeric(a, b)


def divide_numeric(a: Decimal, b: Decimal) -> Decimal:
    """``numeric / numeric``, to as many digits as Postgres gives."""
    with localcontext() as context:
        context.prec = 1200
        return (a / b).quantize(Decimal(1).scaleb(-_division_scale(a, b)), ROUND_HALF_UP)


def _division_scale(a: Decimal, b: Decimal) -> int:
    """Digits after the point of a quotient: 16 significant (numeric.c, select_div_scale)."""

    def weight_and_first(value: Decimal) -> tuple[int, int]:
        if not value:
            return 0, 0
        weight = value.adjusted() // 4
        return weight, int(abs(value).scaleb(-4 * weight))

    weight_a, first_a = weight_and_first(a)
    weight_b, first_b = weight_and_first(b)
    quotient_weight = weight_a - weight_b - (1 if first_a <= first_b else 0)
    scales = [max(0, -int(value.as_tuple().exponent)) for value in (a, b)]
    return min(max(16 - quotient_weight * 4, *scales, 0), 1000)


def _time_arithmetic(symbol: str, one: SqlType, other: SqlType) -> tuple[SqlType, Binary] | None:  # noqa: PLR0911 - one return a pair of types
    if one in (TIMESTAMPTZ, TIMESTAMP) and other is INTERVAL and symbol in "+-":
        return one, _add_to_time(one, subtract=symbol == "-")
    if one is INTERVAL and other in (TIMESTAMPTZ, TIMESTAMP) and symbol == "+":
        add = _add_to_time(other, subtract=False)
        return other, lambda a, b, session: add(b, a, session)
    if one is DATE and other is INTERVAL and symbol in "+-":
        add = _add_to_time(TIMESTAMP, subtract=symbol == "-")
        return TIMESTAMP, lambda a, b, session: add(a * times.DAY_US, b, session)
    if one is DATE and other in INTEGERS and symbol in "+-":
        sign = 1 if symbol == "+" else -1
        return DATE, lambda a, b, _: a + sign * b
    if one is DATE and other is DATE and symbol == "-":
        return INT4, lambda a, b, _: a - b
    if one in (TIMESTAMPTZ, TIMESTAMP) and other is one and symbol == "-":
        return INTERVAL, lambda a, b, _: times.subtract(a, b)
    if one is INTERVAL and other is INTERVAL and symbol in "+-":
        return INTERVAL, lambda a, b, _: _add_intervals(a, b if symbol == "+" else times.negate(b))
    if one is INTERVAL and other in NUMBERS and symbol in "*/":
        return INTERVAL, lambda a, b, _: scale_interval(a, float(b), divide=symbol == "/")
    if one in NUMBERS and other is INTERVAL and symbol == "*":
        return INTERVAL, lambda a, b, _: scale_interval(b, float(a))
    return None


def _add_to_time(kind: SqlType, *, subtract: bool) -> Binary:
    def add(time: int, span: Interval, session: Session) -> int:
        zone = session.zone if kind is TIMESTAMPTZ else UTC
        return times.add_interval(time, times.negate(span) if subtract else span, zone)

    return add


def _add_intervals(a: Interval, b: Interval) -> Interval:
    if a.is_infinite or b.is_infinite:
        if a.is_infinite and b.is_infinite and a != b:
            raise EngineError("22008", "interval out of range")
        return a if a.is_infinite else b
    return Interval(a.months + b.months, a.days + b.days, a.us + b.us)


def scale_interval(span: Interval, factor: float, *, divide: bool = False) -> Interval:
    """``interval * number``: fractions of months become days, of days time (timestamp.c)."""
    if divide:
        if factor == 0:
            raise EngineError("22012", "division by zero")
        factor = 1 / factor
    if span.is_infinite:
        return span if factor > 0 else times.negate(span)
    months = span.months * factor
    days = span.days * factor
    whole_months, whole_days = int(months), int(days)
    day_rest = (months - whole_months) * 30
    day_rest = round(day_rest, 6)
    rest = round((days - whole_days + day_rest - int(day_rest)) * 86_400, 6)
    whole_days += int(day_rest)
    if abs(rest) >= 86_400:
        whole_days += int(rest / 86_400)
        rest -= int(rest / 86_400) * 86_400
    return Interval(whole_months, whole_days, round(span.us * factor + rest * times.SECOND_US))


def negated(expr: Expr) -> Expr:
    """Unary minus."""
    if expr.kind is UNKNOWN:
        raise EngineError(
            "42725",
            "operator is not unique: - unknown",
            hint="Could not choose a best candidate operator. You might need to add explicit "
            "type casts.",
        )
    kind, inner = expr.kind, expr.value

    def value(env: Env) -> Any:
        raw = inner(env)
        if raw is None:
            return None
        if kind is INTERVAL:
            return times.negate(raw)
        return checked_number(-raw, kind) if kind in INTEGERS else -raw

    if kind not in NUMBERS and kind is not INTERVAL:
        raise EngineError(
            "42883",
            f"operator does not exist: - {kind.shown}",
            hint="No operator matches the given name and argument type. You might need to add "
            "an explicit type cast.",
        )
    return Expr(kind, value, "?column?", expr.constant)
