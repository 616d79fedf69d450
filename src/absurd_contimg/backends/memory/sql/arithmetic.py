"""Arithmetic: numbers, times and intervals."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC
from decimal import Decimal
from typing import Any

from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.session_state import SessionState as Session
from absurd_contimg.backends.memory.sql.casts import checked_number
from absurd_contimg.backends.memory.sql.coercion import (
    TIMES,
    ambiguous_operator,
    converted,
    undefined_operator,
    undefined_prefix,
)
from absurd_contimg.backends.memory.sql.scope import Env, Expr
from absurd_contimg.backends.memory.sql.types import (
    DATE,
    FLOAT8,
    INT2,
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
from absurd_contimg.backends.memory.values import dates, floats, numerics, times
from absurd_contimg.backends.memory.values import interval_arithmetic as spans
from absurd_contimg.backends.memory.values.times import Interval

Binary = Callable[[Any, Any, Session], Any]


def strict(kind: SqlType, left: Expr, right: Expr, work: Binary) -> Expr:
    """What two values give; null if one of them is.

    Both are computed all the same, but beside a constant null: Postgres' planner drops that whole.
    """
    first, second = left.value, right.value
    if right.constant and not left.constant:
        first, second = second, first
    known, swapped = left.constant or right.constant, first is not left.value

    def value(env: Env) -> Any:
        a = first(env)
        if a is None and known:
            return None
        b = second(env)
        if a is None or b is None:
            return None
        return work(b, a, env.session) if swapped else work(a, b, env.session)

    return Expr(kind, value, constant=left.constant and right.constant)


def arithmetic(symbol: str, left: Expr, right: Expr) -> Expr:
    """``+ - * / % ^``."""
    one, other = left.kind, right.kind
    if one is UNKNOWN and other is UNKNOWN and symbol != "^":
        raise ambiguous_operator(symbol, one, other)
    if symbol == "+" and {one, other} == {DATE, UNKNOWN}:  # by days, or by an interval
        raise ambiguous_operator(symbol, one, other)
    if one is UNKNOWN:
        left = _guess(symbol, left, other)
    elif other is UNKNOWN:
        right = _guess(symbol, right, one)
    if left.kind in NUMBERS and right.kind in NUMBERS:
        if symbol == "%" and FLOAT8 in (left.kind, right.kind):
            raise undefined_operator(symbol, one, other)
        return _number_arithmetic(symbol, left, right)
    left, right = _alike(symbol, left, right)
    work = _time_arithmetic(symbol, left.kind, right.kind)
    if work is None:
        raise undefined_operator(symbol, one, other)
    kind, function = work
    return strict(kind, left, right, function)


def _guess(symbol: str, literal: Expr, beside: SqlType) -> Expr:
    """A literal of unknown type is taken for what the other side suggests, if it does."""
    if beside in TIMES:
        if symbol in "+-":
            return converted(literal, INTERVAL if symbol == "+" else beside)
    elif beside is INTERVAL:
        if symbol in "+-*/":
            return converted(literal, INTERVAL if symbol in "+-" else FLOAT8)
    elif beside in NUMBERS and not (symbol == "%" and beside is FLOAT8):
        return converted(literal, beside)
    return literal


def _alike(symbol: str, left: Expr, right: Expr) -> tuple[Expr, Expr]:
    """Two kinds of times in the wider of them; a number beside an interval as a float."""
    one, other = left.kind, right.kind
    if symbol == "-" and one in TIMES and other in TIMES and one is not other:
        kind = max(one, other, key=TIMES.index)
        return converted(left, kind), converted(right, kind)
    if symbol in "*/" and one is INTERVAL and other in NUMBERS:
        return left, converted(right, FLOAT8)
    if symbol == "*" and one in NUMBERS and other is INTERVAL:
        return converted(left, FLOAT8), right
    return left, right


def _number_arithmetic(symbol: str, left: Expr, right: Expr) -> Expr:
    kind = max(left.kind, right.kind, key=NUMBERS.index)
    if symbol == "^":
        if kind is NUMERIC:
            raise unsupported("numeric ^ numeric", "powers of numeric; cast to double precision")
        kind = FLOAT8
    one, other = converted(left, kind), converted(right, kind)

    if kind in INTEGERS:
        return strict(kind, one, other, _integer_work(symbol, kind))
    combine = (_FLOAT_WORK if kind is FLOAT8 else _NUMERIC_WORK)[symbol]
    return strict(kind, one, other, lambda a, b, _: combine(a, b))


_FLOAT_WORK: dict[str, Callable[[float, float], float]] = {
    "+": floats.add,
    "-": floats.subtract,
    "*": floats.multiply,
    "/": floats.divide,
    "^": floats.power,
}
_NUMERIC_WORK: dict[str, Callable[[Decimal, Decimal], Decimal]] = {
    "+": numerics.add,
    "-": numerics.subtract,
    "*": numerics.multiply,
    "/": numerics.divide,
    "%": numerics.remainder,
}


def _integer_work(symbol: str, kind: SqlType) -> Binary:
    def work(a: int, b: int, _: Session) -> int:
        if symbol in ("/", "%") and b == 0:
            raise EngineError("22012", "division by zero")
        return checked_number(_integer_arithmetic(symbol, a, b), kind)

    return work


def _integer_arithmetic(symbol: str, a: int, b: int) -> int:
    if symbol == "+":
        return a + b
    if symbol == "-":
        return a - b
    if symbol == "*":
        return a * b
    quotient = abs(a) // abs(b) * (1 if (a >= 0) == (b >= 0) else -1)
    return quotient if symbol == "/" else a - quotient * b


def _time_arithmetic(symbol: str, one: SqlType, other: SqlType) -> tuple[SqlType, Binary] | None:  # noqa: PLR0911 - one return a pair of types
    if symbol == "+" and other in TIMES and one in (INTERVAL, INT2, INT4):
        swapped = _time_arithmetic(symbol, other, one)
        if swapped is None:
            return None
        kind, work = swapped
        return kind, lambda a, b, session: work(b, a, session)
    if one in (TIMESTAMPTZ, TIMESTAMP) and other is INTERVAL and symbol in "+-":
        return one, _add_to_time(one, subtract=symbol == "-")
    if one is DATE and other is INTERVAL and symbol in "+-":
        add = _add_to_time(TIMESTAMP, subtract=symbol == "-")
        return TIMESTAMP, lambda a, b, session: add(dates.midnight(a), b, session)
    if one is DATE and other in (INT2, INT4) and symbol in "+-":
        sign = 1 if symbol == "+" else -1
        return DATE, lambda a, b, _: dates.add(a, sign * b)
    if one is DATE and other is DATE and symbol == "-":
        return INT4, lambda a, b, _: dates.difference(a, b)
    if one in (TIMESTAMPTZ, TIMESTAMP) and other is one and symbol == "-":
        return INTERVAL, lambda a, b, _: times.subtract(a, b)
    if one is INTERVAL and other is INTERVAL and symbol in "+-":
        combine = spans.add if symbol == "+" else spans.subtract
        return INTERVAL, lambda a, b, _: combine(a, b)
    if one is INTERVAL and other is FLOAT8 and symbol in "*/":
        scale = spans.multiply if symbol == "*" else spans.divide
        return INTERVAL, lambda a, b, _: scale(a, b)
    if one is FLOAT8 and other is INTERVAL and symbol == "*":
        return INTERVAL, lambda a, b, _: spans.multiply(b, a)
    return None


def _add_to_time(kind: SqlType, *, subtract: bool) -> Binary:
    def add(time: int, span: Interval, session: Session) -> int:
        zone = session.zone if kind is TIMESTAMPTZ else UTC
        return times.add_interval(time, spans.negate(span) if subtract else span, zone)

    return add


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
            return spans.negate(raw)
        if kind is NUMERIC:
            return numerics.negate(raw)
        return checked_number(-raw, kind) if kind in INTEGERS else -raw

    if kind not in NUMBERS and kind is not INTERVAL:
        raise undefined_prefix("-", kind)
    return Expr(kind, value, "?column?", expr.constant)
