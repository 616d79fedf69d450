"""Functions about the server and the session, and those that choose between values."""

from __future__ import annotations

from typing import Any

from absurd_contimg.backends.memory import catalog
from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.session_state import SessionState as Session
from absurd_contimg.backends.memory.sql.casts import is_implicit
from absurd_contimg.backends.memory.sql.coercion import (
    TIMES,
    common_type,
    converted,
    determined,
    unified,
)
from absurd_contimg.backends.memory.sql.comparison import comparison, sort_key
from absurd_contimg.backends.memory.sql.registry import (
    anything,
    builtin,
    polymorphic,
    textual,
    undefined_function,
)
from absurd_contimg.backends.memory.sql.scope import Env, Expr
from absurd_contimg.backends.memory.sql.types import (
    BOOL,
    BY_NAME,
    INT2,
    INT4,
    INTEGERS,
    JSON,
    NAME,
    TEXT,
    TIMESTAMPTZ,
    UUID,
    VARCHAR,
)
from absurd_contimg.backends.memory.values import times

VERSION = "PostgreSQL 18.6, emulated in memory by absurd-contimg"


def _current_setting(session: Session, name: str, missing_ok: bool = False) -> str | None:
    value = session.setting(name)
    if value is None and not missing_ok:
        raise EngineError("42704", f'unrecognized configuration parameter "{name}"')
    return value


@polymorphic("set_config")
def _set_config(arguments: list[Expr], name: str) -> Expr:
    if len(arguments) != 3:
        raise undefined_function(name, [item.kind for item in arguments])
    kinds = [item.kind for item in arguments]
    if not all(
        is_implicit(kind, wanted) for kind, wanted in zip(kinds, (TEXT, TEXT, BOOL), strict=True)
    ):
        raise undefined_function(name, kinds)
    setting, text, local = (
        converted(expr, kind).value
        for expr, kind in zip(arguments, (TEXT, TEXT, BOOL), strict=True)
    )

    def value(env: Env) -> str | None:
        target = setting(env)
        if target is None:
            raise EngineError("22004", "SET requires parameter name")
        env.session.set(target, text(env), local=bool(local(env)))
        return env.session.setting(target) or ""

    return Expr(TEXT, value, name)


@polymorphic("to_regclass", takes=(textual,))
def _to_regclass(arguments: list[Expr], name: str) -> Expr:
    return to_regclass(arguments[0], name)


def to_regclass(expr: Expr, name: str, *, must_exist: bool = False) -> Expr:
    """The relation that a text names; null, or 42P01 if it `must_exist`, for none such."""
    inner = converted(expr, TEXT).value

    def value(env: Env) -> str | None:
        text = inner(env)
        if text is None:
            return None
        found = existing(env, text)
        if found is None and must_exist:
            raise EngineError("42P01", f'relation "{text}" does not exist')
        return found

    def existing(env: Env, text: str) -> str | None:
        schema, _, table = text.replace('"', "").rpartition(".")
        if schema not in ("", "absurd"):
            if schema in ("pg_catalog", "information_schema"):
                raise unsupported(text, "catalogues")
            return None
        return text if schema and catalog.relations(env.tx).get(env.tx, table) is not None else None

    return Expr(BY_NAME["regclass"], value, name)


@polymorphic("pg_typeof", takes=(anything,))
def _typeof(arguments: list[Expr], name: str) -> Expr:
    if arguments[0].parameter is not None:
        determined(arguments[0])
    shown = arguments[0].kind.shown
    return Expr(BY_NAME["regtype"], lambda _: shown, name)


# -- choosing -----------------------------------------------------------------------------------


@polymorphic("coalesce")
def _coalesce(arguments: list[Expr], name: str) -> Expr:
    kind = common_type([item.kind for item in arguments], "COALESCE")
    values = [converted(item, kind).value for item in arguments]

    def value(env: Env) -> Any:
        for evaluate in values:
            found = evaluate(env)
            if found is not None:
                return found
        return None

    return Expr(kind, value, name)


