"""The contract: supported statements are answered as Postgres answers them, others are refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from absurd_contimg.backends.memory import MemoryDatabase
from absurd_contimg.backends.memory.sql.scope import Env
from conformance.databases import Names
from conformance.supported_statements import REFUSED, SUPPORTED, Statement

NOW = "2026-11-22 10:00:00+00"
Sides = tuple[Any, Any]
PARAMS = (
    '{"i": %d, "f": %s, "s": "\u00e9%d", "n": null, "l": [%d, "a", {"a": 1}], '
    '"o": {"x": {"y": %d}}}'
)


def answer(connection: Any, names: Names, text: str, params: Any = None) -> tuple[Any, ...]:
    """Everything that a client sees of a statement, with ids by their order of appearance."""
    try:
        cursor = connection.execute(text, params)
        if cursor.description is None:
            return ("done", cursor.statusmessage, cursor.rowcount)
        columns = [(column.name, column.type_code) for column in cursor.description]
        rows = names.plain(cursor.fetchall())
        return ("rows", columns, repr(rows), cursor.statusmessage)
    except psycopg.Error as error:
        primary = error.diag.message_primary or str(error)
        if error.sqlstate == "42601":  # the emulator words a syntax error in its own way
            primary = ""
        return ("error", type(error).__name__, error.sqlstate, names.plain(primary))


def fill(connection: Any) -> None:
    """Two queues with eight tasks each, three of them claimed, with checkpoints and an event."""
    connection.execute("select set_config('absurd.fake_now', %s, false)", (NOW,))
    for queue, mode in (("q", "unpartitioned"), ("p", "partitioned")):
        connection.execute("select absurd.create_queue(%s, %s)", (queue, mode))
        for i in range(8):
            options = f'{{"max_attempts": {i % 3 + 1}' + (
                f', "headers": {{"h": {i}}}}}' if i % 2 else "}"
            )
            params = PARAMS % (i, i / 2, i, i, i)
            connection.execute(
                "select absurd.spawn_task(%s, %s, %s, %s)", (queue, f"t{i % 3}", params, options)
            )
        claimed = connection.execute(
            "select run_id, task_id from absurd.claim_task(%s, 'w', 30, 3)", (queue,)
        ).fetchall()
        for run_id, task_id in claimed:
            connection.execute(
                "select absurd.set_task_checkpoint_state(%s, %s, 's1', '1', %s, 60)",
                (queue, task_id, run_id),
            )
        connection.execute("select absurd.emit_event(%s, 'e1', '{\"z\": 1}')", (queue,))


@pytest.fixture(scope="module")
def sides(new_database: Any) -> Iterator[Sides]:
    """Postgres and the emulator with the same tasks."""
    options = {"autocommit": True, "options": "-c timezone=Etc/UTC"}
    with (
        psycopg.connect(new_database(), **options) as real,
        MemoryDatabase().connect(autocommit=True) as emulated,
    ):
        for connection in (real, emulated):
            fill(connection)
        yield real, emulated


def compare(sides: Sides, statements: tuple[Statement, ...]) -> list[str]:
    """The statements that the two sides answer differently, with both answers."""
    differences = []
    names = (Names(), Names())
    for statement in statements:
        text, params = (statement, None) if isinstance(statement, str) else statement
        left, right = (
            answer(connection, known, text, params)
            for connection, known in zip(sides, names, strict=True)
        )
        if left != right:
            differences.append(f"{text} {params}\n  postgres {left}\n  emulator {right}")
    return differences


@pytest.mark.parametrize("construct", SUPPORTED)
def test_supported_statements_are_answered_as_postgres_answers_them(
    sides: Sides, construct: str
) -> None:
    """Columns, types, rows, tags and errors."""
    differences = compare(sides, SUPPORTED[construct])
    assert not differences, "\n".join(differences)


@pytest.fixture(scope="module")
def filled() -> MemoryDatabase:
    """A database in memory with the tasks."""
    db = MemoryDatabase()
    fill(db.connect(autocommit=True))
    return db


@pytest.mark.parametrize("text", REFUSED)
def test_other_statements_are_refused_with_advice(filled: MemoryDatabase, text: str) -> None:
    """The error quotes the statement and names both ways out; nothing of the statement runs."""
    calls = len(filled.noted)
    with pytest.raises(psycopg.NotSupportedError) as caught:
        filled.connect(autocommit=True).execute(text)
    assert text in str(caught.value)
    assert "--absurd-backend postgres" in str(caught.value)
    assert "the fixture absurd_postgres_url" in str(caught.value)
    assert "db.tables()" in str(caught.value)
    assert len(filled.noted) == calls


JOINS = (
    "join absurd.r_wide r on r.task_id = t.task_id",
    "join absurd.r_wide r using (task_id)",
    "left join absurd.r_wide r using (task_id)",
    "left join absurd.r_wide r on t.task_id = r.task_id and r.attempt = 1",
    ", absurd.r_wide r where r.task_id = t.task_id",
)


@pytest.mark.parametrize("join", JOINS)
def test_a_join_looks_only_at_rows_that_match(join: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 100 rows on each side, conditions see some hundreds of pairs and not 10,000."""
    connection = MemoryDatabase().connect(autocommit=True)
    connection.execute("select absurd.create_queue('wide')")
    for _ in range(100):
        connection.execute("select absurd.spawn_task('wide', 'task', '{}')")
    seen = 0
    with_rows = Env.with_rows

    def counting(env: Env, rows: Any) -> Env:
        nonlocal seen
        seen += 1
        return with_rows(env, rows)

    monkeypatch.setattr(Env, "with_rows", counting)
    query = f"select t.task_id, r.run_id from absurd.t_wide t {join}"
    assert len(connection.execute(query).fetchall()) == 100
    assert seen <= 300
