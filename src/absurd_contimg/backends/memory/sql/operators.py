"""Operators by their symbols: which types they take, and what they give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from absurd_contimg.backends.memory import jsonb
from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.session_state import SessionState as Session
from absurd_contimg.backends.memory.sql import json_operators, patterns
from absurd_contimg.backends.memory.sql.arithmetic import arithmetic, strict
from absurd_contimg.backends.memory.sql.coercion import (
    ambiguous_operator,
    common_type,
    converted,
    undefined_operator,
)
from absurd_contimg.backends.memory.sql.comparison import comparison, sort_key
from absurd_contimg.backends.memory.sql.scope import Env, Expr
from absurd_contimg.backends.memory.sql.types import (
    ARRAYS,
    BOOL,
    BYTEA,
    INT2,
    INT4,
    INT8,
    INTEGERS,
    JSON,
    JSONB,
    NAME,
    NUMBERS,
    STRINGS,
    TEXT,
    UNKNOWN,
    VARCHAR,
    ArrayType,
    SqlType,
)

TEXTS = ARRAYS["text"]
Make = Callable[[str, Expr, Expr], Expr]


def binary(symbol: str, left: Expr, right: Expr) -> Expr:
    """The operator of this symbol between two expressions."""
    make = _BY_SYMBOL.get(symbol)
    if make is None:
        raise unsupported(symbol, "this operator")
    return make(symbol, left, right)


# -- concatenation ------------------------------------------------------------------------------


def _concatenated(symbol: str, left: Expr, right: Expr) -> Expr:
    kinds = (left.kind, right.kind)
    if JSONB in kinds and all(kind in (JSONB, UNKNOWN) for kind in kinds):
        one, other = converted(left, JSONB), converted(right, JSONB)
        return strict(JSONB, one, other, lambda a, b, _: json_operators.join(a, b))
    if BYTEA in kinds and all(kind in (BYTEA, UNKNOWN) for kind in kinds):
        one, other = converted(left, BYTEA), converted(right, BYTEA)
        return strict(BYTEA, one, other, lambda a, b, _: a + b)
    if any(isinstance(kind, ArrayType) for kind in kinds):
        return _array_concatenated(left, right)
    if not any(kind in STRINGS for kind in kinds):
        raise undefined_operator(symbol, *kinds)
    one, other = converted(left, TEXT), converted(right, TEXT)
    return strict(TEXT, one, other, lambda a, b, _: a + b)


def _array_concatenated(left: Expr, right: Expr) -> Expr:
    kind = left.kind if isinstance(left.kind, ArrayType) else right.kind
    assert isinstance(kind, ArrayType)
    both = isinstance(left.kind, ArrayType) and isinstance(right.kind, ArrayType)
    elements = [
        side.kind.element if isinstance(side.kind, ArrayType) else side.kind
        for side in (left, right)
    ]
    if not both and UNKNOWN in elements:  # a literal beside an array is read as an array
        left, right = converted(left, kind), converted(right, kind)
    elif elements[0] is not elements[1]:
        try:
            element = common_type(elements, "")
        except EngineError:
            raise undefined_operator("||", left.kind, right.kind) from None
        kind = ARRAYS[element.name]
        left, right = (
            converted(side, kind if isinstance(side.kind, ArrayType) else element)
            for side in (left, right)
        )

    def value(env: Env) -> Any:
        a, b = left.value(env), right.value(env)
        if isinstance(left.kind, ArrayType) and isinstance(right.kind, ArrayType):
            return a if b is None else b if a is None else [*a, *b]
        first = (a or []) if isinstance(left.kind, ArrayType) else [a]
        return [*first, *((b or []) if isinstance(right.kind, ArrayType) else [b])]

    return Expr(kind, value)


# -- jsonb --------------------------------------------------------------------------------------


def json_side(symbol: str, left: Expr, right: Expr, wanted: tuple[SqlType, ...]) -> Expr:
    """The left operand of an operator of json and jsonb; an error for what is neither.

    A literal is neither of them; `wanted` are the types on the right side that could tell that.
    """
    if left.kind is UNKNOWN and right.kind in (UNKNOWN, *wanted):
        raise ambiguous_operator(symbol, left.kind, right.kind)
    if left.kind not in (JSONB, JSON):
        raise undefined_operator(symbol, left.kind, right.kind)
    return left


def _json_step(symbol: str, left: Expr, right: Expr) -> Expr:
    left = json_side(symbol, left, right, (*STRINGS, INT2, INT4))
    as_string = symbol == "->>"
    if right.kind in STRINGS:
        key = converted(right, TEXT)
    elif right.kind in (INT2, INT4):
        key = right
    else:
        raise undefined_operator(symbol, left.kind, right.kind)
    is_json = left.kind is JSON

    def work(text: str, name: str | int, _: Any) -> str | None:
        if is_json and text.lstrip()[:1] not in ("{", "["):
            return None  # only jsonb takes a scalar for an array of one
        found = json_operators.step(text, name, as_string=as_string)
        if is_json and found is not None and found[:1] in ("{", "["):
            raise unsupported(symbol, "objects and arrays out of json; use jsonb")
        return found

    return strict(TEXT if as_string else left.kind, left, key, work)


def _json_path(symbol: str, left: Expr, right: Expr) -> Expr:
    left = json_side(symbol, left, right, (TEXTS,))
    if left.kind is JSON:
        raise unsupported(symbol, "this operator on json; use jsonb")
    as_string = symbol == "#>>"
    path = _texts(symbol, left, right)
    return strict(
        TEXT if as_string else JSONB,
        left,
        path,
        lambda text, steps, _: json_operators.follow(text, steps, as_string=as_string),
    )


def _texts(symbol: str, left: Expr, right: Expr) -> Expr:
    if right.kind is not UNKNOWN and right.kind is not TEXTS:
        raise undefined_operator(symbol, left.kind, right.kind)
    return converted(right, TEXTS)


def _only_jsonb(symbol: str, left: Expr, right: Expr, *wanted: SqlType) -> Expr:
    """The left operand of an operator that jsonb alone has: a literal is one, then."""
    if left.kind not in (JSONB, UNKNOWN) or right.kind not in wanted:
        raise undefined_operator(symbol, left.kind, right.kind)
    return converted(left, JSONB)


def _has_key(symbol: str, left: Expr, right: Expr) -> Expr:
    left = _only_jsonb(symbol, left, right, *STRINGS)
    key = converted(right, TEXT)
    return strict(BOOL, left, key, lambda text, name, _: jsonb.has_key(text, name))


def _has_keys(symbol: str, left: Expr, right: Expr) -> Expr:
    if symbol == "?|" and left.kind is UNKNOWN and right.kind is UNKNOWN:  # points have it too
        raise ambiguous_operator(symbol, UNKNOWN, UNKNOWN)
    left = _only_jsonb(symbol, left, right, TEXTS, UNKNOWN)
    several = any if symbol == "?|" else all
    keys = converted(right, TEXTS)
    return strict(
        BOOL,
        left,
        keys,
        lambda text, names, _: several(
            jsonb.has_key(text, name) for name in names if name is not None
        ),
    )


def _without_path(symbol: str, left: Expr, right: Expr) -> Expr:
    left = _only_jsonb(symbol, left, right, TEXTS, UNKNOWN)
    path = converted(right, TEXTS)
    return strict(
        JSONB,
        left,
        path,
        lambda text, steps, _: json_operators.without_path(text, steps),
    )


def _subtracted(symbol: str, left: Expr, right: Expr) -> Expr:
    """``-`` of jsonb, otherwise arithmetic."""
    if left.kind is UNKNOWN and right.kind in (TEXTS, TEXT, VARCHAR, NAME):
        left = converted(left, JSONB)
    if left.kind is not JSONB:
        return arithmetic(symbol, left, right)
    if right.kind in (INT2, INT4):
        index = converted(right, INT4)
        return strict(
            JSONB,
            left,
            index,
            lambda text, at, _: json_operators.without_index(text, at),
        )
    if right.kind is TEXTS:
        return strict(
            JSONB,
            left,
            right,
            lambda text, keys, _: json_operators.without_keys(text, keys),
        )
    if right.kind not in STRINGS:
        raise undefined_operator(symbol, left.kind, right.kind)
    key = converted(right, TEXT)
    return strict(
        JSONB,
        left,
        key,
        lambda text, name, _: json_operators.without_keys(text, [name]),
    )


# -- containment --------------------------------------------------------------------------------


def _contained(symbol: str, left: Expr, right: Expr) -> Expr:
    """``@>``, and ``<@`` with its sides changed."""
    one, other = (right, left) if symbol == "<@" else (left, right)
    kinds = (one.kind, other.kind)
    if any(isinstance(kind, ArrayType) for kind in kinds):
        found = _array_test("@>", one, other)
    elif kinds == (UNKNOWN, UNKNOWN):
        raise ambiguous_operator(symbol, UNKNOWN, UNKNOWN)
    elif all(kind in (JSONB, UNKNOWN) for kind in kinds):
        whole, part = converted(one, JSONB), converted(other, JSONB)
        found = strict(BOOL, whole, part, lambda a, b, _: json_operators.contains(a, b))
    else:
        found = None
    if found is None:
        raise undefined_operator(symbol, left.kind, right.kind)
    return found


def _array_test(symbol: str, left: Expr, right: Expr) -> Expr | None:
    """``@>`` and ``&&`` of arrays; None for arrays of two types."""
    kind = left.kind if isinstance(left.kind, ArrayType) else right.kind
    if not all(side.kind in (kind, UNKNOWN) for side in (left, right)):
        return None
    assert isinstance(kind, ArrayType)
    one, other = converted(left, kind), converted(right, kind)
    element = kind.element

    def work(a: list[Any], b: list[Any], _: Any) -> bool:
        mine = [sort_key(element, item) for item in a if item is not None]
        if symbol == "@>":
            return all(item is not None and sort_key(element, item) in mine for item in b)
        return any(item is not None and sort_key(element, item) in mine for item in b)

    return strict(BOOL, one, other, work)


def _overlap(symbol: str, left: Expr, right: Expr) -> Expr:
    if left.kind is UNKNOWN and right.kind is UNKNOWN:
        raise ambiguous_operator(symbol, UNKNOWN, UNKNOWN)
    both = any(isinstance(side.kind, ArrayType) for side in (left, right))
    found = _array_test(symbol, left, right) if both else None
    if found is None:
        raise undefined_operator(symbol, left.kind, right.kind)
    return found


# -- text and bits ------------------------------------------------------------------------------


def _regular(symbol: str, left: Expr, right: Expr) -> Expr:
    if not all(side.kind in STRINGS for side in (left, right)):
        raise undefined_operator(symbol, left.kind, right.kind)
    one, other = converted(left, TEXT), converted(right, TEXT)
    flags, wanted = "i" if symbol.endswith("*") else "", not symbol.startswith("!")
    return strict(
        BOOL,
        one,
        other,
        lambda a, b, _: (patterns.regular(b, flags).search(a) is not None) is wanted,
    )


def like(symbol: str, left: Expr, right: Expr, escape: str = "\\") -> Expr:
    """``~~`` and ``~~*``, which are ``like`` and ``ilike``; with ``!`` negated."""
    if BYTEA in (left.kind, right.kind) and not symbol.endswith("*"):
        raise unsupported(symbol, "like of bytea")
    if not all(side.kind in STRINGS for side in (left, right)):
        raise undefined_operator(symbol, left.kind, right.kind)
    one, other = converted(left, TEXT), converted(right, TEXT)
    any_case, wanted = symbol.endswith("*"), not symbol.startswith("!")
    return strict(
        BOOL,
        one,
        other,
        lambda a, b, _: (
            (patterns.like(b, escape, any_case=any_case).match(a) is not None) is wanted
        ),
    )


def _begins(symbol: str, left: Expr, right: Expr) -> Expr:
    if not all(side.kind in STRINGS for side in (left, right)):
        raise undefined_operator(symbol, left.kind, right.kind)
    one, other = converted(left, TEXT), converted(right, TEXT)
    return strict(BOOL, one, other, lambda a, b, _: a.startswith(b))


_BITS: dict[str, Callable[[int, int], int]] = {
    "&": lambda a, b: a & b,
    "|": lambda a, b: a | b,
    "#": lambda a, b: a ^ b,
}


def _bits(symbol: str, left: Expr, right: Expr) -> Expr:
    if left.kind is UNKNOWN and right.kind is UNKNOWN:
        raise ambiguous_operator(symbol, UNKNOWN, UNKNOWN)
    if UNKNOWN in (left.kind, right.kind):
        kind = right.kind if left.kind is UNKNOWN else left.kind
    else:
        kind = left.kind if left.kind is right.kind else INT4
        if left.kind in NUMBERS and right.kind in NUMBERS:
            kind = max(left.kind, right.kind, key=NUMBERS.index)
    if kind not in INTEGERS or not all(side.kind in (*INTEGERS, UNKNOWN) for side in (left, right)):
        raise undefined_operator(symbol, left.kind, right.kind)
    one, other, work = converted(left, kind), converted(right, kind), _BITS[symbol]
    return strict(kind, one, other, lambda a, b, _: work(a, b))


def _shifted(symbol: str, left: Expr, right: Expr) -> Expr:
    """As the processor does it: a count beyond the width begins again, what leaves it is lost."""
    if left.kind is UNKNOWN and right.kind in (INT2, UNKNOWN):
        raise ambiguous_operator(symbol, UNKNOWN, right.kind)
    kind = INT4 if left.kind is UNKNOWN else left.kind
    if kind not in INTEGERS or right.kind not in (INT2, INT4, UNKNOWN):
        raise undefined_operator(symbol, left.kind, right.kind)
    width = 8 * kind.size
    counted = 63 if kind is INT8 else 31

    def work(a: int, b: int, _: Session) -> int:
        moved = a << (b & counted) if symbol == "<<" else a >> (b & counted)
        return (moved + (1 << (width - 1))) % (1 << width) - (1 << (width - 1))

    one, other = converted(left, kind), converted(right, INT4)
    return strict(kind, one, other, work)


_BY_SYMBOL: dict[str, Make] = {
    **dict.fromkeys(("=", "<>", "<", "<=", ">", ">="), comparison),
    **dict.fromkeys(("+", "*", "/", "%", "^"), arithmetic),
    **dict.fromkeys(("->", "->>"), _json_step),
    **dict.fromkeys(("#>", "#>>"), _json_path),
    **dict.fromkeys(("?|", "?&"), _has_keys),
    **dict.fromkeys(("@>", "<@"), _contained),
    **dict.fromkeys(("~", "~*", "!~", "!~*"), _regular),
    **dict.fromkeys(("~~", "~~*", "!~~", "!~~*"), like),
    **dict.fromkeys(("&", "|", "#"), _bits),
    **dict.fromkeys(("<<", ">>"), _shifted),
    "-": _subtracted,
    "||": _concatenated,
    "?": _has_key,
    "#-": _without_path,
    "&&": _overlap,
    "^@": _begins,
}
