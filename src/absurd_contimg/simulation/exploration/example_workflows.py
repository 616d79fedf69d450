"""A handler with everything a handler may have, so that crash points of each kind are met.

Steps, two sleeps, an event, a child task on another queue, and a failure that passes. It is what
``contimg explore --world handler`` explores, and what the tests of the explorer use.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from absurd_contimg.core.context import TaskContext
from absurd_contimg.simulation.exploration.exploration_spec import (
    ExplorationSpec,
    ExternalInput,
    Job,
)
from absurd_contimg.simulation.model.worker_factory import HandlerWorkers
from absurd_contimg.simulation.model.world import outside


async def everything(params: Any, ctx: TaskContext) -> Any:
    """A handler with steps, two sleeps, an event, a child task and a failure that passes."""

    async def first() -> str:
        await outside("first", params["name"])
        return "one"

    one = await ctx.step("first", first)
    numbers = [await ctx.step("number", _returns(number)) for number in range(2)]
    await ctx.sleep_for("nap", 100)
    payload = await ctx.await_event("go", timeout=3600)
    child = await ctx.spawn("child", {}, queue="children")
    result = await ctx.await_task_result(child, "children", timeout=3600)
    if ctx.attempt == 1:
        raise ConnectionResetError("passes")
    await ctx.sleep_for("rest", 50)
    return {"one": one, "numbers": numbers, "payload": payload, "child": result.result}


def _returns(number: int) -> Callable[[], Awaitable[int]]:
    async def work() -> int:
        return number

    return work


async def child(_params: Any, ctx: TaskContext) -> Any:
    """One step."""

    async def work() -> int:
        await outside("child")
        return 7

    return await ctx.step("work", work)


def everything_spec(**options: Any) -> ExplorationSpec:
    """The handler with everything, its child's queue, and who sends the event."""
    workers = HandlerWorkers({"default": {"task": everything}, "children": {"child": child}})
    go = ExternalInput(150.0, lambda backend: backend.emit_event("default", "go", {"n": 1}))
    job = Job("default", "task", {"name": "x"})
    return ExplorationSpec(workers, [job], ("default", "children"), external_inputs=[go], **options)
