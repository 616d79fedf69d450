"""Which type an expression takes where it stands, and how it gets there unasked."""

from __future__ import annotations

from typing import Any

from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.sql import constants
from absurd_contimg.backends.memory.sql.casts import cast_function, from_local
from absurd_contimg.backends.memory.sql.scope import Env, Expr
from absurd_contimg.backends.memory.sql.types import (
    BYTEA,
    DATE,
    JSON,
    JSONB,
    NAME,
    NUMBERS,
    STRINGS,
    TEXT,
    TIMESTAMP,
    TIMESTAMPTZ,
    UNKNOWN,
    UUID,
    VARCHAR,
    ArrayType,
    SqlType,
)
from absurd_contimg.backends.memory.values import dates

TIMES = (DATE, TIMESTAMP, TIMESTAMPTZ)


def undefined_operator(symbol: str, left: SqlType, right: SqlType) -> EngineError:
    """42883."""
    return EngineError(
        "42883",
        f"operator does not exist: {left.shown} {symbol} {right.shown}",
        hint="No operator matches the given name and argument types. You might need to add "
        "explicit type casts.",
    )


def undefined_prefix(symbol: str, kind: SqlType) -> EngineError:
    """42883 of an operator with one operand."""
    return EngineError(
        "42883",
        f"operator does not exist: {symbol} {kind.shown}",
        hint="No operator matches the given name and argument type. You might need to add an "
        "explicit type cast.",
    )


def ambiguous_operator(symbol: str, left: SqlType, right: SqlType) -> EngineError:
    """42725."""
    return EngineError(
        "42725",
        f"operator is not unique: {left.shown} {symbol} {right.shown}",
        hint="Could not choose a best candidate operator. You might need to add explicit type "
        "casts.",
    )


def converted(expr: Expr, target: SqlType) -> Expr:
    """The expression cast to `target`.

    A literal or parameter of unknown type is read as `target` before the statement runs, and a
    parameter is of that type from then on.
    """
    if expr.kind is target:
        return expr
    cast = cast_function(expr.kind, target)
    if cast is None:
        raise EngineError("42846", f"cannot cast type {expr.kind.shown} to {target.shown}")
    inner = expr.value

    def value(env: Env) -> Any:
        raw = inner(env)
        return None if raw is None else cast(raw, env.session)

    found = constants.current()
    if expr.kind is not UNKNOWN or not expr.constant or found is None:
        return Expr(target, value, expr.name, expr.constant)
    if target in STRINGS:
        read = inner if target is TEXT else value
    else:
        read = found.once(value, expr.parameter)
    if expr.parameter is not None:
        found.found.setdefault(expr.parameter, (target, read))
    return Expr(target, read, expr.name, constant=True)


def undetermined(parameter: int) -> EngineError:
    """42P18."""
    return EngineError("42P18", f"could not determine data type of parameter ${parameter + 1}")


def determined(expr: Expr) -> Expr:
    """The expression, text if it is a literal; 42P18 for a parameter whose type nothing tells."""
    if expr.parameter is not None and expr.kind is UNKNOWN:
        raise undetermined(expr.parameter)
    return converted(expr, TEXT) if expr.kind is UNKNOWN else expr


def common_type(kinds: list[SqlType], where: str) -> SqlType:
    """The type that ``case``, ``coalesce``, ``union`` and the like settle on."""
    known = [kind for kind in kinds if kind is not UNKNOWN]
    if not known:
        return TEXT
    chosen, stranger = known[0], None
    for kind in known[1:]:
        if kind is chosen:
            continue
        if kind in NUMBERS and chosen in NUMBERS:
            chosen = max(kind, chosen, key=NUMBERS.index)
        elif kind in STRINGS and chosen in STRINGS:
            chosen = NAME if {kind, chosen} == {VARCHAR, NAME} else chosen
        elif kind in TIMES and chosen in TIMES:
            chosen = max(kind, chosen, key=TIMES.index)
        elif _are_alike(kind, chosen):
            stranger = stranger or kind
        else:
            raise EngineError(
                "42804", f"{where} types {chosen.shown} and {kind.shown} cannot be matched"
            )
    if stranger is not None:  # Postgres finds it later, when it converts the values
        where = "CASE/WHEN" if where == "CASE" else where
        raise EngineError(
            "42846", f"{where} could not convert type {stranger.shown} to {chosen.shown}"
        )
    return chosen


def _are_alike(one: SqlType, other: SqlType) -> bool:
    """Whether Postgres has both in one category: user-defined types, or arrays."""
    return all(kind in (UUID, JSON, JSONB, BYTEA) for kind in (one, other)) or all(
        isinstance(kind, ArrayType) for kind in (one, other)
    )


def unified(left: Expr, right: Expr, symbol: str) -> tuple[Expr, Expr, SqlType]:
    """Both sides in one type, for a comparison."""
    one, other = left.kind, right.kind
    if one is other:
        kind = TEXT if one is UNKNOWN else one
    elif one is UNKNOWN or other is UNKNOWN:
        kind = other if one is UNKNOWN else one
    elif one in STRINGS and other in STRINGS:
        kind = TEXT
    else:
        try:
            kind = common_type([one, other], "")
        except EngineError:
            raise undefined_operator(symbol, one, other) from None
    return _comparable(left, kind), _comparable(right, kind), kind


def _comparable(expr: Expr, kind: SqlType) -> Expr:
    """Converted, though a date may be after the last time that there is: it is later then."""
    if expr.kind is not DATE or kind is DATE:
        return converted(expr, kind)
    inner = expr.value

    def value(env: Env) -> int | None:
        day = inner(env)
        if day is None:
            return None
        local = dates.to_local(day)
        return from_local(local, env.session.zone) if kind is TIMESTAMPTZ else local

    return Expr(kind, value, expr.name, expr.constant)


def as_text(expr: Expr) -> Expr:
    """The expression as text, by its type's output."""
    if expr.kind is UNKNOWN:
        return converted(expr, TEXT)
    if expr.kind in STRINGS:
        return Expr(TEXT, expr.value, expr.name, expr.constant)
    inner, show = expr.value, expr.kind.show

    def value(env: Env) -> str | None:
        raw = inner(env)
        return None if raw is None else show(raw, env.session)

    return Expr(TEXT, value, expr.name, expr.constant)
