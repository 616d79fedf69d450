"""Functions of json and jsonb, and what any value looks like as one."""

from __future__ import annotations

import math
from typing import Any

from absurd_contimg.backends.memory import jsonb
from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.session_state import SessionState as Session
from absurd_contimg.backends.memory.sql import json_operators
from absurd_contimg.backends.memory.sql.coercion import converted, determined
from absurd_contimg.backends.memory.sql.registry import (
    builtin,
    polymorphic,
    textual,
    undefined_function,
)
from absurd_contimg.backends.memory.sql.scope import Env, Expr
from absurd_contimg.backends.memory.sql.types import (
    ARRAYS,
    BOOL,
    FLOAT8,
    INT4,
    INTEGERS,
    JSON,
    JSONB,
    NUMERIC,
    STRINGS,
    TEXT,
    TIMESTAMP,
    TIMESTAMPTZ,
    UNKNOWN,
    ArrayType,
    RecordType,
    SqlType,
)
from absurd_contimg.backends.memory.values.floats import double_out
from absurd_contimg.backends.memory.values.numerics import numeric_out
from absurd_contimg.backends.memory.values.timestamps import timestamptz_out

TEXTS = ARRAYS["text"]


def to_json_text(value: Any, kind: SqlType, session: Session) -> str:  # noqa: PLR0911 - one return a type
    """``to_json``: jsonb's is the same after it was parsed, see `to_jsonb_text`."""
    if value is None:
        return jsonb.NULL
    if kind in (JSONB, JSON):
        return str(value)
    if kind is BOOL:
        return "true" if value else "false"
    if kind in INTEGERS:
        return str(value)
    if kind in (NUMERIC, FLOAT8):
        exact = kind is NUMERIC
        shown = numeric_out(value) if exact else double_out(value)
        finite = value.is_finite() if exact else math.isfinite(value)
        return shown if finite else jsonb.dumps(shown)
    if kind is TIMESTAMPTZ:
        return jsonb.dumps(timestamptz_out(value, session.zone, iso=True))
    if kind is TIMESTAMP:
        return jsonb.dumps(kind.show(value, session).replace(" ", "T", 1))
    if isinstance(kind, ArrayType):
        return "[" + ",".join(to_json_text(item, kind.element, session) for item in value) + "]"
    if isinstance(kind, RecordType):
        pairs = zip(kind.names, kind.kinds, value, strict=True)
        members = [
            f"{jsonb.dumps(name)}:{to_json_text(item, one, session)}" for name, one, item in pairs
        ]
        return "{" + ",".join(members) + "}"
    return jsonb.dumps(kind.show(value, session))


def to_jsonb_text(value: Any, kind: SqlType, session: Session) -> str:
    """``to_jsonb``."""
    text = to_json_text(value, kind, session)
    return text if kind is JSONB else jsonb.parse(text)


@polymorphic("to_jsonb", "to_json", "row_to_json", "array_to_json")
def _to_json(arguments: list[Expr], name: str) -> Expr:
    if len(arguments) != 1:
        raise undefined_function(name, [item.kind for item in arguments])
    expr = arguments[0]
    if expr.kind is UNKNOWN:
        raise EngineError(
            "42804", "could not determine polymorphic type because input has type unknown"
        )
    wanted = {"row_to_json": RecordType, "array_to_json": ArrayType}.get(name)
    if wanted is not None and not isinstance(expr.kind, wanted):
        raise undefined_function(name, [expr.kind])
    inner, kind = expr.value, expr.kind
    write = to_jsonb_text if name == "to_jsonb" else to_json_text

    def value(env: Env) -> str | None:
        raw = inner(env)
        return None if raw is None else write(raw, kind, env.session)

    return Expr(JSONB if name == "to_jsonb" else JSON, value, name)


def member_key(key: str | None, position: int, name: str) -> str:
    """The key of a member that is built; 22023 or 22004 for none."""
    if key is not None:
        return key
    if name == "jsonb_object_agg":
        raise EngineError("22023", "field name must not be null")
    if name == "json_object_agg":
        raise EngineError("22004", "null value not allowed for object key")
    if name == "json_build_object":
        raise EngineError("22004", "null value not allowed for object key")
    raise EngineError("22023", f"argument {position}: key must not be null")


@polymorphic("jsonb_build_object", "json_build_object")
def build_object(arguments: list[Expr], name: str) -> Expr:
    """``jsonb_build_object`` and ``json_build_object``."""
    if len(arguments) % 2:
        raise EngineError(
            "22023",
            "argument list must have even number of elements",
            hint=f"The arguments of {name}() must consist of alternating keys and values.",
        )
    keys = [determined(expr) for expr in arguments[::2]]
    members = [determined(expr) for expr in arguments[1::2]]

    def value(env: Env) -> str:
        pairs = []
        for index, (key, member) in enumerate(zip(keys, members, strict=True)):
            text = member_key(key_text(key, env), 2 * index + 1, name)
            shown = to_json_text(member.value(env), member.kind, env.session)
            pairs.append(f"{jsonb.dumps(text)} : {shown}")
        return "{" + ", ".join(pairs) + "}"

    return _either(value, name)


