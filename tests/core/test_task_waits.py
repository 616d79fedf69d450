"""A run that awaits a task of another queue, with workers that run until they are idle."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.records import TaskResult
from absurd_contimg.core.task_waits import Standstill
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.core.worker_group import run_workers
from absurd_contimg.simulation.runtime.loop import in_virtual_time

START = datetime(2026, 1, 1, tzinfo=UTC)
HandlerTable = Mapping[str, Mapping[str, Any]]


def waits_for(task: str, queue: str) -> Any:
    async def handler(_params: Any, ctx: TaskContext) -> Any:
        child = await ctx.spawn(task, {}, queue=queue)
        return (await ctx.await_task_result(child, queue)).result

    return handler


async def leaf(_params: Any, _ctx: TaskContext) -> int:
    return 7


async def slow_leaf(_params: Any, _ctx: TaskContext) -> int:
    await asyncio.sleep(100)
    return 7


async def sleeping_leaf(_params: Any, ctx: TaskContext) -> int:
    await ctx.sleep_for("pause", 3600)
    return 7


def outcome(handlers: HandlerTable, *others: str, concurrency: int = 1) -> TaskResult:
    """Of the task ``parent`` in the queue ``q``, by a worker for each queue of `handlers`."""

    async def main() -> TaskResult:
        loop = asyncio.get_running_loop()
        database = MemoryDatabase(clock=lambda: START + timedelta(seconds=loop.time()))
        backend = MemoryBackend(database)
        for queue in (*handlers, *others):
            await backend.create_queue(queue)
        task = await backend.spawn_task("q", "parent", {})
        workers = []
        for queue, of_queue in handlers.items():
            registry = TaskRegistry()
            for name, handler in of_queue.items():
                registry.add(name, handler)
            settings = WorkerSettings(queue, f"of-{queue}", concurrency=concurrency)
            workers.append(Worker(backend, registry, settings))
        async with asyncio.timeout(1000):
            await run_workers(workers, until_idle=True)
        result = await backend.get_task_result("q", task.task_id)
        assert result is not None
        return result

    return in_virtual_time(main())


@pytest.mark.parametrize("child", [leaf, slow_leaf])
def test_workers_until_idle_wait_for_one_another(child: Any) -> None:
    """The worker of the child was idle, and gone, before the child was spawned."""
    parent = waits_for("child", "children")
    ended = outcome({"children": {"child": child}, "q": {"parent": parent}})
    assert (ended.state, ended.result) == ("completed", 7)


def test_more_slots_let_a_task_of_the_own_queue_go_on() -> None:
    handlers = {
        "q": {"parent": waits_for("middle", "middles"), "leaf": leaf},
        "middles": {"middle": waits_for("leaf", "q")},
    }
    assert outcome(handlers, concurrency=2).result == 7
    with pytest.raises(Standstill, match=r"'middle' .* task 'leaf' .*'q'.* pending.* concurrency"):
        outcome(handlers)


@pytest.mark.parametrize(
    ("child", "says"),
    [
        ({}, "'parent' .* task 'child' .* queue 'children', which is pending.*run_workers"),
        ({"children": {"other": leaf}}, "which is sleeping.* no handler of that name"),
        ({"children": {"child": sleeping_leaf}}, "which is sleeping, and it goes on later"),
    ],
)
def test_a_wait_that_nobody_ends_is_said(child: HandlerTable, says: str) -> None:
    """It hung without a word."""
    handlers = {"q": {"parent": waits_for("child", "children")}, **child}
    with pytest.raises(Standstill, match=says):
        outcome(handlers, *({"children"} - {*child}))


def test_a_step_beside_the_wait_is_progress() -> None:
    async def parent(_params: Any, ctx: TaskContext) -> str:
        child = await ctx.spawn("child", {}, queue="children")
        wait = asyncio.create_task(ctx.await_task_result(child, "children"))
        await ctx.step("work", lambda: asyncio.sleep(100))
        wait.cancel()
        return "worked"

    assert outcome({"q": {"parent": parent}}, "children").result == "worked"


def test_a_queue_that_is_not_there_is_said_at_once() -> None:
    """The call was repeated for the length of the lease."""
    ended = outcome({"q": {"parent": waits_for("child", "childern")}})
    assert "there is no queue 'childern': create it" in str(ended.failure_reason)
