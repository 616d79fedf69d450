"""Records made of JSON objects: ``jsonb_to_record`` and ``jsonb_to_recordset``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from absurd_contimg.backends.memory import jsonb
from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.session_state import SessionState as Session
from absurd_contimg.backends.memory.sql.coercion import converted
from absurd_contimg.backends.memory.sql.registry import undefined_function
from absurd_contimg.backends.memory.sql.scope import ColumnInfo, Env, Expr, Row
from absurd_contimg.backends.memory.sql.types import (
    JSON,
    JSONB,
    UNKNOWN,
    ArrayType,
    RecordType,
    SqlType,
)

_NAMES = ("jsonb_to_record", "jsonb_to_recordset")


def record_rows(
    name: str, arguments: list[Expr], columns: list[ColumnInfo]
) -> Callable[[Env], list[Row]] | None:
    """What gives the rows of a call; None if the function is no such one."""
    if name not in _NAMES:
        return None
    if len(arguments) != 1 or arguments[0].kind not in (JSONB, UNKNOWN):
        raise undefined_function(name, [item.kind for item in arguments])
    for column in columns:
        if isinstance(column.kind, ArrayType | RecordType):
            raise unsupported(f"{column.name} {column.kind.shown}", "a member that is no scalar")
    source = converted(arguments[0], JSONB).value
    several = name == "jsonb_to_recordset"

    def rows(env: Env) -> list[Row]:
        text = source(env)
        if text is None:
            return [] if several else [tuple(None for _ in columns)]
        if not several:
            if jsonb.kind(text) != "object":
                raise unsupported(text, "a record of what is no object")
            return [_row(jsonb.tree(text), columns, env.session)]
        kind = jsonb.kind(text)
        if kind != "array":
            raise EngineError("22023", f"cannot call {name} on a non-array")
        found: list[Row] = []
        for item in jsonb.tree(text):
            if not isinstance(item, dict):
                raise EngineError("22023", f"argument of {name} must be an array of objects")
            found.append(_row(item, columns, env.session))
        return found

    return rows


def _row(members: dict[str, Any], columns: list[ColumnInfo], session: Session) -> Row:
    return tuple([_value(members.get(one.name), one.kind, session) for one in columns])


def _value(member: Any, kind: SqlType, session: Session) -> Any:
    if kind in (JSONB, JSON):
        return None if member is None else jsonb.dumps(member)
    text = jsonb.as_text(member)
    return None if text is None else kind.read(text, session)
