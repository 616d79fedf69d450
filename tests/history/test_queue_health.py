"""Stuck tasks and blocked queues are named, and a worker survives them."""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from uuid import UUID

import pytest
from unreadable_rows import connected, spawn_unchecked

from absurd_contimg.backends.memory import MemoryBackend
from absurd_contimg.core import worker as worker_module
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.errors import BackendError
from absurd_contimg.core.records import SpawnOptions, Task
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.history.queue_health import find_problems, malformed, stuck

QUEUE = "dsa110-pipeline"
BROKEN = SpawnOptions(cancellation={"max_delay": "soon"})


def worker_for(backend: Backend, handler: Any) -> Worker:
    tasks = TaskRegistry()
    tasks.add("task", handler)
    settings = WorkerSettings(
        QUEUE, "worker-1", concurrency=2, claim_timeout_seconds=2, poll_interval_seconds=0.01
    )
    return Worker(backend, tasks, settings, explain_refusal=find_problems)


async def task_of(backend: Backend, task_id: UUID, queue: str = QUEUE) -> Task:
    history = await backend.history(queue, task_id)
    assert history is not None
    return history.task


async def until(backend: Backend, task_id: UUID, state: str) -> None:
    async with asyncio.timeout(20):
        while (await task_of(backend, task_id)).state != state:
            await asyncio.sleep(0.01)


class RefusesClaims:
    """A backend that refuses every claim while `refuses` is set."""

    def __init__(self, backend: Backend) -> None:
        self.backend, self.refuses = backend, True
        self.claiming = asyncio.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    async def claim_task(self, *args: Any) -> Any:
        async with self.claiming:
            if self.refuses:
                raise BackendError("a trigger says no", "P0001")
            return await self.backend.claim_task(*args)


