"""Operators by their symbols: which types they take, and what they give."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from absurd_contimg.backends.memory import jsonb
from absurd_contimg.backends.memory.errors import EngineError, Unsupported
from absurd_contimg.backends.memory.sql import casts
from absurd_contimg.backends.memory.sql.casts import checked_number, converted, undefined_operator
from absurd_contimg.backends.memory.sql.scope import Env, Expr
from absurd_contimg.backends.memory.values import intervals, numerics, times, types
from absurd_contimg.backends.memory.values.text import is_like
from absurd_contimg.backends.memory.values.types import INTERVAL, TIMESTAMPTZ, UNKNOWN, SqlType

Work = Callable[[Any, Any, Env], Any]
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "<>": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt,
    ">=": operator.ge,
}  # fmt: skip


def strict(kind: SqlType, left: Expr, right: Expr, work: Work) -> Expr:
    """What two values give; null if one of them is. Both are computed all the same."""
    first, second = left.value, right.value

    def value(env: Env) -> Any:
        a, b = first(env), second(env)
        return None if a is None or b is None else work(a, b, env)

    return Expr(kind, value)


# -- comparison ---------------------------------------------------------------------------------


def check_ordered(kind: SqlType, what: str) -> None:
    """Refuse to compare or sort values of types for which it is not done here."""
    if kind in (types.JSONB, types.VOID) or isinstance(kind, types.ArrayType | types.RecordType):
        raise Unsupported(f"{what} by values of type {kind.shown}")


def sort_key(kind: SqlType, raw: Any) -> Any:
    """What orders values of a type; equal values have equal keys, which are hashable."""
    if kind is INTERVAL:
        return raw.span()
    if raw != raw:  # noqa: PLR0124 - NaN
        raise Unsupported("comparisons with NaN")
    return raw


def row_key(kinds: Sequence[SqlType], row: Sequence[Any]) -> tuple[Any, ...]:
    """A key under which rows that do not differ are found: nulls are alike."""
    return tuple(
        [None if raw is None else sort_key(kind, raw) for kind, raw in zip(kinds, row, strict=True)]
    )


def comparison(symbol: str, left: Expr, right: Expr) -> Expr:
    """``=``, ``<>``, ``<`` and so on."""
    left, right, kind = casts.unified(left, right, symbol)
    if kind is types.JSONB and symbol in ("=", "<>"):
        return strict(types.BOOL, left, right, lambda a, b, _: jsonb.equal(a, b) is (symbol == "="))
    check_ordered(kind, "comparisons")
    compare = _COMPARE[symbol]
    if kind in (INTERVAL, types.NUMERIC, types.FLOAT8):
        return strict(
            types.BOOL, left, right, lambda a, b, _: compare(sort_key(kind, a), sort_key(kind, b))
        )
    return strict(types.BOOL, left, right, lambda a, b, _: compare(a, b))


# -- numbers, times and intervals ---------------------------------------------------------------


def _arithmetic(symbol: str, left: Expr, right: Expr) -> Expr:
    left_kind, right_kind = left.kind, right.kind
    for kind in (left_kind, right_kind):
        if kind is types.JSONB or isinstance(kind, types.ArrayType):
            raise Unsupported(f"the operator {symbol} of {kind.shown}")
    if left_kind is UNKNOWN and right_kind is UNKNOWN:
        raise casts.unmatched("operator", f"unknown {symbol} unknown", unique=False)
    left, right = _guessed(symbol, left, right_kind), _guessed(symbol, right, left_kind)
    if left.kind in types.NUMBERS and right.kind in types.NUMBERS:
        made = _of_numbers(symbol, left, right)
    else:
        made = _of_times(symbol, left, right)
    if made is None:
        raise undefined_operator(symbol, left_kind, right_kind)
    return made


def _guessed(symbol: str, expr: Expr, beside: SqlType) -> Expr:
    """A literal of unknown type is taken for what the other side suggests, if it does."""
    kind = beside
    if beside is TIMESTAMPTZ and symbol == "+":
        kind = INTERVAL
    elif beside is INTERVAL and symbol in "*/":
        kind = types.FLOAT8
    fits = (
        beside in types.NUMBERS or beside is INTERVAL or (beside is TIMESTAMPTZ and symbol in "+-")
    )
    return converted(expr, kind) if expr.kind is UNKNOWN and fits else expr


_INTEGER_WORK: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": lambda a, b: _quotient(a, b)[0],
    "%": lambda a, b: _quotient(a, b)[1],
}


def _quotient(a: int, b: int) -> tuple[int, int]:
    if b == 0:
        raise EngineError("22012", "division by zero")
    return times.quotient(a, b)


def _of_numbers(symbol: str, left: Expr, right: Expr) -> Expr | None:
    left, right, kind = casts.unified(left, right, symbol)
    if kind is types.FLOAT8 or kind is types.NUMERIC:
        known: Any = numerics.FLOAT_WORK if kind is types.FLOAT8 else numerics.NUMERIC_WORK
        work = known.get(symbol)
        return None if work is None else strict(kind, left, right, lambda a, b, _: work(a, b))
    whole = _INTEGER_WORK[symbol]
    return strict(kind, left, right, lambda a, b, _: checked_number(whole(a, b), kind))


def _of_times(symbol: str, left: Expr, right: Expr) -> Expr | None:
    left_kind, right_kind = left.kind, right.kind
    if (symbol, left_kind, right_kind) == ("+", INTERVAL, TIMESTAMPTZ) or (
        symbol == "*" and left_kind in types.NUMBERS
    ):
        left, right, left_kind, right_kind = right, left, right_kind, left_kind
    if left_kind is TIMESTAMPTZ and right_kind is TIMESTAMPTZ and symbol == "-":
        return strict(INTERVAL, left, right, lambda a, b, _: times.subtract(a, b))
    if left_kind is TIMESTAMPTZ and right_kind is INTERVAL and symbol in "+-":
        span = negated(right) if symbol == "-" else right
        return strict(
            left_kind, left, span, lambda a, b, env: times.add_interval(a, b, env.session.zone)
        )
    if left_kind is INTERVAL and right_kind is INTERVAL and symbol in "+-":
        span = negated(right) if symbol == "-" else right
        return strict(INTERVAL, left, span, lambda a, b, _: intervals.add(a, b))
    if left_kind is INTERVAL and right_kind in types.NUMBERS and symbol in "*/":
        work = operator.mul if symbol == "*" else operator.truediv
        number = converted(right, types.FLOAT8)
        return strict(INTERVAL, left, number, lambda a, b, _: intervals.scaled(a, b, work))
    return None


def negated(expr: Expr) -> Expr:
    """Unary minus."""
    kind, inner = expr.kind, expr.value
    if kind not in types.NUMBERS and kind is not INTERVAL:
        raise Unsupported(f"the operator - of {kind.shown}")

    def value(env: Env) -> Any:
        raw = inner(env)
        if raw is None:
            return None
        if kind is INTERVAL:
            return intervals.negate(raw)
        if kind is types.NUMERIC:
            return numerics.NUMERIC_WORK["-"](Decimal(0), raw)
        return checked_number(-raw, kind) if kind in types.INTEGERS else -raw

    return Expr(kind, value)


# -- text ---------------------------------------------------------------------------------------


def _concatenated(symbol: str, left: Expr, right: Expr) -> Expr:
    kinds = (left.kind, right.kind)
    if types.JSONB in kinds or any(isinstance(kind, types.ArrayType) for kind in kinds):
        raise Unsupported("concatenation of other than text")
    if not any(kind in types.STRINGS for kind in kinds):
        raise undefined_operator(symbol, *kinds)
    left, right = converted(left, types.TEXT), converted(right, types.TEXT)
    return strict(types.TEXT, left, right, lambda a, b, _: a + b)


def like(symbol: str, left: Expr, right: Expr) -> Expr:
    """``like`` (``~~``) and ``ilike`` (``~~*``); the caller inverts those with ``!``."""
    if left.kind not in types.STRINGS or right.kind not in types.STRINGS:
        raise undefined_operator(symbol, left.kind, right.kind)
    any_case = symbol.endswith("*")
    left, right = converted(left, types.TEXT), converted(right, types.TEXT)
    return strict(types.BOOL, left, right, lambda a, b, _: is_like(a, b, any_case=any_case))


# -- jsonb --------------------------------------------------------------------------------------

_TEXTS = types.ARRAYS[types.TEXT]


def _json_operator(symbol: str, left: Expr, right: Expr) -> Expr:
    """The operators with jsonb on their left side."""
    takes, kind, work = _JSON_WORK[symbol]
    if left.kind is not types.JSONB:
        if left.kind is UNKNOWN:
            raise Unsupported(f"the operator {symbol} of a literal; cast it to jsonb")
        raise undefined_operator(symbol, left.kind, right.kind)
    if right.kind is UNKNOWN:
        right = converted(right, takes[0])
    if right.kind not in takes:
        raise undefined_operator(symbol, left.kind, right.kind)
    return strict(kind, left, right, lambda a, b, _: work(a, b))


_KEYS = (types.TEXT, types.INT2, types.INT4)
_JSON_WORK: dict[str, tuple[tuple[SqlType, ...], SqlType, Callable[[Any, Any], Any]]] = {
    "->": (_KEYS, types.JSONB, jsonb.field),
    "->>": (_KEYS, types.TEXT, jsonb.field_text),
    "#>": ((_TEXTS,), types.JSONB, jsonb.follow),
    "#>>": ((_TEXTS,), types.TEXT, jsonb.follow_text),
    "?": ((types.TEXT,), types.BOOL, jsonb.has_key),
    "@>": ((types.JSONB,), types.BOOL, jsonb.contains),
}
BINARY: dict[str, Callable[[str, Expr, Expr], Expr]] = {
    **dict.fromkeys(_COMPARE, comparison),
    **dict.fromkeys(("+", "-", "*", "/", "%"), _arithmetic),
    **dict.fromkeys(_JSON_WORK, _json_operator),
    **dict.fromkeys(("~~", "~~*", "!~~", "!~~*"), like),
    "||": _concatenated,
}
"""What compiles the operator of each symbol between two expressions."""