def key_text(key: Expr, env: Env) -> str | None:
    """What a value is called as a key: the text of what ``to_json`` makes of it."""
    raw = key.value(env)
    if raw is None:
        return None
    if key.kind in (JSON, JSONB) or isinstance(key.kind, ArrayType | RecordType):
        raise EngineError("22023", "key value must be scalar, not array, composite, or json")
    shown = to_json_text(raw, key.kind, env.session)
    return str(jsonb.loads(shown)) if shown.startswith('"') else shown


@polymorphic("jsonb_build_array", "json_build_array")
def _build_array(arguments: list[Expr], name: str) -> Expr:
    items = [determined(expr) for expr in arguments]

    def value(env: Env) -> str:
        shown = [to_json_text(expr.value(env), expr.kind, env.session) for expr in items]
        return "[" + ", ".join(shown) + "]"

    return _either(value, name)


def _either(value: Any, name: str) -> Expr:
    """A text of JSON as json, or parsed as jsonb, by the function's name."""
    if name.startswith("json_"):
        return Expr(JSON, value, name)
    return Expr(JSONB, lambda env: jsonb.parse(value(env)), name)


def _array_length(_: Session, text: str) -> int:
    value = jsonb.tree(text)
    if not isinstance(value, list):
        word = "a non-array" if isinstance(value, dict) else "a scalar"
        raise EngineError("22023", f"cannot get array length of {word}")
    return len(value)


def _pretty(value: Any, indent: int = 0) -> str:
    blank = "    " * (indent + 1)
    if isinstance(value, dict) and value:
        members = [
            f"{blank}{jsonb.dumps(key)}: {_pretty(item, indent + 1)}" for key, item in value.items()
        ]
        return "{\n" + ",\n".join(members) + "\n" + "    " * indent + "}"
    if isinstance(value, list) and value:
        items = [blank + _pretty(item, indent + 1) for item in value]
        return "[\n" + ",\n".join(items) + "\n" + "    " * indent + "]"
    if isinstance(value, dict | list):
        mark = "{}" if isinstance(value, dict) else "[]"
        return f"{mark[0]}\n{'    ' * indent}{mark[1]}"
    return jsonb.dumps(value)


def _as_jsonb(kind: SqlType) -> bool:
    return kind in (JSONB, UNKNOWN)


def _as_texts(kind: SqlType) -> bool:
    return kind is UNKNOWN or (isinstance(kind, ArrayType) and kind.element in STRINGS)


@polymorphic(
    "jsonb_extract_path", "jsonb_extract_path_text", takes=(_as_jsonb, textual), more=textual
)
def _extract_path(arguments: list[Expr], name: str) -> Expr:
    as_string = name.endswith("_text")
    source = converted(arguments[0], JSONB).value
    steps = [converted(item, TEXT).value for item in arguments[1:]]

    def value(env: Env) -> str | None:
        text, path = source(env), [step(env) for step in steps]
        if text is None:
            return None
        return json_operators.follow(text, path, as_string=as_string)

    return Expr(TEXT if as_string else JSONB, value, name)


@polymorphic("jsonb_object", takes=(_as_texts, _as_texts), optional=1)
def _object(arguments: list[Expr], name: str) -> Expr:
    parts = [converted(item, TEXTS).value for item in arguments]

    def value(env: Env) -> str | None:
        found = [part(env) for part in parts]
        if None in found:
            return None
        if len(found) == 1:
            if len(found[0]) % 2:
                raise EngineError("2202E", "array must have even number of elements")
            pairs = list(zip(found[0][::2], found[0][1::2], strict=True))
        else:
            if len(found[0]) != len(found[1]):
                raise EngineError("2202E", "mismatched array dimensions")
            pairs = list(zip(*found, strict=True))
        if any(key is None for key, _ in pairs):
            raise EngineError("22004", "null value not allowed for object key")
        return jsonb.dumps(dict(pairs))

    return Expr(JSONB, value, name)


builtin("jsonb_typeof", (JSONB,), TEXT, lambda _, a: jsonb.kind(a))
builtin("json_typeof", (JSON,), TEXT, lambda _, a: jsonb.kind(a.strip()))
builtin("jsonb_array_length", (JSONB,), INT4, _array_length)
builtin("json_array_length", (JSON,), INT4, _array_length)
builtin(
    "jsonb_strip_nulls",
    (JSONB, BOOL),
    JSONB,
    lambda _, a, b=False: jsonb.strip_nulls(a, in_arrays=b),
    1,
)
builtin("jsonb_pretty", (JSONB,), TEXT, lambda _, a: _pretty(jsonb.tree(a)))
builtin(
    "jsonb_set",
    (JSONB, TEXTS, JSONB, BOOL),
    JSONB,
    lambda _, a, b, c, d=True: json_operators.with_path(a, b, c, create=d),
    1,
)
builtin(
    "jsonb_insert",
    (JSONB, TEXTS, JSONB, BOOL),
    JSONB,
    lambda _, a, b, c, d=False: json_operators.inserted(a, b, c, after=d),
    1,
)
builtin("jsonb_exists", (JSONB, TEXT), BOOL, lambda _, a, b: jsonb.has_key(a, b))
builtin("jsonb_contains", (JSONB, JSONB), BOOL, lambda _, a, b: json_operators.contains(a, b))
