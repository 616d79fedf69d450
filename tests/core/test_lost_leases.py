"""Lost leases of a living worker: bounded, said in the history, and no death of a worker."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg
import pytest

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core import lease as lease_module
from absurd_contimg.core import step_journal
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.errors import BackendError, BackendUnavailable, LeaseLost
from absurd_contimg.core.records import History
from absurd_contimg.core.worker import Worker
from absurd_contimg.history.failures import failed_runs
from absurd_contimg.history.invariants.check import audit
from absurd_contimg.history.timeline import step_starts

from .worker_helpers import QUEUE, make_worker, run_until_ended, spawn_and_run


class Silent:
    """A backend that does not answer while `silent` is set, and new calls neither."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.answers = asyncio.Event()
        self.answers.set()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._backend, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            await self.answers.wait()
            return await method(*args, **kwargs)

        return call


class Away(Silent):
    """The same, but calls fail at once."""

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._backend, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if not self.answers.is_set():
                raise BackendUnavailable("away")
            return await method(*args, **kwargs)

        return call


@pytest.mark.parametrize("kind", [Silent, Away])
async def test_outages_are_no_deaths(backend: Backend, kind: type[Silent]) -> None:
    """Four outages that each outlast the lease, in one step: more than deaths would be allowed."""
    database = kind(backend)
    starts = 0

    async def handler(params: Any, ctx: TaskContext) -> str:
        async def image(start: int) -> str:
            nonlocal starts
            starts += 1
            if start > 4:
                return "fits"
            database.answers.clear()
            try:
                await asyncio.Event().wait()
            finally:
                database.answers.set()
            return "never"

        return await ctx.tracked_step("image", image)

    task = await backend.spawn_task(QUEUE, "task", {})
    worker = make_worker(database, handler, claim_timeout_seconds=1)  # type: ignore[arg-type]
    history = await run_until_ended(backend, worker, task.task_id)
    assert (history.task.state, starts) == ("completed", 5)
    assert [start.outcome for start in step_starts(history)] == ["lost"] * 4 + ["done"]


async def test_lost_lease_is_noted_when_another_worker_has_taken_over(backend: Backend) -> None:
    """The first worker writes while the run of the second goes on, and disturbs nothing."""
    away = Away(backend)
    taken_over, noted = asyncio.Event(), asyncio.Event()

    async def first(params: Any, ctx: TaskContext) -> Any:
        async def image(start: int) -> None:
            away.answers.clear()
            await asyncio.Event().wait()

        return await ctx.tracked_step("image", image)

    async def second(params: Any, ctx: TaskContext) -> Any:
        async def image(start: int) -> str:
            taken_over.set()
            await noted.wait()
            return "fits"

        return await ctx.tracked_step("image", image)

    task = await backend.spawn_task(QUEUE, "task", {})
    worker = make_worker(away, first, claim_timeout_seconds=1)  # type: ignore[arg-type]
    working = asyncio.create_task(worker.run())
    await until(lambda: not away.answers.is_set())

    async def come_back() -> None:
        await taken_over.wait()
        away.answers.set()
        await until(lambda: not worker._lost)
        noted.set()

    back = asyncio.create_task(come_back())
    other = make_worker(backend, second, worker_id="worker-2", claim_timeout_seconds=60)
    history = await run_until_ended(backend, other, task.task_id)
    worker.stop()
    await asyncio.gather(working, back)
    assert history.task.completed_payload == "fits"
    assert [start.outcome for start in step_starts(history)] == ["lost", "done"]


