"""What a handler hands to the database and no database takes fails its own task, by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.records import SpawnOptions
from absurd_contimg.core.worker import WorkerSettings

from .worker_helpers import QUEUE, make_worker, run_until_ended, spawn_and_run

ATTEMPTS = SpawnOptions(max_attempts=2**31)
SOON = SpawnOptions(cancellation={"max_delay": "soon"})
AEONS = SpawnOptions(cancellation={"max_duration": 2**63})
KEY = SpawnOptions(idempotency_key="x" * 2700)
CALLS: dict[str, tuple[Callable[[TaskContext], Awaitable[Any]], str]] = {
    "attempts": (lambda ctx: ctx.spawn("child", {}, options=ATTEMPTS), "options.max_attempts"),
    "cancellation": (lambda ctx: ctx.spawn("child", {}, options=SOON), "cancellation.max_delay"),
    "seconds": (lambda ctx: ctx.spawn("child", {}, options=AEONS), "cancellation.max_duration"),
    "key": (lambda ctx: ctx.spawn("child", {}, options=KEY), "idempotency key"),
    "queue": (lambda ctx: ctx.spawn("child", {}, queue="q\0"), "queue_name"),
    "queue of an event": (lambda ctx: ctx.emit_event("e", {}, "x" * 58), "queue_name"),
    "event": (lambda ctx: ctx.await_event("e\ud800"), "event name"),
    "timeout": (lambda ctx: ctx.await_event("e", timeout=2**40), "timeout"),
    "task": (
        lambda ctx: ctx.await_task_result("nonsense", "q"),
        "task_id 'nonsense' is no task's id",
    ),
    "no task": (lambda ctx: ctx.task_result(None, "q"), "task_id None"),  # type: ignore[arg-type]
    "queue of a result": (lambda ctx: ctx.task_result(str(uuid4()), ""), "queue_name"),
}


async def test_refused_argument_fails_its_own_task_by_name(backend: Backend) -> None:
    """In one attempt; the same worker does the next task."""

    async def handler(params: Any, ctx: TaskContext) -> Any:
        if params["call"]:
            await CALLS[params["call"]][0](ctx)

    for name, (_, named) in CALLS.items():
        spawned = await backend.spawn_task(QUEUE, "task", {"call": name})
        history = await run_until_ended(backend, make_worker(backend, handler), spawned.task_id)
        (run,) = history.runs
        assert history.task.state == "failed", name
        assert isinstance(run.failure_reason, dict)
        assert run.failure_reason["rule"] == "wrong-value", (name, run.failure_reason)
        assert named in str(run.failure_reason["message"]), (name, run.failure_reason)
    spawned = await backend.spawn_task(QUEUE, "task", {"call": ""})
    history = await run_until_ended(backend, make_worker(backend, handler), spawned.task_id)
    assert history.task.state == "completed"


WAITS: dict[str, Callable[[TaskContext], Awaitable[Any]]] = {
    "sleep_for": lambda ctx: ctx.sleep_for("nap", 30),
    "sleep_until": lambda ctx: ctx.sleep_until("nap", 1e10),
    "await_event": lambda ctx: ctx.await_event("nap", timeout=30),
}


@pytest.mark.parametrize("kind", ["step", "tracked_step"])
@pytest.mark.parametrize("name", WAITS)
async def test_a_wait_inside_a_step_is_refused_by_name(
    backend: Backend, name: str, kind: str
) -> None:
    """The step's function began again from its start after the wait; steps in it may stand."""

    async def handler(_params: Any, ctx: TaskContext) -> None:
        async def inner(*_start: int) -> int:
            return 1

        async def outer(*_start: int) -> None:
            await getattr(ctx, kind)("inner", inner)
            await WAITS[name](ctx)

        await getattr(ctx, kind)("outer", outer)

    history = await spawn_and_run(backend, handler)
    (run,) = history.runs
    assert history.task.state == "failed"
    assert isinstance(run.failure_reason, dict)
    message = str(run.failure_reason["message"])
    assert run.failure_reason["rule"] == "wrong-value", message
    for part in ("nap", "inside the function of step 'outer'", "between its steps"):
        assert part in message
    assert set(history.checkpoint_states) >= {"inner"}
    assert "nap" not in history.checkpoint_states


async def test_a_wait_inside_a_step_that_was_begun_before_goes_on(backend: Backend) -> None:
    """By a version that let it begin: here outside of the step."""
    sleeps = [True]

    async def handler(_params: Any, ctx: TaskContext) -> Any:
        async def outer() -> int:
            await ctx.sleep_for("nap", 0.01)
            return 3

        return await outer() if sleeps and sleeps.pop() else await ctx.step("outer", outer)

    history = await spawn_and_run(backend, handler)
    assert history.task.completed_payload == 3
    assert set(history.checkpoint_states) >= {"nap", "outer"}


async def test_steps_in_steps_and_waits_after_steps_go_on(backend: Backend) -> None:
    """Also after a step that has failed, and between the begin and the end of one by hand."""

    async def handler(_params: Any, ctx: TaskContext) -> int:
        async def inner() -> int:
            return 2

        async def fails() -> None:
            raise KeyError

        with suppress(KeyError):
            await ctx.step("fails", fails)
        result = await ctx.step("outer", lambda: ctx.step("inner", inner))
        handle = await ctx.begin_step("by hand")
        await ctx.sleep_for("nap", 0.01)
        return await ctx.complete_step(handle, result)

    history = await spawn_and_run(backend, handler)
    assert history.task.completed_payload == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [("claim_timeout_seconds", 2**31), ("worker_id", "w\0"), ("queue_name", "x" * 58)],
)
def test_a_worker_whose_claims_would_be_refused_is_not_made(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        WorkerSettings(**{"queue_name": QUEUE, "worker_id": "w", name: value})
