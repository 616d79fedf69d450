"""`MemoryDatabase.tables`: the same rows as Postgres, in the same Python values."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from absurd_contimg.backends.memory import MemoryDatabase

FAKE_NOW = "2026-01-01 12:00:00+00"
TABLE_NAMES = """
select relname from pg_class
 where relnamespace = 'absurd'::regnamespace and relkind in ('r', 'p') and not relispartition
   and relname not like 'contimg%'
"""
"""Absurd's, without those that this package adds."""


def _fill(connection: Any) -> None:
    """A row or more in every table, with every type of column; times are the fake time."""
    connection.execute("set timezone = 'Etc/UTC'")
    connection.execute(f"set absurd.fake_now = '{FAKE_NOW}'")
    connection.execute("select absurd.create_queue('q')")
    connection.execute("select absurd.create_queue('weekly', 'partitioned')")
    options = Jsonb({"idempotency_key": "k", "headers": None, "cancellation": {"max_delay": 9}})
    for queue in ("q", "weekly"):
        spawn = "select absurd.spawn_task(%s, 'image', %s, %s)"
        connection.execute(spawn, (queue, Jsonb({"field": "3C286", "mhz": 1.5}), options))
        connection.execute(spawn, (queue, None, Jsonb({})))
        claimed = connection.execute("select * from absurd.claim_task(%s, 'w', 60, 2)", (queue,))
        run, task = claimed.fetchone()[:2]
        write = "select absurd.set_task_checkpoint_state(%s, %s, 'step', %s, %s)"
        connection.execute(write, (queue, task, Jsonb([1, None]), run))
        wait = "select absurd.await_event(%s, %s, %s, 'wait', 'arrived', 30)"
        connection.execute(wait, (queue, task, run))


def _plain(tables: dict[str, list[dict[str, object]]]) -> dict[str, list[str]]:
    """Rows as text, ids numbered in ascending order, in the order of that text."""
    values = [value for rows in tables.values() for row in rows for value in row.values()]
    ids = sorted({value for value in values if isinstance(value, UUID)})
    numbers = {value: f"id {number}" for number, value in enumerate(ids)}
    return {
        name: sorted(
            str(
                {
                    column: numbers[value]
                    if isinstance(value, UUID)
                    else value.isoformat()
                    if isinstance(value, datetime)
                    else value
                    for column, value in row.items()
                }
            )
            for row in rows
        )
        for name, rows in tables.items()
    }


def test_tables_are_those_of_postgres(new_database: Callable[[], str]) -> None:
    """Names, columns in order, types and values are those that psycopg loads from Postgres."""
    db = MemoryDatabase(seed=3)
    with db.connect(autocommit=True) as connection:
        _fill(connection)
    expected: dict[str, list[dict[str, object]]] = {}
    with psycopg.connect(new_database(), autocommit=True) as real:
        _fill(real)
        cursor = real.cursor(row_factory=dict_row)
        for (name,) in real.execute(TABLE_NAMES).fetchall():
            table = sql.Identifier("absurd", name)
            expected[name] = cursor.execute(sql.SQL("select * from {}").format(table)).fetchall()
    assert _plain(db.tables()) == _plain(expected)
    assert len(expected) == 12


def test_tables_show_what_is_committed() -> None:
    """Rows of an open transaction are not in them."""
    db = MemoryDatabase()
    with db.connect() as connection:
        connection.execute("select absurd.create_queue('q')")
        assert db.tables().keys() == {"queues"}
    assert db.tables()["t_q"] == []
