"""Why a task waits, from its history, on both backends."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.records import History, Run
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.history.summary import read_histories, summarize
from absurd_contimg.history.wait_reason import find_wait_reason

QUEUE = "dsa110-pipeline"
POLICY = RetryPolicy(backoff_first_seconds=40.0, resource_wait_seconds=60.0)
Handler = Callable[[Any, TaskContext], Awaitable[Any]]


async def worked(backend: Backend, handler: Handler, policy: RetryPolicy = POLICY) -> History:
    """The history of one task once nothing of it is due."""
    tasks = TaskRegistry()
    tasks.add("task", handler)
    settings = WorkerSettings(QUEUE, "worker-1", poll_interval_seconds=0.01, grace_seconds=0.0)
    spawned = await backend.spawn_task(QUEUE, "task", {"group_id": "G"})
    async with asyncio.timeout(20):
        await Worker(backend, tasks, settings, policy=policy).run(until_idle=True)
    history = await backend.history(QUEUE, spawned.task_id)
    assert history is not None
    return history


def live_run(history: History) -> Run:
    return history.runs[-1]


def full_disk(_start: int = 1) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device", "/scratch/g.ms", None, "/data/g.ms")


async def fails_in_tracked_step(_params: Any, ctx: TaskContext) -> Any:
    async def convert(_start: int) -> None:
        full_disk()

    await ctx.tracked_step("convert", convert)


async def fails_in_plain_step(_params: Any, ctx: TaskContext) -> Any:
    async def convert() -> None:
        full_disk()

    await ctx.step("convert", convert)


@pytest.mark.parametrize(
    ("handler", "step"), [(fails_in_tracked_step, "convert"), (fails_in_plain_step, None)]
)
async def test_waiting_for_space_tells_rule_path_advice_and_until(
    backend: Backend, handler: Handler, step: str | None
) -> None:
    """In a tracked step and outside of one: the reason stays with the task while it sleeps."""
    before = await backend.current_time()
    history = await worked(backend, handler)
    waiting = find_wait_reason(history)
    assert waiting is not None
    assert (waiting.cause, waiting.kind, waiting.rule) == ("resource", "resource", "disk-full")
    assert (waiting.path, waiting.step) == ("/data/g.ms", step)
    assert "Free space" in str(waiting.advice)
    assert "No space left on device" in str(waiting.message)
    assert waiting.until == live_run(history).available_at
    assert waiting.until is not None
    assert timedelta(seconds=59) < waiting.until - before < timedelta(seconds=80)
    assert "disk-full (/data/g.ms)" in str(waiting)
    (summary,) = map(summarize, await read_histories(backend, QUEUE))
    assert summary == summarize(history)
    assert (summary.waiting, summary.group, summary.worker) == (waiting, "G", None)


async def test_a_missing_file_of_a_rename_is_its_source(backend: Backend) -> None:
    async def handler(_params: Any, _ctx: TaskContext) -> None:
        os.rename("/no/such/file", "/no/such/place")

    summary = summarize(await worked(backend, handler))
    assert summary.waiting is None
    assert summary.last_failure is not None
    assert (summary.last_failure.rule, summary.last_failure.path) == (
        "path-missing",
        "/no/such/file",
    )


async def test_a_sleep_after_a_shortage_is_a_sleep(backend: Backend) -> None:
    """What the journal says of an earlier wait is not taken for the present one."""
    full = [True, False]

    async def handler(_params: Any, ctx: TaskContext) -> Any:
        async def convert() -> None:
            if full.pop(0):
                full_disk()

        await ctx.step("convert", convert)
        await ctx.sleep_for("pause", 3600)

    waiting = find_wait_reason(
        await worked(backend, handler, RetryPolicy(resource_wait_seconds=0.0))
    )
    assert full == []
    assert waiting is not None
    assert (waiting.cause, waiting.rule) == ("time", None)


async def test_other_reasons_to_wait_are_told_apart(backend: Backend) -> None:
    async def busy(_params: Any, _ctx: TaskContext) -> Any:
        raise OSError(errno.EBUSY, "busy", "/data/table.lock")

    async def awaits(_params: Any, ctx: TaskContext) -> Any:
        await ctx.await_event("weather", timeout=600)

    retry = find_wait_reason(await worked(backend, busy))
    assert retry is not None
    assert (retry.cause, retry.rule, retry.path) == ("retry", "busy", "/data/table.lock")
    event = find_wait_reason(await worked(backend, awaits))
    assert event is not None
    assert (event.cause, event.event) == ("event", "weather")
    assert event.until is not None
    await backend.spawn_task(QUEUE, "task", {"group_id": "H"})
    (new, *_) = map(summarize, await read_histories(backend, QUEUE))
    assert new.waiting is not None
    assert new.waiting.cause == "worker"
