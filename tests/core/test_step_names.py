"""Names of steps that would read each other's checkpoints, or the worker's own, are refused."""

from __future__ import annotations

import math
import random
import string
from datetime import UTC, datetime
from typing import Any

import pytest

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.records import SpawnOptions
from absurd_contimg.core.step_journal import JOURNAL_PREFIXES

from .worker_helpers import QUEUE, spawn_and_run

_OWN = (
    *(prefix + "x" for prefix in JOURNAL_PREFIXES), "$stepsChanged", "$timeout:x", "$spawn:x",
    "$awaitEvent:x", "$awaitTaskResult:x",
)  # fmt: skip


async def refusal_of(backend: Backend, handler: Any) -> str:
    """The message with which the only run of such a task has failed."""
    history = await spawn_and_run(backend, handler)
    assert history.task.state == "failed"
    (run,) = history.runs
    assert isinstance(run.failure_reason, dict)
    assert run.failure_reason["rule"] == "wrong-value"
    return str(run.failure_reason["message"])


async def ask(ctx: TaskContext, kind: str, name: str) -> Any:
    """Use a name in one of the ways in which handlers do."""

    async def work(_start: int = 0) -> int:
        return 1

    match kind:
        case "step":
            return await ctx.step(name, work)
        case "tracked step":
            return await ctx.tracked_step(name, work)
        case "begin":
            return await ctx.complete_step(await ctx.begin_step(name), 1)
        case "sleep":
            return await ctx.sleep_for(name, 0)
        case "event":
            await ctx.emit_event("e", 1)
            return await ctx.await_event("e", step_name=name)
        case "spawn":
            return await ctx.spawn(name, None)


@pytest.mark.parametrize("kind", ["step", "tracked step", "begin", "sleep", "event"])
async def test_names_of_our_own_checkpoints_are_refused(backend: Backend, kind: str) -> None:
    for name in _OWN:

        async def handler(params: Any, ctx: TaskContext, name: str = name) -> Any:
            return await ask(ctx, kind, name)

        message = await refusal_of(backend, handler)
        assert repr(name) in message
        assert "the worker keeps for itself" in message


@pytest.mark.parametrize("kind", ["step", "tracked step", "begin", "sleep", "event", "spawn"])
@pytest.mark.parametrize("names", [("a", "a", "a#2"), ("a#2", "a", "a"), ("a#2", "a#2", "a#2#2")])
async def test_names_with_a_number_that_another_step_has_are_refused(
    backend: Backend, kind: str, names: tuple[str, ...]
) -> None:
    async def handler(params: Any, ctx: TaskContext) -> Any:
        for name in names:
            await ask(ctx, kind, name)

    message = await refusal_of(backend, handler)
    assert "which another step of this task has" in message
    assert names[2] in message


async def test_other_names_with_signs_are_steps_like_any_other(backend: Backend) -> None:
    async def handler(params: Any, ctx: TaskContext) -> Any:
        for name in ("a#2", "a", "b#1", "b", "b", "$price", "$spawn", "#", "x#2#2", "x", "x"):
            await ask(ctx, "step", name)

    history = await spawn_and_run(backend, handler)
    assert history.task.state == "completed"
    assert len(history.checkpoints) == 11


@pytest.mark.parametrize("kind", ["task", "idempotency key"])
async def test_what_no_index_holds_is_refused_before_the_child_is_spawned(
    backend: Backend, kind: str
) -> None:
    """Postgres refused it when the child was there, or the key; the emulator took it."""
    text = "".join(random.Random(1).choices(string.ascii_letters, k=10_000))

    async def handler(params: Any, ctx: TaskContext) -> Any:
        if kind == "task":
            return await ctx.spawn(text, None)
        return await ctx.spawn("child", None, options=SpawnOptions(idempotency_key=text))

    message = await refusal_of(backend, handler)
    assert message.startswith(f"{kind} name")
    assert "longer than 2000 bytes" in message
    (task,) = await backend.list_tasks(QUEUE)
    assert task.task_name == "task"


@pytest.mark.parametrize("duration", [math.nan, math.inf, -math.inf, 1e30, 10**30, "5", None])
async def test_sleep_of_no_time_is_refused_by_a_sentence(backend: Backend, duration: Any) -> None:
    async def for_seconds(params: Any, ctx: TaskContext) -> None:
        await ctx.sleep_for("nap", duration)

    async def until(params: Any, ctx: TaskContext) -> None:
        await ctx.sleep_until("nap", duration)

    for handler in (for_seconds, until):
        message = await refusal_of(backend, handler)
        assert f"sleep 'nap': {duration!r} is no time" in message


async def test_sleep_until_a_time_without_zone_is_refused(backend: Backend) -> None:
    async def handler(params: Any, ctx: TaskContext) -> None:
        await ctx.sleep_until("nap", datetime.now(UTC).replace(tzinfo=None))

    assert "Give an aware datetime" in await refusal_of(backend, handler)
