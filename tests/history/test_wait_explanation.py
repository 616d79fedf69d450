"""Why a task waits: one sentence for every task that has not ended, whatever its history is."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.records import History
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.history.wait_explanation import (
    WaitContext,
    WaitExplanation,
    WorkerFact,
    explain_wait,
)
from absurd_contimg.history.wait_reason import find_wait_reason

QUEUE = "dsa110-pipeline"
POLICY = RetryPolicy(backoff_first_seconds=43.0, resource_wait_seconds=43.0)
Handler = Callable[[Any, TaskContext], Awaitable[Any]]


async def worked(backend: Backend, handler: Handler) -> History:
    """The history of one task once nothing of it is due."""
    tasks = TaskRegistry()
    tasks.add("task", handler)
    worker = WorkerSettings(QUEUE, "worker-1", poll_interval_seconds=0.01, grace_seconds=0.0)
    spawned = await backend.spawn_task(QUEUE, "task", {"group_id": "G"})
    async with asyncio.timeout(20):
        await Worker(backend, tasks, worker, policy=POLICY).run(until_idle=True)
    history = await backend.history(QUEUE, spawned.task_id)
    assert history is not None
    return history


@pytest.fixture
async def memory() -> MemoryBackend:
    """An emulator with one queue."""
    backend = MemoryBackend(MemoryDatabase())
    await backend.create_queue(QUEUE)
    return backend


async def explained(backend: Backend, history: History, **known: Any) -> WaitExplanation:
    """What is said of a task that has not ended."""
    explanation = explain_wait(history, WaitContext(await backend.current_time(), **known))
    assert explanation is not None
    return explanation


async def busy(_params: Any, ctx: TaskContext) -> None:
    """A step that fails transiently."""

    async def convert(_start: int) -> None:
        raise OSError(errno.EBUSY, "busy", "/data/table.lock")

    await ctx.tracked_step("convert", convert)


async def test_a_retry_tells_when_and_which_attempt(memory: MemoryBackend) -> None:
    history = await worked(memory, busy)
    explanation = await explained(memory, history, policy=POLICY)
    until = history.runs[-1].available_at
    start, _, rest = explanation.sentence.partition(" s more ")
    assert start in ("convert: waits 43", "convert: waits 42")
    assert rest == f"(until {until:%H:%M:%S} UTC), then tries again: attempt 2 of 3 after " + (
        "transient (busy)"
    )
    assert (explanation.fact, explanation.until) == ("retry", until)
    assert explanation.advice


async def test_a_shortage_tells_the_path(memory: MemoryBackend) -> None:
    async def full(_params: Any, _ctx: TaskContext) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/data/g.ms")

    explanation = await explained(memory, await worked(memory, full))
    assert "then tries again: resource (disk-full), /data/g.ms" in explanation.sentence
    assert "Free space" in str(explanation.advice)


async def test_sleeps_and_events_tell_their_end(memory: MemoryBackend) -> None:
    async def sleeps(_params: Any, ctx: TaskContext) -> None:
        await ctx.sleep_for("pause", 3600)

    async def awaits(params: Any, ctx: TaskContext) -> None:
        await ctx.await_event(f"calibration.available:{params['group_id']}:16:17", timeout=600)

    async def awaits_forever(_params: Any, ctx: TaskContext) -> None:
        await ctx.await_event("weather")

    asleep = await explained(memory, await worked(memory, sleeps))
    assert asleep.sentence.startswith("sleeps 60 min more (until ")
    calibration = await explained(memory, await worked(memory, awaits), calibration_reach_hours=7.5)
    assert calibration.sentence.startswith(
        "waits for a calibration of its strip within 7.5 h, 10 min more (until "
    )
    forever = await explained(memory, await worked(memory, awaits_forever))
    assert forever.sentence == "waits for event 'weather', without a deadline"


LIVING = WorkerFact("w1", "dsa-1")
SILENT = WorkerFact("w2", "dsa-2", silent_seconds=300.0)


@pytest.mark.parametrize(
    ("known", "fact", "text"),
    [
        ({}, "claimable", "waits for a worker"),
        ({"workers": []}, "no-worker", f"no worker of queue {QUEUE} lives"),
        ({"workers": [SILENT]}, "no-worker", "w2 on dsa-2 is silent"),
        ({"workers": [LIVING]}, "claimable", "waits for the next poll of worker w1 on dsa-1"),
        ({"workers": [WorkerFact("w1", tasks=2)]}, "busy", "waits for a worker: w1 runs 2"),
        ({"workers": [WorkerFact("w1", problem="/data is full")]}, "disk", "/data is full"),
        ({"workers": [WorkerFact("w1", queues=frozenset({"other"}))]}, "no-worker", "lives"),
        ({"pauses": {QUEUE: "queue q is paused by anna"}}, "paused", "is paused by anna"),
        ({"blocked": {QUEUE: "task 5: a rule is no number"}}, "blocked", "task 5"),
        ({"registry_problem": "No slot is left."}, "registry", "workers from it: No slot is left"),
    ],
)
async def test_a_task_that_could_run_tells_what_keeps_workers_from_it(
    memory: MemoryBackend, known: dict[str, Any], fact: str, text: str
) -> None:
    spawned = await memory.spawn_task(QUEUE, "task", {})
    history = await memory.history(QUEUE, spawned.task_id)
    assert history is not None
    explanation = await explained(memory, history, **known)
    assert explanation.fact == fact
    assert text in explanation.sentence


async def test_the_sentence_has_no_full_stop_of_its_own(memory: MemoryBackend) -> None:
    """What shows it ends it: "Remove old products, or lower CONTIMG_DISK_CRITICAL_GB.."."""
    spawned = await memory.spawn_task(QUEUE, "task", {"group_id": "G"})
    history = await memory.history(QUEUE, spawned.task_id)
    assert history is not None
    worker = WorkerFact("w1", "dsa-1", problem="/data is full. Remove old products.")
    explanation = await explained(memory, history, workers=[worker])
    assert explanation.sentence.endswith("claims nothing: /data is full. Remove old products")


async def test_a_running_task_tells_its_worker_its_step_and_its_lease(
    memory: MemoryBackend,
) -> None:
    spawned = await memory.spawn_task(QUEUE, "task", {"group_id": "G"})
    await memory.claim_task(QUEUE, "w1", 60)
    history = await memory.history(QUEUE, spawned.task_id)
    assert history is not None
    now = await memory.current_time()
    living = explain_wait(history, WaitContext(now, [LIVING]))
    assert living is not None
    assert "on w1 on dsa-1 since" in living.sentence
    assert "lease 60 s left" in living.sentence
    silent = explain_wait(history, WaitContext(now, [WorkerFact("w1", "dsa-1", None, 90.0)]))
    assert silent is not None
    assert "was not heard of for 90 s" in silent.sentence
    over = explain_wait(history, WaitContext(now + timedelta(seconds=72), [LIVING]))
    assert over is not None
    assert (
        "which has not renewed its lease: it ended 12 s ago; the next poll of any" in over.sentence
    )
    nobody = explain_wait(history, WaitContext(now + timedelta(seconds=72), []))
    assert nobody is not None
    assert "no other worker" in nobody.sentence
    assert nobody.advice


async def test_a_task_without_a_handler_does_not_sleep_by_its_own_wish(
    memory: MemoryBackend,
) -> None:
    """Its name was misspelt, and `status` said that its handler had asked for the sleep."""

    async def naps(_params: Any, ctx: TaskContext) -> None:
        await ctx.sleep_for("nap", 3600)

    asleep = await explained(memory, await worked(memory, naps))
    assert "as its handler asked" in asleep.sentence
    spawned = await memory.spawn_task(QUEUE, "tsak", {})
    await Worker(memory, TaskRegistry(), WorkerSettings(QUEUE, "w")).run(until_idle=True)
    history = await memory.history(QUEUE, spawned.task_id)
    assert history is not None
    explanation = await explained(memory, history)
    assert "a worker without a handler for 'tsak' has left it to others" in explanation.sentence
    assert f"cancel {spawned.task_id}" in str(explanation.advice)


@pytest.mark.parametrize("is_tracked", [False, True])
async def test_a_task_whose_worker_stopped_in_a_step_was_released_and_has_not_waited(
    backend: Backend, is_tracked: bool
) -> None:
    """It was "ready after its wait", for as long as it existed: it had never waited."""
    begun = asyncio.Event()

    async def takes_long(_params: Any, ctx: TaskContext) -> None:
        async def charge(_start: int = 1) -> None:
            begun.set()
            await asyncio.sleep(60)

        await (ctx.tracked_step("charge", charge) if is_tracked else ctx.step("charge", charge))

    tasks = TaskRegistry()
    tasks.add("task", takes_long)
    spawned = await backend.spawn_task(QUEUE, "task", {})
    worker = Worker(backend, tasks, WorkerSettings(QUEUE, "w", grace_seconds=0.0))
    async with asyncio.timeout(20):
        work = asyncio.create_task(worker.run())
        await begun.wait()
        worker.stop()
        await work
    history = await backend.history(QUEUE, spawned.task_id)
    assert history is not None
    reason = find_wait_reason(history)
    assert reason is not None
    assert reason.cause == "worker"
    begin = "was released when its worker stopped"
    assert (await explained(backend, history)).sentence == f"{begin} and waits for a worker"
    alone = await explained(backend, history, workers=[])
    assert alone.sentence == f"{begin}, but no worker of queue {QUEUE} lives"
