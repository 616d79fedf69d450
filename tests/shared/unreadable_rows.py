"""Rows that another client may legally store, and that this program cannot or should not expect."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg

from absurd_contimg.backends.memory import MemoryBackend
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.records import Json, SpawnedTask, SpawnOptions
from absurd_contimg.core.step_journal import JOURNAL_PREFIXES

JSON_VALUES = {
    "whole number of 5000 digits": '{"n": 1' + "0" * 5000 + "}",
    "number of 401 digits, beyond a float": '{"n": 1' + "0" * 400 + ".5}",
    "3000 levels": "[" * 3000 + "]" * 3000,
    "400 levels below a name": '{"group_id": ' + "[" * 400 + "]" * 400 + "}",
    "null": "null",
    "true": "true",
    "number": "-7.5",
    "text": '"text \\u001b[2J"',
    "list": "[1, [2]]",
    "empty object": "{}",
    "object for a name": '{"group_id": {"a": []}, "outputs": 5, "verdict": [1], "config_ref": 2}',
    "journal without starts": '{"starts": 5, "waits": 3, "outside": 4}',
    "journal of texts": '{"starts": "abc", "waits": "abc"}',
    "start without a number": '{"starts": [{"start": "x"}]}',
    "start without a time zone": '{"starts": [{"start": 1, "attempt": 1, "run_id": "r", "worker":'
    ' 5, "started_at": "2026-01-01", "outcome": {"action": [], "advice": 5, "until": null}}]}',
    "start in a strange time": '{"starts": [{"start": 1, "attempt": 1, "run_id": "r", "worker": "",'
    ' "started_at": "soon"}]}',
    "outcome of objects": '{"outside": {"action": {}, "kind": {}, "until": 5}, "waits": {"a": {}}}',
    "reason of objects": '{"name": {}, "message": [1], "kind": {"a": 1}, "rule": [], "step": {},'
    ' "action": [], "evidence": 5, "path": {}, "advice": 7, "logs": {"a": 1}, "traceback": []}',
    "evidence of objects": '{"name": "x", "evidence": {"exceptions": [{"type_names": [{}]}, 5]}}',
}
TIMES = ("20000-01-01 00:00Z", "0044-03-15 00:00Z BC", "infinity", "-infinity")

JSON_COLUMNS = (
    *(("t", column) for column in ("params", "headers", "completed_payload")),
    *(("r", column) for column in ("event_payload", "result", "failure_reason")),
)
CHECKPOINTS = ("image", "$timeout:x", *(prefix + "image" for prefix in JOURNAL_PREFIXES), "$start:")
TIME_COLUMNS = (
    *(("t", column) for column in ("enqueue_at", "first_started_at", "cancelled_at")),
    *(("r", column) for column in ("available_at", "claim_expires_at", "started_at", "failed_at")),
    *(("r", column) for column in ("completed_at", "created_at")),
    ("c", "updated_at"),
)


async def spawn_unchecked(
    backend: Backend, queue: str, options: SpawnOptions, name: str = "task", params: Json = None
) -> SpawnedTask:
    """Spawn as a client that checks none of its arguments."""
    method: Any = type(backend).spawn_task
    spawned: SpawnedTask = await method.__wrapped__(backend, queue, name, params, options)
    return spawned


Row = tuple[str, str, str]
"""The column or checkpoint, the name of the value, the statement that puts it there."""


def rows(queue: str) -> Iterator[Row]:
    """Every value in every column: the statement takes the value and the task's id."""
    for kind, column in JSON_COLUMNS:
        for name, value in JSON_VALUES.items():
            statement = (
                f'update absurd."{kind}_{queue}" set {column} = %s::jsonb where task_id = %s'
            )
            yield column, name, statement.replace("%s::jsonb", f"'{value}'::jsonb")
    for checkpoint in CHECKPOINTS:
        for name, value in JSON_VALUES.items():
            yield (
                checkpoint,
                name,
                (
                    f'insert into absurd."c_{queue}" (task_id, checkpoint_name, state, status)'
                    f" values (%s, '{checkpoint}', '{value}'::jsonb, 'committed')"
                ),
            )
    for kind, column in TIME_COLUMNS:
        for time in TIMES:
            yield (
                column,
                time,
                (
                    f"update absurd.\"{kind}_{queue}\" set {column} = '{time}'::timestamptz"
                    " where task_id = %s"
                ),
            )


@contextlib.contextmanager
def connected(backend: Backend, url: str) -> Iterator[Any]:
    """A connection to the backend's database, as another client has it."""
    if isinstance(backend, MemoryBackend):
        yield EmulatorConnection(backend.db.connect(autocommit=True))
        return
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


class EmulatorConnection:
    """The emulator refuses 3,000 levels and years of other lengths by itself."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def execute(self, statement: str) -> None:
        """Execute a statement, with fewer levels and the ends of time."""
        for refused, taken in (
            *(("[" * 2700, ""), ("]" * 2700, "")),
            *((TIMES[0], "infinity"), (TIMES[1], "-infinity")),
        ):
            statement = statement.replace(refused, taken)
        self.connection.execute(statement)


def store(connection: Any, statement: str, task: UUID) -> None:
    """Put a value into the row of a task."""
    connection.execute(statement.replace("%s", f"'{task}'"))
