"""Postgres' own functions, as far as clients and operators of Absurd use them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

from absurd_contimg.backends.memory import jsonb, times
from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.session import Session
from absurd_contimg.backends.memory.sql.operators import as_text, converted
from absurd_contimg.backends.memory.sql.scope import Env, Expr
from absurd_contimg.backends.memory.sql.types import (
    BOOL,
    BY_NAME,
    DATE,
    FLOAT8,
    INT4,
    INT8,
    INTEGERS,
    INTERVAL,
    JSON,
    JSONB,
    NUMBERS,
    NUMERIC,
    STRINGS,
    TEXT,
    TIMESTAMP,
    TIMESTAMPTZ,
    UUID,
    ArrayType,
    SqlType,
    double_out,
    is_implicit,
    numeric_out,
    to_local,
)
from absurd_contimg.backends.memory.text import timestamptz_out

Work = Callable[..., Any]


class Builtin(NamedTuple):
    """A strict function: argument types, result type, and what it does with (session, values)."""

    arguments: tuple[SqlType, ...]
    returns: SqlType
    work: Work
    optional: int = 0


def _substring(_: Session, text: str, start: int, length: int | None = None) -> str:
    if length is not None and length < 0:
        raise EngineError("22011", "negative substring length not allowed")
    end = None if length is None else max(start + length - 1, 0)
    return text[max(start - 1, 0) : end]


def _left(_: Session, text: str, count: int) -> str:
    return text[:count] if count >= 0 else text[: max(len(text) + count, 0)]


def _right(_: Session, text: str, count: int) -> str:
    return (
        text[len(text) - count :]
        if 0 <= count < len(text)
        else text[-count:]
        if count < 0
        else text
    )


def _split_part(_: Session, text: str, delimiter: str, index: int) -> str:
    if index == 0:
        raise EngineError("22023", "field position must not be zero")
    parts = text.split(delimiter) if delimiter else [text]
    position = index - 1 if index > 0 else len(parts) + index
    return parts[position] if 0 <= position < len(parts) else ""


def _current_setting(session: Session, name: str, missing_ok: bool = False) -> str | None:
    value = session.setting(name)
    if value is None and not missing_ok:
        raise EngineError("42704", f'unrecognized configuration parameter "{name}"')
    return value


def _array_length(_: Session, text: str) -> int:
    value = jsonb.tree(text)
    if not isinstance(value, list):
        word = "a non-array" if isinstance(value, dict) else "a scalar"
        raise EngineError("22023", f"cannot get array length of {word}")
    return len(value)


def _to_regclass(session: Session, name: str) -> str | None:
    schema, _, table = name.replace('"', "").rpartition(".")
    if schema not in ("", "absurd"):
        return None
    found = session.db.relations.rows.get(table)
    return None if found is None or not schema else name


def today(session: Session) -> int:
    """The session's date."""
    return to_local(session.transaction_time(), session.zone) // times.DAY_US


def _make_interval(_: Session, seconds: float) -> times.Interval:
    return times.Interval(us=times.seconds_us(seconds))


def _quoted(name: str) -> str:
    """An identifier in quotes if it needs them."""
    if name.isidentifier() and name == name.lower():
        return name
    return '"' + name.replace('"', '""') + '"'