@polymorphic("nullif")
def _nullif(arguments: list[Expr], name: str) -> Expr:
    if len(arguments) != 2:
        raise undefined_function(name, [item.kind for item in arguments])
    left, right = arguments
    same = comparison("=", left, right).value
    kinds = (left.kind, right.kind)
    kept = unified(left, right, "=")[0]
    if all(kind in INTEGERS for kind in kinds) or all(kind in TIMES for kind in kinds):
        kept = left  # Postgres compares these as they are
    elif left.kind is NAME:
        kept = left
    elif left.kind is VARCHAR:
        kept = converted(left, TEXT)
    return Expr(kept.kind, lambda env: None if same(env) else kept.value(env), name)


@polymorphic("greatest", "least")
def _extreme(arguments: list[Expr], name: str) -> Expr:
    choose = max if name == "greatest" else min
    kind = common_type([item.kind for item in arguments], name.upper())
    if kind is JSON:
        raise EngineError("42883", "could not identify a comparison function for type json")
    values = [converted(item, kind).value for item in arguments]

    def value(env: Env) -> Any:
        found = [item for evaluate in values if (item := evaluate(env)) is not None]
        return choose(found, key=lambda item: sort_key(kind, item)) if found else None

    return Expr(kind, value, name)


@polymorphic("num_nulls", "num_nonnulls", takes=(anything,), more=anything)
def _count_nulls(arguments: list[Expr], name: str) -> Expr:
    wanted = name == "num_nulls"
    values = [item.value for item in arguments]
    return Expr(INT4, lambda env: sum((one(env) is None) is wanted for one in values), name)


def _uuid_version(number: int) -> int | None:
    """The version of an RFC 9562 UUID; None for another variant."""
    return number >> 76 & 15 if number >> 62 & 3 == 2 else None


def _uuid_time(number: int) -> int | None:
    """When an id of version 1 or 7 was made; None for others (RFC 9562, 5.1 and 5.7)."""
    version = _uuid_version(number)
    if version == 7:
        return (number >> 80) * 1000
    if version != 1:
        return None
    ticks = (number >> 64 & 0xFFF) << 48 | (number >> 80 & 0xFFFF) << 32 | number >> 96
    return ticks // 10 - _GREGORIAN_US


_GREGORIAN_US = 12_219_292_800_000_000
"""From 15 October 1582, where the times of version 1 begin, to 1970."""


builtin("current_setting", (TEXT, BOOL), TEXT, _current_setting, 1)
builtin("uuidv7", (), UUID, lambda s: s.next_uuid())
builtin("uuidv4", (), UUID, lambda s: s.db.random_uuid())
builtin("gen_random_uuid", (), UUID, lambda s: s.db.random_uuid())
builtin("uuid_extract_version", (UUID,), INT2, lambda _, a: _uuid_version(a))
builtin("uuid_extract_timestamp", (UUID,), TIMESTAMPTZ, lambda _, a: _uuid_time(a))
builtin("pg_backend_pid", (), INT4, lambda s: s.session_id)
builtin("pg_is_in_recovery", (), BOOL, lambda _: False)
builtin("random", (), BY_NAME["float8"], lambda s: s.db.random_uuid() % (1 << 53) / (1 << 53))
builtin("version", (), TEXT, lambda _: VERSION)
builtin("current_database", (), NAME, lambda _: "memory")
builtin("current_catalog", (), NAME, lambda _: "memory")
builtin("current_user", (), NAME, lambda _: "postgres")
builtin("session_user", (), NAME, lambda _: "postgres")
builtin("current_schema", (), NAME, lambda _: "public")


@polymorphic(
    "pg_advisory_lock",
    "pg_advisory_xact_lock",
    "pg_try_advisory_lock",
    "pg_try_advisory_xact_lock",
    "pg_advisory_unlock",
    "pg_advisory_lock_shared",
)
def _lock(_: list[Expr], name: str) -> Expr:
    raise unsupported(name, "advisory locks")


def _sleep(_: Session, seconds: float) -> str:
    if seconds > 0:
        raise unsupported("pg_sleep", "waiting; move the clock instead")
    return ""


builtin("pg_sleep", (BY_NAME["float8"],), BY_NAME["void"], _sleep)


def today(session: Session) -> int:
    """The session's date."""
    now = session.transaction_time()
    return (now + times.utc_offset_us(now, session.zone)) // times.DAY_US
