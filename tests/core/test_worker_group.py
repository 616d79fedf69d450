"""Workers of several queues in one process."""

from __future__ import annotations

from typing import Any

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.core.worker_group import run_workers


async def test_a_task_that_sleeps_counts_as_idle(backend: Backend) -> None:
    """Its hour is not waited for; another run goes on with it."""
    queues = ("orders", "parcels")

    async def sleeps(_params: Any, ctx: TaskContext) -> None:
        await ctx.sleep_for("cooling off", 3600)

    tasks = TaskRegistry()
    tasks.add("sleeps", sleeps)
    for queue in queues:
        await backend.create_queue(queue)
    task = await backend.spawn_task("parcels", "sleeps", {})
    await run_workers(
        [
            Worker(backend, tasks, WorkerSettings(queue, "w", poll_interval_seconds=0.02))
            for queue in queues
        ],
        until_idle=True,
    )
    outcome = await backend.get_task_result("parcels", task.task_id)
    assert outcome is not None
    assert outcome.state == "sleeping"
