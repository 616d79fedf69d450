"""Reading the histories of many tasks: complete, of one moment, with few queries."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg import AsyncConnection

from absurd_contimg.backends.memory import MemoryBackend
from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.backend import CALLS, READS, Backend

QUEUE = "dsa110-pipeline"


async def spawn_mixture(backend: Backend, count: int) -> list[UUID]:
    """Tasks with runs of every kind: failed and pending again, sleeping, waiting, completed."""
    spawned = [await backend.spawn_task(QUEUE, "task", number) for number in range(count)]
    for number, run in enumerate(await backend.claim_task(QUEUE, "worker", 30, count)):
        await backend.set_task_checkpoint_state(QUEUE, run.task_id, "step", number, run.run_id)
        if number % 4 == 0:
            await backend.fail_run(QUEUE, run.run_id, {"name": "Error"})
        elif number % 4 == 1:
            wake_at = await backend.current_time() + timedelta(hours=1)
            await backend.schedule_run(QUEUE, run.run_id, wake_at)
        elif number % 4 == 2:
            await backend.await_event(QUEUE, run.task_id, run.run_id, "$wait", "event")
        else:
            await backend.complete_run(QUEUE, run.run_id, {"done": number})
    return [task.task_id for task in spawned]


async def test_histories_of_many_tasks_are_those_of_each(backend: Backend) -> None:
    """In the order asked for; a task that does not exist is left out."""
    ids = await spawn_mixture(backend, 9)
    asked = [ids[3], uuid4(), *reversed(ids)]
    histories = await backend.histories(QUEUE, asked)
    assert [history.task.task_id for history in histories] == [ids[3], *reversed(ids)]
    assert histories == [await backend.history(QUEUE, each.task.task_id) for each in histories]
    assert {len(each.runs) for each in histories} == {1, 2}
    assert sum(len(each.waits) for each in histories) == 2
    assert all(each.checkpoints[0].checkpoint_name == "step" for each in histories)
    assert await backend.histories(QUEUE, []) == []


@pytest.mark.parametrize("count", [1, 40])
async def test_postgres_reads_many_histories_with_a_constant_number_of_queries(
    database_url: str, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """One statement for the snapshot and one for each of the four tables."""
    async with PostgresBackend(database_url) as backend:
        await backend.create_queue(QUEUE)
        ids = await spawn_mixture(backend, count)
        statements = []
        execute = AsyncConnection.execute

        async def counted(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
            statements.append(query)
            return await execute(self, query, *arguments, **options)

        monkeypatch.setattr(AsyncConnection, "execute", counted)
        assert len(await backend.histories(QUEUE, ids)) == count
    assert len(statements) == 5 + 1  # the pool checks its connection


def test_names_of_calls_come_from_the_protocols() -> None:
    """Every public method of a backend is a call; the reads are those of `Inspection`."""
    public = {name for name in vars(MemoryBackend) if not name.startswith("_")}
    assert public | {"history"} == CALLS
    assert {"histories", "list_tasks", "get_task_result"} <= READS
    assert "claim_task" not in READS
