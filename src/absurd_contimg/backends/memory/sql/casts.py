"""Casts: from one type to another, and which of them happen unasked."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from absurd_contimg.backends.memory import jsonb
from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.session_state import SessionState as Session
from absurd_contimg.backends.memory.sql.types import (
    BOOL,
    BYTEA,
    DATE,
    FLOAT8,
    INT4,
    INTEGERS,
    JSON,
    JSONB,
    NAME,
    NUMBERS,
    NUMERIC,
    STRINGS,
    TEXT,
    TIMESTAMP,
    TIMESTAMPTZ,
    UNKNOWN,
    ArrayType,
    SqlType,
    Value,
)
from absurd_contimg.backends.memory.values import dates, numerics, times
from absurd_contimg.backends.memory.values.numerics import numeric_out
from absurd_contimg.backends.memory.values.text import double_in

_BITS = {"int2": 16, "int4": 32, "int8": 64}

Cast = Callable[[Value, Session], Value]


def is_implicit(source: SqlType, target: SqlType) -> bool:
    """Whether a function's argument of type `source` may be given for `target`."""
    if source is target or source is UNKNOWN:
        return True
    if source in NUMBERS and target in NUMBERS:
        return NUMBERS.index(source) < NUMBERS.index(target)
    if target is TEXT and source in STRINGS:
        return True
    return (source, target) in ((DATE, TIMESTAMPTZ), (TIMESTAMP, TIMESTAMPTZ), (DATE, TIMESTAMP))


def checked_number(value: int, target: SqlType) -> int:
    """`value`, or 22003 if `target` cannot hold it."""
    limit = 1 << (_BITS[target.name] - 1)
    if not -limit <= value < limit:
        raise EngineError("22003", f"{target.shown} out of range")
    return value


def cast_function(source: SqlType, target: SqlType) -> Cast | None:  # noqa: PLR0911 - one return a family of types
    """How an explicit cast is done; None where Postgres has no such cast."""
    if source is target:
        return lambda value, _: value
    if source in STRINGS:
        return target.read
    if target in STRINGS:
        if target is NAME:
            show = source.show
            return lambda value, session: show(value, session)[:63]
        if source is BOOL:
            return lambda value, _: "true" if value else "false"
        return source.show
    if isinstance(source, ArrayType) and isinstance(target, ArrayType):
        inner = cast_function(source.element, target.element)
        if inner is None:
            return None
        return lambda value, session: [
            None if item is None else inner(item, session) for item in value
        ]
    return (
        _number_cast(source, target)
        or _bytes_cast(source, target)
        or _time_cast(source, target)
        or _json_cast(source, target)
    )


def _number_cast(source: SqlType, target: SqlType) -> Cast | None:  # noqa: PLR0911 - one return a pair of types
    if source in INTEGERS and target in INTEGERS:
        return lambda value, _: checked_number(value, target)
    if source is NUMERIC and target is FLOAT8:
        return lambda value, _: double_in(numeric_out(value))
    if source in NUMBERS and target is FLOAT8:
        return lambda value, _: float(value)
    if source in INTEGERS and target is NUMERIC:
        return lambda value, _: Decimal(value)
    if source is FLOAT8 and target is NUMERIC:
        return lambda value, _: Decimal(format(Decimal(f"{value:.15g}"), "f"))
    if source is NUMERIC and target in INTEGERS:
        return lambda value, _: checked_number(_rounded(value, target), target)
    if source is FLOAT8 and target in INTEGERS:
        return lambda value, _: checked_number(_nearest(value), target)
    if source is BOOL and target is INT4:
        return lambda value, _: int(value)
    if source is INT4 and target is BOOL:
        return lambda value, _: bool(value)
    return None


def _nearest(value: float) -> int:
    """The nearest integer, the even one of two; NaN and infinity are out of any range."""
    return round(value) if math.isfinite(value) else 1 << max(_BITS.values())


def _rounded(value: Decimal, target: SqlType) -> int:
    if not value.is_finite():
        word = "NaN" if value.is_nan() else "infinity"
        raise EngineError("0A000", f"cannot convert {word} to {target.shown}")
    return int(numerics.to_whole(value, ROUND_HALF_UP))


def _bytes_cast(source: SqlType, target: SqlType) -> Cast | None:
    """Integers are their bytes, the most significant first; Postgres has that from 18 on."""
    if source is BYTEA and target in INTEGERS:
        return lambda value, _: _from_bytes(value, target)
    if source in INTEGERS and target is BYTEA:
        size = _BITS[source.name] // 8
        return lambda value, _: value.to_bytes(size, signed=True)
    return None


def _from_bytes(value: bytes, target: SqlType) -> int:
    size = _BITS[target.name] // 8
    if len(value) > size:
        raise EngineError("22003", f"{target.shown} out of range")
    return int.from_bytes(value, signed=len(value) == size)


def _time_cast(source: SqlType, target: SqlType) -> Cast | None:  # noqa: PLR0911 - one return a pair of types
    if source is TIMESTAMPTZ and target is TIMESTAMP:
        return lambda value, session: to_local(value, session.zone)
    if source is TIMESTAMP and target is TIMESTAMPTZ:
        return lambda value, session: from_local(value, session.zone)
    if source is DATE and target is TIMESTAMPTZ:
        return lambda value, session: dates.midnight(value, session.zone)
    if source is TIMESTAMPTZ and target is DATE:
        return lambda value, session: dates.of_local(to_local(value, session.zone))
    if source is TIMESTAMP and target is DATE:
        return lambda value, _: dates.of_local(value)
    if source is DATE and target is TIMESTAMP:
        return lambda value, _: dates.midnight(value)
    return None


def to_local(value: int, zone: Any) -> int:
    """``timestamptz at time zone``."""
    return value + times.utc_offset_us(value, zone) if times.is_finite(value) else value


def from_local(value: int, zone: Any) -> int:
    """``timestamp at time zone``."""
    return times.from_local(value, zone) if times.is_finite(value) else value


def _json_cast(source: SqlType, target: SqlType) -> Cast | None:
    if source is JSON and target is JSONB:
        return lambda value, _: jsonb.parse(value)
    if source is JSONB and target is JSON:
        return lambda value, _: value
    if source is JSONB and (target in NUMBERS or target is BOOL):
        return lambda value, session: _json_scalar(value, target, session)
    return None


def _json_scalar(value: str, target: SqlType, session: Session) -> Value:
    kind = jsonb.kind(value)
    if kind == "null":
        return None
    wanted = "boolean" if target is BOOL else "number"
    if kind != wanted:
        shown = "numeric" if kind == "number" else kind
        raise EngineError("22023", f"cannot cast jsonb {shown} to type {target.shown}")
    if target is BOOL:
        return value == "true"
    number = Decimal(value)
    cast = cast_function(NUMERIC, target)
    return cast(number, session) if cast is not None else number