BUILTINS: dict[str, Builtin] = {
    "lower": Builtin((TEXT,), TEXT, lambda _, a: a.lower()),
    "upper": Builtin((TEXT,), TEXT, lambda _, a: a.upper()),
    "length": Builtin((TEXT,), INT4, lambda _, a: len(a)),
    "octet_length": Builtin((TEXT,), INT4, lambda _, a: len(a.encode())),
    "btrim": Builtin((TEXT, TEXT), TEXT, lambda _, a, b=" ": a.strip(b), 1),
    "ltrim": Builtin((TEXT, TEXT), TEXT, lambda _, a, b=" ": a.lstrip(b), 1),
    "rtrim": Builtin((TEXT, TEXT), TEXT, lambda _, a, b=" ": a.rstrip(b), 1),
    "substring": Builtin((TEXT, INT4, INT4), TEXT, _substring, 1),
    "left": Builtin((TEXT, INT4), TEXT, _left),
    "right": Builtin((TEXT, INT4), TEXT, _right),
    "position": Builtin((TEXT, TEXT), INT4, lambda _, a, b: a.find(b) + 1),
    "split_part": Builtin((TEXT, TEXT, INT4), TEXT, _split_part),
    "replace": Builtin((TEXT, TEXT, TEXT), TEXT, lambda _, a, b, c: a.replace(b, c) if b else a),
    "repeat": Builtin((TEXT, INT4), TEXT, lambda _, a, b: a * max(b, 0)),
    "reverse": Builtin((TEXT,), TEXT, lambda _, a: a[::-1]),
    "lpad": Builtin(
        (TEXT, INT4, TEXT), TEXT, lambda _, a, b, c=" ": a[:b] if len(a) >= b else a.rjust(b, c), 1
    ),
    "starts_with": Builtin((TEXT, TEXT), BOOL, lambda _, a, b: a.startswith(b)),
    "md5": Builtin(
        (TEXT,), TEXT, lambda _, a: hashlib.md5(a.encode(), usedforsecurity=False).hexdigest()
    ),
    "quote_ident": Builtin((TEXT,), TEXT, lambda _, a: _quoted(a)),
    "quote_literal": Builtin((TEXT,), TEXT, lambda _, a: "'" + a.replace("'", "''") + "'"),
    "current_setting": Builtin((TEXT, BOOL), TEXT, _current_setting, 1),
    "jsonb_typeof": Builtin((JSONB,), TEXT, lambda _, a: jsonb.kind(a)),
    "jsonb_array_length": Builtin((JSONB,), INT4, _array_length),
    "jsonb_strip_nulls": Builtin((JSONB,), JSONB, lambda _, a: jsonb.strip_nulls(a)),
    "uuidv7": Builtin((), UUID, lambda s: s.db.next_uuid()),
    "gen_random_uuid": Builtin((), UUID, lambda s: s.db.random_uuid()),
    "to_regclass": Builtin((TEXT,), BY_NAME["regclass"], _to_regclass),
    "make_interval": Builtin((FLOAT8,), INTERVAL, _make_interval),
    "isfinite": Builtin((TIMESTAMPTZ,), BOOL, lambda _, a: times.is_finite(a)),
    "pg_backend_pid": Builtin((), INT4, lambda s: s.session_id),
    "to_timestamp": Builtin((FLOAT8,), TIMESTAMPTZ, lambda _, a: round(a * times.SECOND_US)),
    "clock_timestamp": Builtin((), TIMESTAMPTZ, lambda s: s.db.now()),
    "now": Builtin((), TIMESTAMPTZ, lambda s: s.transaction_time()),
    "statement_timestamp": Builtin((), TIMESTAMPTZ, lambda s: s.db.now()),
    "transaction_timestamp": Builtin((), TIMESTAMPTZ, lambda s: s.transaction_time()),
    "version": Builtin((), TEXT, lambda _: "PostgreSQL 18.6, emulated in memory by absurd-contimg"),
    "current_date": Builtin((), DATE, today),
    "current_database": Builtin((), BY_NAME["name"], lambda _: "memory"),
    "current_user": Builtin((), BY_NAME["name"], lambda _: "postgres"),
    "session_user": Builtin((), BY_NAME["name"], lambda _: "postgres"),
    "current_schema": Builtin((), BY_NAME["name"], lambda _: "public"),
    "pg_advisory_xact_lock": Builtin((INT8,), BY_NAME["void"], lambda *_: ""),
}
"""By name; an argument that is null makes the result null."""


def call_builtin(name: str, arguments: list[Expr], shown_name: str | None = None) -> Expr | None:
    """A call of a strict function; None if there is none of this name."""
    builtin = BUILTINS.get(name)
    if builtin is None:
        return None
    least = len(builtin.arguments) - builtin.optional
    if not least <= len(arguments) <= len(builtin.arguments):
        raise undefined_function(name, [expr.kind for expr in arguments])
    pairs = list(zip(arguments, builtin.arguments, strict=False))
    if not all(is_implicit(expr.kind, kind) for expr, kind in pairs):
        raise undefined_function(name, [expr.kind for expr in arguments])
    given = [converted(expr, kind) for expr, kind in pairs]
    values, work = [expr.value for expr in given], builtin.work

    def value(env: Env) -> Any:
        found = []
        for evaluate in values:
            item = evaluate(env)
            if item is None:
                return None
            found.append(item)
        return work(env.session, *found)

    return Expr(builtin.returns, value, shown_name or name)


def undefined_function(name: str, kinds: list[SqlType]) -> EngineError:
    """42883."""
    shown = ", ".join(kind.shown for kind in kinds)
    return EngineError(
        "42883",
        f"function {name}({shown}) does not exist",
        hint="No function matches the given name and argument types. You might need to add "
        "explicit type casts.",
    )


# -- functions of any type ----------------------------------------------------------------------


def to_json_text(value: Any, kind: SqlType, session: Session) -> str:  # noqa: PLR0911 - one return a type
    """``to_jsonb``."""
    if value is None:
        return jsonb.NULL
    if kind in (JSONB, JSON):
        return jsonb.parse(value) if kind is JSON else str(value)
    if kind is BOOL:
        return "true" if value else "false"
    if kind in INTEGERS:
        return str(value)
    if kind is NUMERIC:
        return numeric_out(value)
    if kind is FLOAT8:
        shown = double_out(value)
        return jsonb.parse(shown) if math.isfinite(value) else jsonb.dumps(shown)
    if kind is TIMESTAMPTZ:
        return jsonb.dumps(timestamptz_out(value, session.zone, iso=True))
    if kind is TIMESTAMP:
        return jsonb.dumps(kind.show(value, session).replace(" ", "T"))
    if isinstance(kind, ArrayType):
        items = [to_json_text(item, kind.element, session) for item in value]
        return "[" + ", ".join(items) + "]"
    return jsonb.dumps(kind.show(value, session))