async def test_worker_outlives_a_queue_that_refuses_claims(
    backend: Backend, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run goes on beyond its first lease, the log says what is wrong, then all run."""
    monkeypatch.setattr(worker_module, "_REFUSED_PAUSE_LIMIT_SECONDS", 0.2)  # impatient
    refused = asyncio.Event()
    refusing: Any = RefusesClaims(backend)
    refusing.refuses = False

    async def handler(params: Any, ctx: TaskContext) -> str:
        if params == "held":
            await refused.wait()
            await asyncio.sleep(2.5)  # the lease is of two seconds
        return "done"

    held = await backend.spawn_task(QUEUE, "task", "held")
    worker = worker_for(refusing, handler)
    running = asyncio.create_task(worker.run())
    try:
        await until(backend, held.task_id, "running")
        async with refusing.claiming:  # the cause is there before the first claim is refused
            broken = await spawn_unchecked(backend, QUEUE, BROKEN)
            waiting = await backend.spawn_task(QUEUE, "task", "waits")
            refusing.refuses = True
        async with asyncio.timeout(20):
            while f"contimg cancel {broken.task_id}" not in caplog.text:
                await asyncio.sleep(0.01)
        refused.set()
        await until(backend, held.task_id, "completed")
        assert (await task_of(backend, held.task_id)).attempts == 1
        assert (await task_of(backend, waiting.task_id)).state == "pending"
        refusing.refuses = False
        await until(backend, waiting.task_id, "completed")
        assert (await task_of(backend, broken.task_id)).state == "cancelled"
    finally:
        worker.stop()
        await running


async def test_worker_until_idle_raises_the_refusal(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    await spawn_unchecked(backend, QUEUE, BROKEN)
    refusing: Any = RefusesClaims(backend)
    with caplog.at_level(logging.ERROR), pytest.raises(BackendError, match="trigger"):
        await worker_for(refusing, None).run(until_idle=True)
    assert "contimg cancel" in caplog.text


RULES: list[Any] = [
    *(None, 60, -1, 0, "60", " 60 ", "-7", "+7", 2**63 - 1, 2**63, "9223372036854775808"),
    *("", "soon", "1 hour", "12.5", 12.5, 60.0, 1e3, True, False, [60], {"seconds": 60}, "1e3"),
    *(
        "0x10",
        "1_000",
        "1__0",
        "0x",
        "-0b11",
        "\u0663",
        "\x1c7",
        10**308,
        "9" * 200,
        "0" * 90 + "7",
    ),
]


async def test_rules_that_absurd_cannot_read_are_known(backend: Backend) -> None:
    """A claim is refused exactly where `malformed` names a problem."""
    for number, value in enumerate(RULES):
        for name in ("max_delay", "max_duration"):
            queue = f"q{number}{name[4:6]}"
            await backend.create_queue(queue)
            options = SpawnOptions(cancellation={name: value})
            spawned = await spawn_unchecked(backend, queue, options)
            text = malformed(await task_of(backend, spawned.task_id, queue))
            try:
                await backend.claim_task(queue, "worker-1")
            except BackendError:
                assert text is not None, (name, value)
                (result,) = await find_problems(backend, queue)
                assert result.blocks_the_queue
                assert name in str(result)
                await backend.cancel_task(queue, spawned.task_id)
                assert await find_problems(backend, queue) == []
                assert await backend.claim_task(queue, "worker-1") == []
            else:
                assert text is None, (name, value)
                assert await find_problems(backend, queue) == []


async def test_claimable_leased_and_waiting_tasks_are_no_problem(backend: Backend) -> None:
    """Pending, running, asleep until a time, waiting for an event with a deadline, ended."""
    asleep, waits, leased = [await backend.spawn_task(QUEUE, "task", n) for n in range(3)]
    for claimed in await backend.claim_task(QUEUE, "worker-1", 60, 3):
        if claimed.task_id == asleep.task_id:
            now = await backend.current_time()
            await backend.schedule_run(QUEUE, claimed.run_id, now)
        if claimed.task_id == waits.task_id:
            await backend.await_event(
                QUEUE, claimed.task_id, claimed.run_id, "step", "calibration", 3600
            )
    await backend.spawn_task(QUEUE, "task", "pending")
    ended = await spawn_unchecked(backend, QUEUE, BROKEN)
    await backend.cancel_task(QUEUE, ended.task_id)
    assert (await task_of(backend, leased.task_id)).state == "running"
    assert await find_problems(backend, QUEUE) == []


async def test_infinite_lease_and_two_runs_at_once_are_found(
    backend: Backend, request: pytest.FixtureRequest
) -> None:
    """As another client may store them."""
    url = "" if isinstance(backend, MemoryBackend) else request.getfixturevalue("database_url")
    leased, doubled = [await backend.spawn_task(QUEUE, "task", n) for n in range(2)]
    await backend.claim_task(QUEUE, "worker-1", 60)
    with connected(backend, url) as connection:
        connection.execute(
            f"update absurd.\"r_{QUEUE}\" set claim_expires_at = 'infinity'"
            f" where task_id = '{leased.task_id}'"
        )
        connection.execute(
            f'insert into absurd."r_{QUEUE}" (run_id, task_id, attempt, state, available_at)'
            f" values ('{UUID(int=7)}', '{doubled.task_id}', 1, 'pending', absurd.current_time())"
        )
    problems = {each.task_id: each.problem for each in await find_problems(backend, QUEUE)}
    assert "a lease without an end" in problems[leased.task_id]
    assert "2 runs at once" in problems[doubled.task_id]


async def test_lease_without_an_end_and_wait_without_a_deadline_are_found(
    backend: Backend,
) -> None:
    waits, leased, limited = [
        await backend.spawn_task(QUEUE, "task", number, options)
        for number, options in enumerate(
            [SpawnOptions(), SpawnOptions(), SpawnOptions(cancellation={"max_duration": 9})]
        )
    ]
    for claimed in await backend.claim_task(QUEUE, "worker-1", 0, 3):
        if claimed.task_id != leased.task_id:
            await backend.await_event(QUEUE, claimed.task_id, claimed.run_id, "step", "never", None)
    result = {problem.task_id: problem.problem for problem in await find_problems(backend, QUEUE)}
    assert result == {
        waits.task_id: "Run 1 waits for event 'never' without a deadline.",
        leased.task_id: "Run 1 has a lease without an end.",
    }
    history = await backend.history(QUEUE, limited.task_id)
    assert history is not None
    assert list(stuck(history.task, history.runs)) == []


@pytest.mark.parametrize("state", ["pending", "running"])
async def test_what_was_made_before_the_clock_was_put_back_is_named(
    backend: Backend, request: pytest.FixtureRequest, state: str
) -> None:
    """It stands still for as long as the clock was ahead, and no other problem says why."""
    spawned = await backend.spawn_task(QUEUE, "task", {})
    if state == "running":
        await backend.claim_task(QUEUE, "w")
    assert await find_problems(backend, QUEUE) == []
    later = "available_at = available_at + interval '8 hours', created_at = created_at"
    if state == "running":
        later = "claim_expires_at = claim_expires_at + interval '8 hours', started_at = started_at"
    url = "" if isinstance(backend, MemoryBackend) else request.getfixturevalue("database_url")
    with connected(backend, url) as connection:
        connection.execute(f"update absurd.\"r_{QUEUE}\" set {later} + interval '8 hours'")
    (problem,) = await find_problems(backend, QUEUE)
    assert problem.task_id == spawned.task_id
    assert "the clock of the database was put back since" in problem.problem
    assert f"contimg cancel {spawned.task_id}" in problem.remedy
