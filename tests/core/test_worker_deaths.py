"""Plain handler code that ends its worker each time is not started for ever."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any
from uuid import UUID

import pytest
from unreadable_rows import connected, store

from absurd_contimg.backends.memory import MemoryBackend
from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core import worker_deaths
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.errors import LeaseLost
from absurd_contimg.core.lost_leases import LostLeases
from absurd_contimg.core.records import ClaimedTask, History
from absurd_contimg.core.worker import Worker
from absurd_contimg.core.worker_deaths import Ends, count_ends

from .worker_helpers import QUEUE, make_worker, noop, run_until_ended, spawn_and_run

POISON_LIMIT = 3
WORKER = """
import asyncio, os, signal, sys
from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
async def handler(params, ctx):
    print("start", flush=True)
    if params == "exit":
        os._exit(9)
    if params == "cancel":
        for task in asyncio.all_tasks():
            task.cancel()
    if params == "stop":
        asyncio.get_running_loop().stop()
    if params == "alarm":
        signal.setitimer(signal.ITIMER_REAL, 0.01)
    await asyncio.sleep(60)
async def main():
    tasks = TaskRegistry()
    tasks.add("task", handler)
    async with PostgresBackend(sys.argv[1]) as backend:
        await Worker(backend, tasks, WorkerSettings("dsa110-pipeline", "w")).run(until_idle=True)
asyncio.run(main())
"""


@pytest.fixture
def url(request: pytest.FixtureRequest, backend: Backend) -> str:
    """Of the backend's database; the emulator has none."""
    if isinstance(backend, MemoryBackend):
        return ""
    return str(request.getfixturevalue("database_url"))


async def read(backend: Backend, task_id: UUID) -> History:
    history = await backend.history(QUEUE, task_id)
    assert history is not None
    return history


async def restart(backend: Backend, handler: Any = noop) -> Worker:
    """A new worker of the same id, which has released what the dead one had."""
    worker = make_worker(backend, handler)
    await worker._recover_orphans(asyncio.create_task(asyncio.Event().wait()))
    return worker


async def claim(backend: Backend, worker_id: str) -> ClaimedTask:
    """The first run that is due; on Postgres the claim that sweeps a lease does not get it."""
    async with asyncio.timeout(20):
        while not (claimed := await backend.claim_task(QUEUE, worker_id, 3600)):
            await asyncio.sleep(0)
    return claimed[0]


async def claim_and_die(backend: Backend) -> ClaimedTask:
    """What a worker does that dies in the first line of its handler."""
    await restart(backend)
    return await claim(backend, "worker-1")


async def expire(backend: Backend, url: str, task_id: UUID) -> None:
    """Let the lease of the task's running run end."""
    with connected(backend, url) as connection:
        statement = (
            f"update absurd.\"r_{QUEUE}\" set claim_expires_at = '2020-01-01 00:00Z'::timestamptz"
            " where task_id = %s and state = 'running'"
        )
        store(connection, statement, task_id)


async def run_to_its_end(backend: Backend, task_id: UUID, handler: Any = noop) -> History:
    return await run_until_ended(backend, make_worker(backend, handler), task_id)


CODES = {"exit": 9, "alarm": -14, "cancel": 1, "stop": 1}


@pytest.mark.parametrize("way", CODES)
async def test_handler_that_kills_its_worker_ends_as_poison(database_url: str, way: str) -> None:
    """Real processes of one worker id; the fourth starts no handler."""
    async with PostgresBackend(database_url) as backend:
        await backend.create_queue(QUEUE)
        task = await backend.spawn_task(QUEUE, "task", way)
        codes, starts = [], 0
        for _ in range(POISON_LIMIT + 1):
            worker = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", WORKER, database_url],
                capture_output=True,
                text=True,
                timeout=60,
            )
            codes.append(worker.returncode)
            starts += worker.stdout.count("start")
        assert codes == [CODES[way]] * POISON_LIMIT + [0]
        assert starts == POISON_LIMIT
        history = await read(backend, task.task_id)
    reason: Any = history.runs[-1].failure_reason
    assert (history.task.state, reason["rule"], reason["kind"]) == ("failed", "poison", "permanent")
    assert "3 times in a row" in reason["message"]


@pytest.mark.parametrize("deaths", [POISON_LIMIT - 1, POISON_LIMIT])
async def test_deaths_are_counted_when_a_restart_releases_the_run(
    backend: Backend, deaths: int
) -> None:
    task = await backend.spawn_task(QUEUE, "task", {})
    for _ in range(deaths):
        await claim_and_die(backend)
    history = await run_to_its_end(backend, task.task_id)
    assert history.task.state == ("failed" if deaths == POISON_LIMIT else "completed")
    assert len(history.runs) == 1


@pytest.mark.parametrize("deaths", [POISON_LIMIT - 1, POISON_LIMIT])
async def test_deaths_are_counted_when_the_lease_expires(
    backend: Backend, url: str, deaths: int
) -> None:
    """Workers of other ids take over."""
    task = await backend.spawn_task(QUEUE, "task", {})
    for number in range(deaths):
        await claim(backend, f"w{number}")
        await expire(backend, url, task.task_id)
    history = await run_to_its_end(backend, task.task_id)
    assert history.task.state == ("failed" if deaths == POISON_LIMIT else "completed")
    assert len(history.runs) == deaths + 1


