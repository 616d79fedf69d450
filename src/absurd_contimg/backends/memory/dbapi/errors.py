"""psycopg's exceptions for the errors of the engine."""

from __future__ import annotations

import psycopg
from psycopg import errors, pq

from absurd_contimg.backends.memory.errors import EngineError

_Field = pq.DiagnosticField


def psycopg_error(error: EngineError) -> psycopg.Error:
    """The exception that psycopg raises for what Postgres reports."""
    given = {
        _Field.SEVERITY: "ERROR",
        _Field.SEVERITY_NONLOCALIZED: "ERROR",
        _Field.SQLSTATE: error.sqlstate,
        _Field.MESSAGE_PRIMARY: error.message,
        _Field.MESSAGE_DETAIL: error.detail,
        _Field.MESSAGE_HINT: error.hint,
        _Field.SCHEMA_NAME: None if error.table is None else "absurd",
        _Field.TABLE_NAME: error.table,
        _Field.COLUMN_NAME: error.column,
        _Field.CONSTRAINT_NAME: error.constraint,
    }
    info: dict[int, bytes | None] = dict.fromkeys(_Field)
    info |= {field: text.encode() for field, text in given.items() if text is not None}
    text = error.message
    if error.detail is not None:
        text += f"\nDETAIL:  {error.detail}"
    if error.hint is not None:
        text += f"\nHINT:  {error.hint}"
    try:
        kind = errors.lookup(error.sqlstate)
    except KeyError:
        kind = errors.get_base_exception(error.sqlstate)
    return kind(text, info=info)


def not_supported(what: str) -> psycopg.NotSupportedError:
    """The refusal of something that psycopg has and the emulator lacks."""
    return psycopg.NotSupportedError(
        f"the in-memory Absurd does not support {what}; run with --absurd-backend postgres"
    )