@pytest.mark.parametrize("hides", [False, True], ids=["one row deleted", "rows hidden for 3 s"])
async def test_lost_run_rows_cost_only_their_own_tasks(
    database_url: str, caplog: pytest.LogCaptureFixture, hides: bool
) -> None:
    """The other steps of the worker go on; the audit names the task that has no run."""

    begun: list[int] = []

    async def handler(params: Any, ctx: TaskContext) -> Any:
        async def image(start: int) -> int:
            begun.append(start)
            await asyncio.sleep(4)
            return start

        return await ctx.tracked_step("image", image)

    async with PostgresBackend(database_url) as backend:
        await backend.create_queue(QUEUE)
        tasks = [(await backend.spawn_task(QUEUE, "task", {})).task_id for _ in range(3)]
        worker = make_worker(backend, handler, claim_timeout_seconds=3, concurrency=3)
        working = asyncio.create_task(worker.run())
        await until(lambda: len(begun) == 3)
        runs = f'absurd."r_{QUEUE}"'
        with psycopg.connect(database_url, autocommit=True) as connection:
            if hides:
                connection.execute(f"alter table {runs} rename to hidden".encode())
                connection.execute(
                    f"create view {runs} as select * from absurd.hidden where false".encode()
                )
                await asyncio.sleep(3)
                connection.execute(f"drop view {runs}".encode())
                connection.execute(f'alter table absurd.hidden rename to "r_{QUEUE}"'.encode())
            else:
                delete = f"delete from {runs} where task_id = %s".encode()
                connection.execute(delete, (tasks[0],))
        lost = [] if hides else tasks[:1]
        kept = [task for task in tasks if task not in lost]
        async with asyncio.timeout(30):
            while True:
                histories = await backend.histories(QUEUE, kept)
                if all(history.task.state == "completed" for history in histories):
                    break
                assert not working.done(), working.result()
                await asyncio.sleep(0.1)
        worker.stop()
        await working
        every = await backend.histories(QUEUE, tasks)
    if lost:
        assert {len(history.runs) for history in histories} == {1}
    for task in tasks if hides else lost:
        assert f"task {task} has no run any more" in caplog.text
    assert {v.task_id for v in audit(every) if "has no run" in v.text} == set(lost)


