"""The outcome of a wait is a checkpoint, a timeout included, on both backends and with the SDK."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from datetime import datetime
from typing import Any
from uuid import UUID

import absurd_sdk
import pytest
from absurd_sdk import AsyncAbsurd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unreadable_rows import connected

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.errors import RunReleased
from absurd_contimg.core.records import History
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.step_names import TIMEOUT_PREFIX
from absurd_contimg.history.invariants.check import audit
from absurd_contimg.simulation.exploration.exploration_spec import (
    ExplorationSpec,
    Job,
)
from absurd_contimg.simulation.exploration.explorer import explore
from absurd_contimg.simulation.model.worker_factory import HandlerWorkers

from .worker_helpers import QUEUE, make_worker, run_until_ended, spawn_and_run


async def outcome(ctx: Any, event: str, timeout: int, step: str | None = None) -> Any:
    """How a wait ends, with the payload of an event that came."""
    try:
        return ["event", await ctx.await_event(event, step, timeout)]
    except absurd_sdk.TimeoutError:
        return ["timeout"]


async def two_waits(params: Any, ctx: Any) -> Any:
    """Two waits with timeouts in sequence, as a user of either SDK writes them."""
    return [await outcome(ctx, "first", 0), await outcome(ctx, "second", 0)]


async def test_two_waits_with_timeouts_in_sequence_end(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        history = await spawn_and_run(backend, two_waits)
    assert " waits, and frees its worker: until event first" in caplog.text
    assert history.task.completed_payload == [["timeout"], ["timeout"]]
    assert {f"{TIMEOUT_PREFIX}$awaitEvent:{name}" for name in ("first", "second")} == set(
        history.checkpoint_states
    )


@pytest.mark.parametrize("between", [False, True])
async def test_event_awaited_again_after_its_timeout_times_out_again(
    backend: Backend, between: bool
) -> None:
    async def handler(params: Any, ctx: TaskContext) -> Any:
        ends = []
        for number in range(3):
            ends.append(await outcome(ctx, "done", 0))
            if between:
                await ctx.step("check", _value(number))
        return ends

    history = await spawn_and_run(backend, handler)
    assert history.task.completed_payload == [["timeout"]] * 3


async def test_event_with_payload_null_after_a_timeout_is_an_event(backend: Backend) -> None:
    async def handler(params: Any, ctx: TaskContext) -> Any:
        first = await outcome(ctx, "done", 0)
        await ctx.emit_event("done", None)
        return [first, await outcome(ctx, "done", 0)]

    history = await spawn_and_run(backend, handler)
    assert history.task.completed_payload == [["timeout"], ["event", None]]


def test_waits_end_well_after_every_single_fault() -> None:
    """Two timeouts and an event awaited again, with a fault at each crash point."""

    async def handler(params: Any, ctx: TaskContext) -> Any:
        ends = [await outcome(ctx, name, 50) for name in ("first", "second", "first")]
        await ctx.emit_event("second", None)
        return [*ends, await outcome(ctx, "second", 50)]

    workers = HandlerWorkers({"default": {"task": handler}})
    exploration = explore(ExplorationSpec(workers, [Job("default", "task", {})]))
    assert list(map(str, exploration.findings)) == []
    assert exploration.futures == exploration.injected > 100


@pytest.mark.parametrize("before", [True, False], ids=["before the wait", "during the wait"])
async def test_event_without_a_payload_has_the_payload_null(
    backend: Backend, request: pytest.FixtureRequest, before: bool
) -> None:
    """Emitted by the procedure, in SQL too; a row with SQL's NULL is Absurd's mark for none yet."""
    url = "" if isinstance(backend, MemoryBackend) else request.getfixturevalue("database_url")

    async def wait(params: Any, ctx: Any) -> Any:
        return [await outcome(ctx, "emitted", 60), await outcome(ctx, "only stored", 0)]

    task = await backend.spawn_task(QUEUE, "task", {})
    with connected(backend, url) as client:
        insert = f'insert into absurd."e_{QUEUE}" (event_name, payload) values'
        client.execute(f"{insert} ('only stored', null)")
        worker = make_worker(backend, wait)
        if not before:
            await worker.run(until_idle=True)
            assert [each.state for each in await backend.list_tasks(QUEUE)] == ["sleeping"]
        client.execute(f"select absurd.emit_event('{QUEUE}', 'emitted', null)")
    history = await run_until_ended(backend, worker, task.task_id)
    assert history.task.completed_payload == [["event", None], ["timeout"]]


async def test_result_that_came_too_late_stays_a_timeout(backend: Backend) -> None:
    """A later attempt gets the outcome that the first one went on with."""
    await backend.create_queue("children")
    child = await backend.spawn_task("children", "child", {})

    async def handler(params: Any, ctx: TaskContext) -> Any:
        try:
            await ctx.await_task_result(str(child.task_id), "children", timeout=0)
        except absurd_sdk.TimeoutError:
            await backend.cancel_task("children", child.task_id)
            if ctx.attempt == 1:
                raise ConnectionResetError from None
            return "timeout"
        return "cancelled"

    assert (await spawn_and_run(backend, handler)).task.completed_payload == "timeout"


WRONG_WAITS: dict[str, Callable[[TaskContext], Any]] = {
    "sleep without a time zone": lambda ctx: ctx.sleep_until("s", _naive()),
    "sleep of no number": lambda ctx: ctx.sleep_for("s", float("nan")),
    "endless sleep": lambda ctx: ctx.sleep_for("s", float("inf")),
    "sleep past every calendar": lambda ctx: ctx.sleep_for("s", 1e15),
    "sleep until a text": lambda ctx: ctx.sleep_until("s", "tomorrow"),  # type: ignore[arg-type]
    "negative timeout": lambda ctx: ctx.await_event("e", timeout=-1),
    "timeout beyond an integer": lambda ctx: ctx.await_event("e", timeout=2**31),
    "timeout with a fraction": lambda ctx: ctx.await_event("e", timeout=0.5),  # type: ignore[arg-type]
    "timeout true": lambda ctx: ctx.await_event("e", timeout=True),
    "event without a name": lambda ctx: ctx.await_event(""),
    "event name with NUL": lambda ctx: ctx.await_event("a\0b"),
    "event name with a surrogate": lambda ctx: ctx.emit_event("a\udc80b"),
    "step name with NUL": lambda ctx: ctx.step("a\0b", _value(1)),
    "step name of 3000 bytes": lambda ctx: ctx.tracked_step("é" * 1500, _value(1)),
    "step without a name": lambda ctx: ctx.step("", _value(1)),
    "child without a name that can be saved": lambda ctx: ctx.spawn("\ud800", {}),
}


@pytest.mark.parametrize("wait", WRONG_WAITS)
async def test_what_is_refused_is_refused_before_it_is_saved(backend: Backend, wait: str) -> None:
    """The task fails at once, by name, and leaves no checkpoint for a mended handler to meet."""

    async def handler(params: Any, ctx: TaskContext) -> Any:
        await WRONG_WAITS[wait](ctx)

    history = await spawn_and_run(backend, handler)
    (run,) = history.runs
    assert history.task.state == "failed"
    assert isinstance(run.failure_reason, dict)
    assert run.failure_reason["rule"] == "wrong-value", run.failure_reason["message"]
    assert history.checkpoints == ()


async def test_named_wait_is_no_changed_step_in_a_later_attempt(backend: Backend) -> None:
    async def handler(params: Any, ctx: TaskContext) -> Any:
        await ctx.emit_event("ready", 1)
        payload = await ctx.await_event("ready", "wait")
        if ctx.attempt == 1:
            raise ConnectionResetError
        return payload

    history = await spawn_and_run(backend, handler, strict_steps=True)
    assert history.task.completed_payload == 1


def _value(number: int) -> Callable[..., Any]:
    async def work(*_start: int) -> int:
        return number

    return work


def _naive() -> Any:
    return datetime(2026, 1, 1)  # noqa: DTZ001 - wrong on purpose


class TestWithTheSdk:
    """A handler begun on one worker and continued on the other."""

    async def test_begun_here_and_continued_by_the_sdk(self, database_url: str) -> None:
        """The SDK takes no timeout of ours for a payload: it waits again, and times out."""
        async with PostgresBackend(database_url) as backend:
            await backend.create_queue(QUEUE)
            task = (await backend.spawn_task(QUEUE, "task", {})).task_id
            worker = make_worker(backend, self.handler)
            await _work_until(backend, worker, task, lambda history: "nap" in _names(history))
            assert f"{TIMEOUT_PREFIX}$awaitEvent:never" in _names(await _read(backend, task))
            history = await self.continue_on_the_sdk(database_url, backend, task)
        assert history.task.completed_payload == [["timeout"], ["event", {"n": 1}]]

    async def test_begun_by_the_sdk_and_continued_here(self, database_url: str) -> None:
        async with PostgresBackend(database_url) as backend:
            await backend.create_queue(QUEUE)
            task = (await backend.spawn_task(QUEUE, "task", {})).task_id
            await self.continue_on_the_sdk(database_url, backend, task, until="nap")
            history = await run_until_ended(backend, make_worker(backend, self.handler), task)
        assert history.task.completed_payload == [["timeout"], ["event", {"n": 1}]]
        assert f"{TIMEOUT_PREFIX}$awaitEvent:never" in history.checkpoint_states

    @staticmethod
    async def handler(params: Any, ctx: Any) -> Any:
        first = await outcome(ctx, "never", 0)
        await ctx.sleep_for("nap", 0.2)
        await ctx.emit_event("ready", {"n": 1})
        return [first, await outcome(ctx, "ready", 30)]

    async def continue_on_the_sdk(
        self, url: str, backend: Backend, task: UUID, until: str | None = None
    ) -> History:
        official = AsyncAbsurd(url, queue_name=QUEUE)
        official.register_task("task")(self.handler)
        async with asyncio.timeout(10):
            while True:
                await official.work_batch("w", 30, 1)
                history = await _read(backend, task)
                if history.task.state == "completed" or until in _names(history):
                    await official.close()
                    return history
                await asyncio.sleep(0.02)


async def _work_until(
    backend: Backend, worker: Any, task: UUID, reached: Callable[[History], bool]
) -> None:
    working = asyncio.create_task(worker.run())
    async with asyncio.timeout(10):
        while not reached(await _read(backend, task)):
            await asyncio.sleep(0.01)
    worker.stop()
    await working


async def _read(backend: Backend, task: UUID) -> History:
    history = await backend.history(QUEUE, task)
    assert history is not None
    return history


def _names(history: History) -> set[str | None]:
    return set(history.checkpoint_states)


Operation = tuple[str, Any]
EVENTS = st.sampled_from(["a", "b"])
OPERATIONS = st.one_of(
    st.tuples(st.just("wait"), EVENTS),
    st.tuples(st.just("emit"), st.tuples(EVENTS, st.sampled_from([None, 0, {"n": 1}]))),
    st.tuples(st.just("sleep"), st.none()),
    st.tuples(st.just("step"), st.integers(0, 9)),
    st.tuples(st.just("crash"), st.sampled_from([ConnectionResetError, RunReleased])),
)
NUMBERS = itertools.count()
POLICY = RetryPolicy(transient_attempts=99, backoff_first_seconds=0.0)


def expected(operations: Sequence[Operation]) -> list[Any]:
    """The plain model: a wait of no length gets what was emitted before it, else times out."""
    emitted: dict[str, Any] = {}
    ends: list[Any] = []
    for kind, value in operations:
        if kind == "emit":
            emitted.setdefault(*value)
        elif kind == "wait":
            ends.append(["event", emitted[value]] if value in emitted else ["timeout"])
        elif kind == "step":
            ends.append(value)
    return ends


async def run_operations(backend: Backend, operations: Sequence[Operation]) -> History:
    """The operations as a handler; each crash happens once, in the attempt that reaches it."""
    prefix, crashed = f"{next(NUMBERS)}-", set[int]()

    async def handler(params: Any, ctx: TaskContext) -> Any:
        ends: list[Any] = []
        for place, (kind, value) in enumerate(operations):
            if kind == "wait":
                ends.append(await outcome(ctx, prefix + value, 0))
            elif kind == "emit":
                await ctx.emit_event(prefix + value[0], value[1])
            elif kind == "sleep":
                await ctx.sleep_for("nap", 0.001)
            elif kind == "step":
                ends.append(await ctx.step("number", _value(value)))
            elif place not in crashed:
                crashed.add(place)
                raise value
        return ends

    task = await backend.spawn_task(QUEUE, "task", {})
    worker = make_worker(backend, handler, poll_interval_seconds=0.002, policy=POLICY)
    return await run_until_ended(backend, worker, task.task_id)


@pytest.mark.parametrize("engine", ["memory", "postgres"])
def test_waits_end_as_in_a_plain_model(
    engine: str, new_database: Callable[[], str], request: pytest.FixtureRequest
) -> None:
    """Random sequences of waits, events, sleeps, steps, failures and releases."""
    url = new_database() if engine == "postgres" else None

    @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(OPERATIONS, max_size=8))
    def check(operations: Sequence[Operation]) -> None:
        async def run() -> None:
            memory = MemoryBackend(MemoryDatabase())
            async with PostgresBackend(url) if url else nullcontext(memory) as backend:
                await backend.create_queue(QUEUE)
                history = await run_operations(backend, operations)
            assert history.task.completed_payload == expected(operations)
            assert not audit([history], POLICY)

        asyncio.run(run())

    check()


async def test_a_handler_that_swallows_its_suspension_fails_by_name(backend: Backend) -> None:
    """It went on while its run slept; what it did then was done again when the run woke."""

    async def handler(_params: Any, ctx: TaskContext) -> str:
        with suppress(BaseException):
            await ctx.sleep_for("pause", 3600)
        return "done"

    history = await spawn_and_run(backend, handler)
    assert history.task.state == "failed"
    reason = history.runs[-1].failure_reason
    assert reason["rule"] == "suspension-swallowed"  # type: ignore[index,call-overload]
