"""How values are compared and ordered."""

from __future__ import annotations

import operator
from collections.abc import Callable
from decimal import Decimal
from functools import total_ordering
from typing import Any

from absurd_contimg.backends.memory import jsonb
from absurd_contimg.backends.memory.sql.arithmetic import strict
from absurd_contimg.backends.memory.sql.coercion import undefined_operator, unified
from absurd_contimg.backends.memory.sql.scope import Env, Evaluate, Expr
from absurd_contimg.backends.memory.sql.types import (
    BOOL,
    FLOAT8,
    INTERVAL,
    JSON,
    JSONB,
    NUMERIC,
    ArrayType,
    RecordType,
    SqlType,
)

COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@total_ordering
class _NotANumber:
    """Equal to itself and greater than every number."""

    def __eq__(self, other: object) -> bool:
        return self is other

    def __lt__(self, other: object) -> bool:
        return False

    def __gt__(self, other: object) -> bool:
        return self is not other

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "NaN"


_NAN = _NotANumber()


def sort_key(kind: SqlType, value: Any) -> Any:
    """What orders values of a type; equal values have equal keys."""
    if kind is INTERVAL:
        return value.span()
    if kind is JSONB:
        return jsonb_key(value)
    if kind in (FLOAT8, NUMERIC):
        return _NAN if value != value else value  # noqa: PLR0124 - NaN
    if isinstance(kind, ArrayType):
        return [null_last(kind.element, item) for item in value]
    if isinstance(kind, RecordType):
        return [null_last(one, item) for one, item in zip(kind.kinds, value, strict=True)]
    return value


def null_last(kind: SqlType, value: Any) -> tuple[int, Any]:
    """A sort key that puts nulls last."""
    return null_key(kind, value, nulls_first=False)


def null_key(kind: SqlType, value: Any, *, nulls_first: bool) -> tuple[int, Any]:
    """A sort key that puts nulls first or last."""
    if value is None:
        return (-1 if nulls_first else 1, 0)
    return (0, sort_key(kind, value))


def row_key(kinds: list[SqlType], row: tuple[Any, ...]) -> Any:
    """A key under which rows that do not differ are found: nulls are alike."""
    return tuple(
        None if value is None else _hashable(sort_key(kind, value))
        for kind, value in zip(kinds, row, strict=True)
    )


def _hashable(key: Any) -> Any:
    if isinstance(key, list | tuple):
        return tuple(_hashable(item) for item in key)
    return key


_JSON_ORDER = {"null": 0, "string": 1, "number": 2, "boolean": 3, "array": 4, "object": 5}


def jsonb_key(text: str, *, top: bool = True) -> Any:  # noqa: PLR0911 - one return a kind of value
    """jsonb's order: by kind, then by number of members, then by their values.

    An empty array of its own comes before everything, for scalars are kept as arrays of one.
    """
    kind = jsonb.kind(text)
    rank = _JSON_ORDER[kind]
    if top and text == "[]":
        return (-1,)
    if kind == "number":
        return (rank, Decimal(text))
    if kind == "string":
        return (rank, jsonb.loads(text))
    if kind == "boolean":
        return (rank, text == "true")
    if kind == "array":
        items = [jsonb.dumps(item) for item in jsonb.loads(text)]
        return (rank, len(items), [jsonb_key(item, top=False) for item in items])
    if kind == "object":
        members = jsonb.loads(text)
        pairs = [(key, jsonb_key(jsonb.dumps(value), top=False)) for key, value in members.items()]
        return (rank, len(pairs), pairs)
    return (rank,)


def comparison(symbol: str, left: Expr, right: Expr) -> Expr:
    """``=``, ``<>``, ``<`` and so on."""
    one, other, kind = unified(left, right, symbol)
    if kind is JSON:
        raise undefined_operator(symbol, left.kind, right.kind)
    compare = COMPARE[symbol]
    if kind in (INTERVAL, JSONB, NUMERIC, FLOAT8) or isinstance(kind, ArrayType | RecordType):
        return strict(
            BOOL, one, other, lambda a, b, _: compare(sort_key(kind, a), sort_key(kind, b))
        )
    return strict(BOOL, one, other, lambda a, b, _: compare(a, b))


def distinct_from(left: Expr, right: Expr, *, negate: bool) -> Expr:
    """``is distinct from`` and, with `negate`, ``is not distinct from``."""
    one, other, kind = unified(left, right, "=")
    if kind is JSON:
        raise undefined_operator("=", left.kind, right.kind)
    first, second = one.value, other.value

    def value(env: Env) -> bool:
        a, b = first(env), second(env)
        if a is None or b is None:
            same = a is None and b is None
        else:
            same = sort_key(kind, a) == sort_key(kind, b)
        return same if negate else not same

    return Expr(BOOL, value)


def row_comparison(symbol: str, pairs: list[tuple[Expr, Expr]]) -> Expr:
    """``(a, b) < (c, d)``: the first pair that differs decides, nulls make it unknown."""
    if symbol in ("=", "<>"):
        equal = [comparison("=", left, right).value for left, right in pairs]
        return _rows_alike(equal, negate=symbol == "<>")
    same = [comparison("=", left, right).value for left, right in pairs]
    decide = [comparison(symbol, left, right).value for left, right in pairs]

    def value(env: Env) -> bool | None:
        answer: bool | None = None
        for alike, compare in zip(same, decide, strict=True):
            answer = compare(env)
            if alike(env) is not True:
                return answer
        return answer

    return Expr(BOOL, value)


def _rows_alike(equal: list[Evaluate], *, negate: bool) -> Expr:
    def value(env: Env) -> bool | None:
        unknown = False
        for pair in equal:  # what comes after a pair that differs is not evaluated
            answer = pair(env)
            if answer is False:
                return negate
            unknown = unknown or answer is None
        return None if unknown else not negate

    return Expr(BOOL, value)