class NoteRefused(Silent):
    """Every writing of a note raises this."""

    problem: BaseException = ValueError()

    def __getattr__(self, name: str) -> Any:
        method = super().__getattr__(name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if name == "set_task_checkpoint_state" and str(args[2]).startswith("$lost:"):
                raise self.problem
            return await method(*args, **kwargs)

        return call


@pytest.mark.parametrize(
    "problem", [KeyError("x"), BackendError("no", "P0001"), BackendError("no", "22P02")]
)
async def test_note_that_fails_holds_up_no_claim(backend: Backend, problem: Exception) -> None:
    database = NoteRefused(backend)
    database.problem = problem

    async def handler(params: Any, ctx: TaskContext) -> int:
        if ctx.attempt == 1:
            raise LeaseLost("for the test")
        return ctx.attempt

    history = await spawn_and_run(database, handler, claim_timeout_seconds=1)  # type: ignore[arg-type]
    assert history.task.completed_payload == 2


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def block_once(backend: Backend, step: Callable[[TaskContext, Any], Any]) -> History:
    """A step whose first start blocks the event loop for longer than its lease."""
    ran: list[int] = []

    async def handler(params: Any, ctx: TaskContext) -> Any:
        async def work(*_start: int) -> int:
            ran.append(ctx.attempt)
            if ctx.attempt == 1:
                time.sleep(1.5)  # noqa: ASYNC251 - what a handler does that does not know better
            return ctx.attempt

        return await step(ctx, work)

    history = await spawn_and_run(backend, handler, claim_timeout_seconds=1)
    assert ran == [1, 2], "what the first start returned was refused"
    assert history.task.completed_payload == 2
    return history


async def test_blocked_event_loop_is_noticed_and_its_effects_are_refused(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    history = await block_once(backend, lambda ctx, work: ctx.tracked_step("image", work))
    assert [start.outcome for start in step_starts(history)] == ["lost", "done"]
    (failed,) = failed_runs(history)
    assert "blocked the event loop" in failed.message
    assert "blocked the event loop" in caplog.text


async def test_blocked_event_loop_of_a_plain_step_is_said_in_the_history(backend: Backend) -> None:
    history = await block_once(backend, lambda ctx, work: ctx.step("image", work))
    (failed,) = failed_runs(history)
    assert "blocked the event loop" in failed.message


async def test_step_that_always_blocks_is_not_started_for_ever(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_journal, "STALLS_MAX", 2)

    async def handler(params: Any, ctx: TaskContext) -> Any:
        async def image(start: int) -> None:
            time.sleep(1.0)  # noqa: ASYNC251

        return await ctx.tracked_step("image", image)

    history = await spawn_and_run(backend, handler, claim_timeout_seconds=1)
    assert (history.task.state, failed_runs(history)[-1].rule) == ("failed", "poison")
    assert "stood still" in failed_runs(history)[-1].message


async def test_step_that_always_loses_its_lease_is_not_started_for_ever(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator's retry counts from 0."""
    monkeypatch.setattr(step_journal, "LOSSES_MAX", 2)

    async def handler(params: Any, ctx: TaskContext) -> Any:
        async def image(start: int) -> None:
            raise LeaseLost("it was not extended in time")

        return await ctx.tracked_step("image", image)

    history = await spawn_and_run(backend, handler, claim_timeout_seconds=1)
    assert (history.task.state, failed_runs(history)[-1].rule) == ("failed", "poison")
    assert "the last 2 times it lost its lease" in failed_runs(history)[-1].message
    assert [start.outcome for start in step_starts(history)] == ["poison"] * 2


async def test_call_that_is_cut_for_its_length_gets_longer() -> None:
    """Up to the end of the lease: with one bound it would be cut again and again."""
    backend = MemoryBackend(MemoryDatabase())
    lease = lease_module.Lease(backend, QUEUE, UUID(int=1), 1, asyncio.get_running_loop().time())
    lease.attempt_seconds = 0.05
    tries = 0

    async def write() -> str:
        nonlocal tries
        tries += 1
        await asyncio.sleep(0.15)
        return "written"

    assert await lease.retry_until_deadline(write) == "written"
    assert tries == 3


async def test_heartbeat_moves_the_workers_own_fence(backend: Backend) -> None:
    async def handler(params: Any, ctx: TaskContext) -> Any:
        async def work() -> str:
            await ctx.heartbeat(30)
            time.sleep(1.5)  # noqa: ASYNC251
            await ctx.fence()
            return "result"

        return await ctx.step("s", work)

    history = await spawn_and_run(backend, handler, claim_timeout_seconds=1)
    assert (history.task.completed_payload, len(history.runs)) == ("result", 1)


@pytest.mark.parametrize("seconds", [2**31, math.nan, -1, "3"])
async def test_heartbeat_that_absurd_cannot_take_fails_by_name(
    backend: Backend, seconds: Any
) -> None:
    """It was repeated for ever, while the worker went on extending the lease."""

    async def handler(params: Any, ctx: TaskContext) -> Any:
        await ctx.heartbeat(0.5)  # rounded up
        await ctx.heartbeat(seconds)

    async with asyncio.timeout(10):
        history = await spawn_and_run(backend, handler, claim_timeout_seconds=3)
    reason: Any = history.runs[-1].failure_reason
    assert (history.task.state, reason["rule"]) == ("failed", "wrong-value")
    assert reason["message"].startswith(f"heartbeat: {seconds!r} is no number of seconds")


@pytest.mark.parametrize("length", [1, 5, 30])
async def test_fence_is_never_later_than_the_claim(backend: Backend, length: int) -> None:
    """Whatever heartbeats and checkpoints follow one another, or overlap."""
    loop = asyncio.get_running_loop()

    async def handler(params: Any, ctx: TaskContext) -> Any:
        async def check() -> None:
            (run,) = await backend.list_runs(QUEUE, states=["running"])
            assert run.claim_expires_at is not None
            now = await backend.current_time()
            left = (run.claim_expires_at - now).total_seconds()
            assert ctx.fence.deadline - loop.time() <= left

        async def save(name: str) -> None:
            async def nothing() -> None: ...

            await ctx.step(name, nothing)

        await ctx.heartbeat(length)
        await check()
        await save("a")
        await check()
        await asyncio.gather(ctx.heartbeat(length), save("b"), ctx.heartbeat(2), save("c"))
        await check()
        return "right"

    history = await spawn_and_run(backend, handler, claim_timeout_seconds=3)
    assert history.task.completed_payload == "right"


async def test_handler_that_ignores_its_cancellation_is_left_behind(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`stop` is obeyed, the run is not given to others, and what the handler saves is refused."""
    monkeypatch.setattr(lease_module, "_END_SECONDS", 0.1)
    let_go, begun = asyncio.Event(), asyncio.Event()
    refused: list[str] = []

    async def handler(params: Any, ctx: TaskContext) -> Any:
        begun.set()
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue
        try:
            await ctx.emit_event("late")
        except LeaseLost as error:
            refused.append(str(error))

    await backend.spawn_task(QUEUE, "task", {})
    worker = make_worker(backend, handler)
    working = asyncio.create_task(worker.run())
    await begun.wait()
    worker.stop()
    async with asyncio.timeout(10):
        await working
    (run,) = await backend.list_runs(QUEUE)
    assert run.state == "running"
    let_go.set()
    await until(lambda: bool(refused))
    assert "did not end" in refused[0]


async def stopped_in(worker: Worker, working: asyncio.Task[None]) -> float:
    began = time.monotonic()
    worker.stop()
    async with asyncio.timeout(60):
        await working
    return time.monotonic() - began


@pytest.mark.parametrize("busy", [False, True])
async def test_stop_is_obeyed_while_the_database_is_silent(backend: Backend, busy: bool) -> None:
    database = Silent(backend)
    begun = asyncio.Event()

    async def handler(params: Any, ctx: TaskContext) -> None:
        begun.set()
        await asyncio.Event().wait()

    if busy:
        await backend.spawn_task(QUEUE, "task", {})
    worker = make_worker(database, handler, claim_timeout_seconds=60, concurrency=2)  # type: ignore[arg-type]
    working = asyncio.create_task(worker.run())
    if busy:
        await begun.wait()
    database.answers.clear()
    await asyncio.sleep(0.1)
    assert await stopped_in(worker, working) < 10, "two seconds for a claim, five to release"


async def test_stop_is_obeyed_while_a_table_is_locked(database_url: str) -> None:
    """Then the worker's statements are waiting in the server, whose cancellation takes its time."""

    async def handler(params: Any, ctx: TaskContext) -> None:
        begun.set()
        await asyncio.Event().wait()

    begun = asyncio.Event()
    async with PostgresBackend(database_url) as backend:
        await backend.create_queue(QUEUE)
        await backend.spawn_task(QUEUE, "task", {})
        worker = make_worker(backend, handler, claim_timeout_seconds=3, concurrency=2)
        working = asyncio.create_task(worker.run())
        await begun.wait()
        with psycopg.connect(database_url) as locker:
            locker.execute(f'lock table absurd."r_{QUEUE}" in access exclusive mode')
            await asyncio.sleep(1.0)
            assert await stopped_in(worker, working) < 10


async def test_worker_that_runs_until_idle_does_not_take_silence_for_idleness() -> None:
    backend = MemoryBackend(MemoryDatabase())
    await backend.create_queue(QUEUE)
    away = Away(backend)
    away.answers.clear()
    task = await backend.spawn_task(QUEUE, "task", {})

    async def handler(params: Any, ctx: TaskContext) -> str:
        return "done"

    worker = make_worker(away, handler)  # type: ignore[arg-type]
    asyncio.get_running_loop().call_later(0.3, away.answers.set)
    async with asyncio.timeout(20):
        await worker.run(until_idle=True)
    history = await backend.history(QUEUE, task.task_id)
    assert history is not None
    assert history.task.completed_payload == "done"


async def test_error_without_a_text_is_named_by_its_class(
    backend: Backend, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line of a run that could not be given back in time ended in a colon."""
    monkeypatch.setattr("absurd_contimg.core.worker._RELEASE_SECONDS", 0.2)
    database, begun = Silent(backend), asyncio.Event()

    async def handler(params: Any, ctx: TaskContext) -> Any:
        database.answers.clear()
        begun.set()
        await asyncio.Event().wait()

    task = await backend.spawn_task(QUEUE, "task", None)
    worker = make_worker(database, handler)  # type: ignore[arg-type]
    running = asyncio.create_task(worker.run())
    await begun.wait()
    worker.stop()
    await running
    history = await backend.history(QUEUE, task.task_id)
    assert history is not None
    assert f"run {history.runs[0].run_id} could not be released: TimeoutError" in caplog.messages
