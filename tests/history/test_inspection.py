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
from absurd_contimg.core.errors import BackendError

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
    assert len(statements) == 5


def test_names_of_calls_come_from_the_protocols() -> None:
    """Every public method of a backend is a call; the reads are those of `Inspection`."""
    public = {name for name in vars(MemoryBackend) if not name.startswith("_")}
    with_body = {"history", "find_tasks", "count_tasks", "recent_activity", "suspect_tasks"}
    assert public | with_body == CALLS
    assert {"histories", "list_tasks", "get_task_result"} <= READS
    assert "claim_task" not in READS


async def test_tasks_are_found_by_the_end_of_their_id_and_by_their_params(backend: Backend) -> None:
    tasks = [
        (await backend.spawn_task(QUEUE, "task", {"group_id": name, "n": [1]})).task_id
        for name in ("a", "b", "a%")
    ]
    (by_id,) = await backend.list_tasks(QUEUE, id_suffix=str(tasks[1])[-12:])
    assert by_id.task_id == tasks[1]
    (by_group,) = await backend.list_tasks(QUEUE, params={"group_id": "a"})
    assert by_group.task_id == tasks[0]
    assert await backend.list_tasks(QUEUE, id_suffix="%") == []
    assert len(await backend.list_tasks(QUEUE, params={"n": [1]}, id_suffix="")) == 3


async def test_many_tasks_are_retried_together_or_none(backend: Backend) -> None:
    """Each with its own options."""
    failed = []
    for number in range(3):
        task = await backend.spawn_task(QUEUE, "task", {"n": number})
        (claimed,) = await backend.claim_task(QUEUE, "w", 60)
        await backend.fail_run_permanently(QUEUE, claimed.run_id, {"name": "E"})
        failed.append(task.task_id)
    with pytest.raises(BackendError):
        await backend.retry_tasks(QUEUE, {failed[0]: {}, failed[1]: {"max_attempts": "x"}})
    assert len(await backend.list_tasks(QUEUE, states=["failed"])) == 3
    options = {task_id: {"max_attempts": 5 + place} for place, task_id in enumerate(failed)}
    retried = await backend.retry_tasks(QUEUE, options)
    assert [task.task_id for task in retried] == failed
    tasks = {task.task_id: task for task in await backend.list_tasks(QUEUE, states=["pending"])}
    assert [tasks[task_id].max_attempts for task_id in failed] == [5, 6, 7]
    assert await backend.retry_tasks(QUEUE, {}) == []
