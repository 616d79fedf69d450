"""Single statements: columns, types, rows, errors and hints are the same on both sides."""

from __future__ import annotations

from typing import Any

import psycopg

from absurd_contimg.backends.memory import MemoryDatabase
from conformance.statements import run_all

NOW = "2026-11-22 10:00:00+00"


def answer(connection: Any, text: str, params: Any) -> tuple[Any, ...]:
    """Everything that a client sees of a statement."""
    try:
        cursor = connection.execute(text, params)
        if cursor.description is None:
            return ("done", cursor.statusmessage, cursor.rowcount)
        columns = [(column.name, column.type_code) for column in cursor.description]
        return ("rows", columns, repr(cursor.fetchall()), cursor.rowcount)
    except psycopg.Error as error:
        primary = error.diag.message_primary or str(error)
        if error.sqlstate == "42601":  # how Postgres words a syntax error is not ours to copy
            primary = ""
        return ("error", type(error).__name__, error.sqlstate, primary, error.diag.message_hint)


def test_every_statement_is_answered_alike(database_url: str) -> None:
    """Several hundred statements, each on both sides."""
    differences: list[str] = []
    count = 0
    with (
        psycopg.connect(database_url, autocommit=True, options="-c timezone=Etc/UTC") as real,
        MemoryDatabase().connect(autocommit=True) as mine,
    ):
        for connection in (real, mine):
            connection.execute("select set_config('absurd.fake_now', %s, false)", (NOW,))

        def compare(text: str, *params: object, **named: object) -> None:
            nonlocal count
            count += 1
            given = named or (params or None)
            left, right = (answer(connection, text, given) for connection in (real, mine))
            if left != right:
                differences.append(f"{text} {given}\n  postgres {left}\n  memory   {right}")

        run_all(compare)
    assert not differences, "\n".join(differences)
    assert count > 250