async def test_both_ways_count_together(backend: Backend, url: str) -> None:
    task = await backend.spawn_task(QUEUE, "task", {})
    await claim_and_die(backend)
    await claim_and_die(backend)
    await expire(backend, url, task.task_id)
    await claim(backend, "another")
    claimed = (await read(backend, task.task_id)).runs[-1]
    assert count_ends(await read(backend, task.task_id), claimed.run_id) == Ends(deaths=2)
    await expire(backend, url, task.task_id)
    assert (await run_to_its_end(backend, task.task_id)).task.state == "failed"


async def test_progress_begins_a_new_row(backend: Backend) -> None:
    """Two deaths before each of three steps are no three in a row."""
    task = await backend.spawn_task(QUEUE, "task", {})
    for step in range(3):
        await claim_and_die(backend)
        claimed = await claim_and_die(backend)
        await backend.set_task_checkpoint_state(QUEUE, task.task_id, f"s{step}", 1, claimed.run_id)
    assert (await run_to_its_end(backend, task.task_id)).task.state == "completed"


async def test_failure_begins_a_new_row(backend: Backend, url: str) -> None:
    task = await backend.spawn_task(QUEUE, "task", {})
    for _ in range(2):
        await claim_and_die(backend)
        claimed = await claim_and_die(backend)
        await restart(backend)
        claimed = await claim(backend, "worker-1")
        await backend.fail_run(QUEUE, claimed.run_id, {"name": "Error", "message": "m"})
    assert (await run_to_its_end(backend, task.task_id)).task.state == "completed"


async def test_operators_retry_counts_from_zero(backend: Backend) -> None:
    task = await backend.spawn_task(QUEUE, "task", {})
    for _ in range(POISON_LIMIT):
        await claim_and_die(backend)
    assert (await run_to_its_end(backend, task.task_id)).task.state == "failed"
    await backend.retry_task(QUEUE, task.task_id, {"max_attempts": 100})
    for _ in range(POISON_LIMIT - 1):
        await claim_and_die(backend)
    assert (await run_to_its_end(backend, task.task_id)).task.state == "completed"


async def test_recovery_that_dies_too_counts_one_death_once(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The note is written and the run not yet released: as if killed between the two."""
    task = await backend.spawn_task(QUEUE, "task", {})
    await claim_and_die(backend)
    (orphan,) = await backend.list_runs(QUEUE, states=["running"])
    for _ in range(POISON_LIMIT + 1):
        await worker_deaths.note_death(backend, QUEUE, orphan)
    assert (await run_to_its_end(backend, task.task_id)).task.state == "completed"


async def test_outages_pauses_and_stops_count_for_nothing(backend: Backend, url: str) -> None:
    """Leases that living workers lost and noted, and runs that were given back."""
    task = await backend.spawn_task(QUEUE, "task", {})
    for number in range(2 * POISON_LIMIT):
        worker = make_worker(backend, noop, worker_id=f"w{number}")
        claimed = await claim(backend, f"w{number}")
        if number % 2:
            await worker._give_back(claimed.run_id)
            continue
        ctx = worker._context(worker._session(claimed, 0.0))
        lost = LostLeases(f"w{number}")
        lost.add(claimed, ctx, LeaseLost("away"))
        await expire(backend, url, task.task_id)
        await claim(backend, "sweeper")
        await lost.note(backend, QUEUE)
        (running,) = await backend.list_runs(QUEUE, states=["running"])
        await worker._give_back(running.run_id)
    history = await read(backend, task.task_id)
    assert count_ends(history, history.runs[-1].run_id) == Ends(losses=POISON_LIMIT)
    assert (await run_to_its_end(backend, task.task_id)).task.state == "completed"


async def test_losses_without_end_are_poison_too(
    backend: Backend, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_deaths, "STALLS_MAX", 2)
    task = await backend.spawn_task(QUEUE, "task", {})
    for number in range(2):
        worker = make_worker(backend, noop, worker_id=f"w{number}")
        claimed = await claim(backend, f"w{number}")
        error = LeaseLost("away")
        error.stalled = True
        lost = LostLeases(f"w{number}")
        lost.add(claimed, worker._context(worker._session(claimed, 0.0)), error)
        await lost.note(backend, QUEUE)
        await expire(backend, url, task.task_id)
    history = await run_to_its_end(backend, task.task_id)
    reason: Any = history.runs[-1].failure_reason
    assert (history.task.state, reason["rule"]) == ("failed", "poison")


async def test_deaths_in_a_tracked_step_are_counted_there_alone(backend: Backend) -> None:
    """Two in the step and two after it, in code that does not begin it again."""

    async def handler(params: Any, ctx: TaskContext) -> None:
        await ctx.tracked_step("image", lambda start: asyncio.sleep(0))

    task = await backend.spawn_task(QUEUE, "task", {})
    for in_step in (True, True, False, False):
        claimed = await claim_and_die(backend)
        if in_step:
            worker = make_worker(backend, noop)
            ctx = worker._context(worker._session(claimed, asyncio.get_running_loop().time()))
            await ctx.load()
            await ctx.journal.begin("image")
    history = await run_to_its_end(backend, task.task_id, handler)
    assert history.task.state == "completed"
    assert history.checkpoint_states["$deaths:1"] == {
        "count": 2,
        "steps": 0,
        "claimed_at": str(claimed_at(history)),
    }


def claimed_at(history: History) -> Any:
    saved: Any = history.checkpoint_states["$deaths:1"]
    return saved["claimed_at"]


async def test_first_attempts_cost_no_query(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The history is read only where there can be so many deaths."""
    asked = []
    monkeypatch.setattr(worker_deaths, "count_ends", lambda *given: asked.append(given) or Ends())
    await spawn_and_run(backend, noop)
    assert asked == []