def to_json(expr: Expr, name: str = "to_jsonb") -> Expr:
    """``to_jsonb`` and ``to_json``."""
    inner, kind = expr.value, expr.kind

    def value(env: Env) -> str | None:
        raw = inner(env)
        return None if raw is None else to_json_text(raw, kind, env.session)

    return Expr(JSONB, value, name)


def build_object(arguments: list[Expr], name: str) -> Expr:
    """``jsonb_build_object``."""
    if len(arguments) % 2:
        raise EngineError("22023", "argument list must have even number of elements")
    keys = [as_text(expr).value for expr in arguments[::2]]
    members = [(expr.value, expr.kind) for expr in arguments[1::2]]

    def value(env: Env) -> str:
        found = {}
        for key, (member, kind) in zip(keys, members, strict=True):
            name_of = key(env)
            if name_of is None:
                raise EngineError("22023", "argument 1: key must not be null")
            found[name_of] = jsonb.tree(to_json_text(member(env), kind, env.session))
        return jsonb.dumps(found)

    return Expr(JSONB, value, name)


def build_array(arguments: list[Expr], name: str) -> Expr:
    """``jsonb_build_array``."""

    def value(env: Env) -> str:
        items = [to_json_text(expr.value(env), expr.kind, env.session) for expr in arguments]
        return "[" + ", ".join(items) + "]"

    return Expr(JSONB, value, name)


def concat(arguments: list[Expr]) -> Expr:
    """``concat``: nulls count as empty."""
    parts = [as_text(expr).value for expr in arguments]
    return Expr(TEXT, lambda env: "".join(part(env) or "" for part in parts), "concat")


def format_text(arguments: list[Expr]) -> Expr:
    """``format`` with ``%s``, ``%I``, ``%L`` and ``%%``."""
    parts = [as_text(expr).value for expr in arguments]

    def value(env: Env) -> str | None:
        pattern, *values = (part(env) for part in parts)
        return None if pattern is None else _formatted(pattern, values)

    return Expr(TEXT, value, "format")


def _formatted(pattern: str, values: list[str | None]) -> str:
    pieces: list[str] = []
    rest = iter(values)
    position = 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if character != "%":
            pieces.append(character)
            continue
        kind = pattern[position : position + 1]
        position += 1
        if kind == "%":
            pieces.append("%")
            continue
        try:
            item = next(rest)
        except StopIteration:
            raise EngineError("22023", "too few arguments for format()") from None
        if kind == "s":
            pieces.append(item or "")
        elif kind == "L":
            pieces.append("NULL" if item is None else "'" + item.replace("'", "''") + "'")
        elif kind == "I":
            if item is None:
                raise EngineError("22004", "null values cannot be formatted as an SQL identifier")
            pieces.append(_quoted(item))
        else:
            raise EngineError("22023", f'unrecognized format() type specifier "{kind}"')
    return "".join(pieces)


def rounded(name: str, expr: Expr, digits: Expr | None = None) -> Expr:
    """``round``, ``floor``, ``ceil``, ``trunc``, ``abs``, ``sign``."""
    if expr.kind in STRINGS:
        expr = converted(expr, FLOAT8)
    kind = expr.kind
    if digits is not None:
        expr, kind = converted(expr, NUMERIC), NUMERIC
    elif kind in INTEGERS and name != "abs":
        expr, kind = converted(expr, FLOAT8), FLOAT8
    if kind not in NUMBERS:
        raise undefined_function(name, [kind])
    inner = expr.value
    places = None if digits is None else converted(digits, INT4).value

    def value(env: Env) -> Any:
        raw = inner(env)
        if raw is None:
            return None
        if places is not None:
            count = places(env)
            if count is None:
                return None
            mode = {"round": "ROUND_HALF_UP", "trunc": "ROUND_DOWN"}[name]
            return (
                raw.quantize(Decimal(1).scaleb(-count), mode) if count >= 0 else round(raw, count)
            )
        return _round(name, raw)

    return Expr(kind, value, name)


_DECIMAL_MODES = {
    "round": "ROUND_HALF_UP",
    "floor": "ROUND_FLOOR",
    "ceil": "ROUND_CEILING",
    "trunc": "ROUND_DOWN",
}


_FLOAT_ROUNDING: dict[str, Callable[[float], int]] = {
    "round": round,
    "floor": math.floor,
    "ceil": math.ceil,
    "trunc": math.trunc,
}


def _round(name: str, value: Any) -> Any:
    if name == "abs":
        return abs(value)
    if isinstance(value, Decimal):
        return value.to_integral_value(_DECIMAL_MODES[name]) if value.is_finite() else value
    if not math.isfinite(value):
        return value
    return float(_FLOAT_ROUNDING[name](value))
