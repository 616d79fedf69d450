"""Casts: which there are, which happen unasked, and which type several expressions share."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from absurd_contimg.backends.memory import jsonb
from absurd_contimg.backends.memory.errors import EngineError, Unsupported
from absurd_contimg.backends.memory.session_state import SessionState
from absurd_contimg.backends.memory.sql.scope import Env, Expr, undetermined
from absurd_contimg.backends.memory.values import numerics, types
from absurd_contimg.backends.memory.values.text import double_in
from absurd_contimg.backends.memory.values.types import NUMBERS, NUMERIC, TEXT, UNKNOWN, SqlType

Cast = Callable[[Any, SessionState], Any]


def is_implicit(source: SqlType, target: SqlType) -> bool:
    """Whether a function's argument of type `source` may be given for `target`."""
    if source in NUMBERS and target in NUMBERS:
        return NUMBERS.index(source) <= NUMBERS.index(target)
    return source is target or source is UNKNOWN


def checked_number(value: int, target: SqlType) -> int:
    """`value`, or 22003 if `target` cannot hold it."""
    limit = 1 << (8 * target.size - 1)
    if not -limit <= value < limit:
        raise EngineError("22003", f"{target.shown} out of range")
    return value


def _cast_function(source: SqlType, target: SqlType) -> Cast | None:
    """How an explicit cast is done; None where Postgres has no such cast."""
    if source is TEXT:
        return target.read
    if target is TEXT:
        is_bool = source is types.BOOL
        return (lambda raw, _: "true" if raw else "false") if is_bool else source.show
    if isinstance(source, types.ArrayType) and isinstance(target, types.ArrayType):
        raise Unsupported(f"casts of {source.shown}")
    if source is types.JSONB and (target in NUMBERS or target is types.BOOL):
        return lambda raw, _: _json_scalar(raw, target)
    if (source in NUMBERS and target in NUMBERS) or {source, target} == {types.BOOL, types.INT4}:
        return lambda raw, _: _number(raw, target)
    return None


def _number(raw: Any, target: SqlType) -> Any:
    """A number, or a truth value, as a number of another type or a truth value."""
    if target is types.BOOL:
        return bool(raw)
    if target is types.FLOAT8:
        return double_in(numerics.numeric_out(raw)) if isinstance(raw, Decimal) else float(raw)
    if target is NUMERIC:
        return numerics.numeric_in(f"{raw:.15g}" if isinstance(raw, float) else str(raw))
    if isinstance(raw, Decimal):  # a numeric's half is rounded away from zero, a float's to even
        raw = int(numerics.rounded(raw, 0))
    elif isinstance(raw, float):
        raw = round(raw) if math.isfinite(raw) else 1 << 64
    return checked_number(int(raw), target)


def _json_scalar(raw: str, target: SqlType) -> Any:
    kind = jsonb.kind(raw)
    if kind == "null":
        return None
    if kind != ("boolean" if target is types.BOOL else "number"):
        shown = "numeric" if kind == "number" else kind
        raise EngineError("22023", f"cannot cast jsonb {shown} to type {target.shown}")
    return raw == "true" if target is types.BOOL else _number(Decimal(raw), target)


# -- where an expression stands -----------------------------------------------------------------


def converted(expr: Expr, target: SqlType) -> Expr:
    """The expression cast to `target`; a literal is read as `target` before the statement runs."""
    if expr.kind is target:
        return expr
    if expr.literal is not None:
        return _read(expr, target)._replace(name=expr.name, weak=expr.weak)
    cast = _cast_function(expr.kind, target)
    if cast is None:
        raise EngineError("42846", f"cannot cast type {expr.kind.shown} to {target.shown}")
    inner = expr.value

    def value(env: Env) -> Any:
        raw = inner(env)
        return None if raw is None else cast(raw, env.session)

    return Expr(target, value, expr.name, expr.weak)


def _read(expr: Expr, target: SqlType) -> Expr:
    """A literal or parameter in the type that its place gives it."""
    assert expr.literal is not None
    plan, text, number = expr.literal
    if number is not None:
        if plan.kinds[number] is UNKNOWN:
            plan.kinds[number] = target
        return converted(plan.parameter(number), target)
    if text is None or target is TEXT:
        return Expr(target, lambda _: text)
    return Expr(target, plan.before(lambda env: target.read(text, env.session)))


def as_text(expr: Expr) -> Expr:
    """The expression, text if its type is not known: what a select list makes of it."""
    return converted(expr, TEXT) if expr.kind is UNKNOWN else expr


def determined(expr: Expr) -> Expr:
    """The same; 42P18 for a parameter whose type nothing tells."""
    if expr.literal is not None and expr.literal.parameter is not None:
        raise undetermined(expr.literal.parameter)
    return as_text(expr)


def common_type(kinds: list[SqlType], where: str) -> SqlType:
    """The type that ``case``, ``coalesce``, ``values`` and the like have in common."""
    known = [kind for kind in kinds if kind is not UNKNOWN] or [TEXT]
    chosen = known[0]
    for kind in known[1:]:
        if kind in NUMBERS and chosen in NUMBERS:
            chosen = max(kind, chosen, key=NUMBERS.index)
        elif kind is not chosen:
            if {kind, chosen} == {types.UUID, types.JSONB}:  # of one category in Postgres
                raise Unsupported(f"{chosen.shown} beside {kind.shown}")
            raise EngineError(
                "42804", f"{where} types {chosen.shown} and {kind.shown} cannot be matched"
            )
    return chosen


def unified(left: Expr, right: Expr, symbol: str) -> tuple[Expr, Expr, SqlType]:
    """Both sides in one type, for a comparison."""
    left_kind, right_kind = left.kind, right.kind
    both_numbers = left_kind in NUMBERS and right_kind in NUMBERS
    if not (left_kind is right_kind or both_numbers or UNKNOWN in (left_kind, right_kind)):
        raise undefined_operator(symbol, left_kind, right_kind)
    kind = common_type([left_kind, right_kind], "")
    return converted(left, kind), converted(right, kind), kind


def undefined_operator(symbol: str, left: SqlType, right: SqlType) -> EngineError:
    """42883."""
    return unmatched("operator", f"{left.shown} {symbol} {right.shown}")


def unmatched(kind: str, shown: str, *, unique: bool = True) -> EngineError:
    """42883 for an operator or function that there is not, 42725 for one of several."""
    call = f"{kind} {shown}" if kind == "function" else kind
    after = f": {shown}" if kind == "operator" else ""
    hint = "You might need to add explicit type casts."
    if not unique:
        choice = f"Could not choose a best candidate {kind}."
        return EngineError("42725", f"{call} is not unique{after}", hint=f"{choice} {hint}")
    choice = f"No {kind} matches the given name and argument types."
    return EngineError("42883", f"{call} does not exist{after}", hint=f"{choice} {hint}")
