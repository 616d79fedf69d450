"""What ``contimg explore`` explores: the pipeline, and a handler with everything.

The handler has steps, two sleeps, an event, a child task on another queue, and a failure that
passes, so that it has crash points of every kind.
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
from absurd_contimg.simulation.model.worker_factory import (
    HandlerWorkers,
    PipelineWorkers,
    pipeline_params,
)
from absurd_contimg.simulation.model.world import outside
from absurd_contimg.workflows.group import TASK_NAME, spawn_options


def pipeline_spec(workers: PipelineWorkers | None = None, **options: Any) -> ExplorationSpec:
    """One group on its way through the whole pipeline, whose stages do the same at any time."""
    factory = PipelineWorkers() if workers is None else workers
    queue, group_id = factory.settings.queue_name, "2026-01-01T00:00:00"
    job = Job(queue, TASK_NAME, pipeline_params(group_id), spawn_options(group_id))
    return ExplorationSpec(factory, [job], (queue,), **({"time_matters": False} | options))


def everything_spec(**options: Any) -> ExplorationSpec:
    """The handler with everything, its child's queue, and the event that it waits for."""
    workers = HandlerWorkers({"default": {"task": everything}, "children": {"child": child}})
    go = ExternalInput(150.0, lambda backend: backend.emit_event("default", "go", {"n": 1}))
    job = Job("default", "task", {"name": "x"})
    queues = ("default", "children")
    return ExplorationSpec(workers, [job], queues, external_inputs=[go], **options)


async def everything(params: Any, ctx: TaskContext) -> Any:
    """A handler with steps, two sleeps, an event, a child task and a failure that passes."""

    async def first() -> str:
        await outside("first", params["name"])
        return "one"

    name = await ctx.step("first", first)
    numbers = [await ctx.step("number", _returns(number)) for number in range(2)]
    await ctx.sleep_for("nap", 100)
    payload = await ctx.await_event("go", timeout=3600)
    child_task = await ctx.spawn("child", {}, queue="children")
    result = await ctx.await_task_result(child_task, "children", timeout=3600)
    if ctx.attempt == 1:
        raise ConnectionResetError("passes")
    await ctx.sleep_for("rest", 50)
    return {"one": name, "numbers": numbers, "payload": payload, "child": result.result}


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
