"""How the emulator says no: one exception that carries what Postgres would have sent.

The engine knows SQLSTATEs and messages, not psycopg and not `core.errors`; the backend and the
connection translate `EngineError` into theirs.
"""

from __future__ import annotations

from typing import NoReturn


class EngineError(Exception):
    """What Postgres would report; a broken constraint names its table, and its column or itself."""

    def __init__(
        self,
        sqlstate: str,
        message: str,
        *,
        detail: str | None = None,
        hint: str | None = None,
        table: str | None = None,
        column: str | None = None,
        constraint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message
        self.detail = detail
        self.hint = hint
        self.table = table
        self.column = column
        self.constraint = constraint


def raise_exception(message: str) -> NoReturn:
    """PL/pgSQL's ``raise exception`` without a code: P0001."""
    raise EngineError("P0001", message)


def shown(value: object) -> str:
    """A value as ``raise exception '%'`` prints it."""
    return "<NULL>" if value is None else str(value)


def task_cancelled() -> EngineError:
    """AB001."""
    return EngineError("AB001", "Task has been cancelled")


def invalid_strategy(message: str) -> EngineError:
    """AB003."""
    return EngineError("AB003", message)


def undefined_table(name: str) -> EngineError:
    """42P01, as Postgres words it for a name within the schema ``absurd``."""
    return EngineError("42P01", f'relation "absurd.{name}" does not exist')


def invalid_text(type_name: str, text: str) -> EngineError:
    """22P02, the text form of a value is not one of its type."""
    return EngineError("22P02", f'invalid input syntax for type {type_name}: "{text}"')


class Unsupported(EngineError):
    """0A000: the emulator does not support what a statement needs; says what to do instead."""

    def __init__(self, what: str, text: str = "") -> None:
        quoted = f": {text}" if text else ""
        super().__init__(
            "0A000",
            f"the in-memory Absurd does not support {what}{quoted}\nRun it on Postgres (pytest: "
            "the fixture absurd_postgres_url, or absurd_backend with --absurd-backend postgres), "
            "or read every table with db.tables().",
        )
        self.what = what
