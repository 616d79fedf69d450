"""Forks: a task that begins at a step of another one, with the results before it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.forks import FORKED, Fork, fork_options, fork_points
from absurd_contimg.core.records import History, SpawnOptions
from absurd_contimg.core.step_journal import START_PREFIX
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.errors import SettingError
from absurd_contimg.history.summary import summarize
from absurd_contimg.simulation.exploration.exploration_spec import (
    ExplorationSpec,
    ExternalInput,
    Job,
)
from absurd_contimg.simulation.exploration.explorer import explore
from absurd_contimg.simulation.model.worker_factory import HandlerWorkers

QUEUE = "dsa110-pipeline"
STEPS = ("read", "flag", "image")


async def run_all(backend: Backend, handler: Any) -> None:
    """Let a worker run what there is."""
    registry = TaskRegistry()
    registry.add("task", handler)
    settings = WorkerSettings(QUEUE, "worker", poll_interval_seconds=0.01)
    await asyncio.wait_for(Worker(backend, registry, settings).run(until_idle=True), 60)


async def steps(params: Any, ctx: TaskContext) -> Any:
    """Three steps whose results say which task has made them; one is tracked, one repeated."""

    async def work() -> str:
        return ctx.task_id

    async def tracked(_start: int) -> str:
        return ctx.task_id

    read = await ctx.step("read", work)
    event = await ctx.await_event("calibrated")
    flag = [await ctx.step("flag", work) for _ in range(2)]
    image = await ctx.tracked_step("image", tracked)
    return {"read": read, "event": event, "flag": flag, "image": image}


async def completed(backend: Backend) -> History:
    """A task that has gone through all steps."""
    await backend.emit_event(QUEUE, "calibrated", 7)
    task = await backend.spawn_task(
        QUEUE, "task", {"group_id": "G"}, SpawnOptions(headers={"workflow_version": 3})
    )
    await run_all(backend, steps)
    history = await backend.history(QUEUE, task.task_id)
    assert history is not None
    assert history.task.state == "completed"
    return history


async def forked(backend: Backend, parent: History, step: str) -> History:
    """The fork at a step, after its end."""
    options = fork_options(parent, step)
    task = await backend.spawn_task(QUEUE, "task", parent.task.params, options)
    await run_all(backend, steps)
    history = await backend.history(QUEUE, task.task_id)
    assert history is not None
    return history


@pytest.mark.parametrize(
    ("step", "own"),
    [
        ("read", ["read", "flag", "flag#2", "image"]),
        ("flag", ["flag", "flag#2", "image"]),
        ("flag#2", ["flag#2", "image"]),
        ("image", ["image"]),
    ],
)
async def test_fork_has_the_results_before_the_step_and_makes_the_others(
    backend: Backend, step: str, own: list[str]
) -> None:
    """Events and repeated steps too; the header of the version stays."""
    parent = await completed(backend)
    fork = await forked(backend, parent, step)
    assert fork.task.state == "completed", fork.runs
    ours, theirs = str(fork.task.task_id), str(parent.task.task_id)
    states = fork.checkpoint_states
    names = ("read", "flag", "flag#2", "image")
    assert {name: states[name] for name in names} == {
        name: ours if name in own else theirs for name in names
    }
    assert fork.task.headers["workflow_version"] == 3  # type: ignore[index,call-overload]
    assert summarize(fork).forked_from == Fork(QUEUE, parent.task.task_id, step)
    assert {start.step for start in summarize(fork).starts} == {"image"}
    assert len(fork.runs) == 1


async def test_fork_at_the_step_that_has_failed(backend: Backend) -> None:
    """A step without a result is a fork point, and a step that never began is none."""

    async def fails(params: Any, ctx: TaskContext) -> Any:
        async def read() -> str:
            return ctx.task_id

        async def image(_start: int) -> str:
            raise ValueError("no image")

        await ctx.step("read", read)
        return await ctx.tracked_step("image", image)

    task = await backend.spawn_task(QUEUE, "task", {}, SpawnOptions(max_attempts=1))
    await run_all(backend, fails)
    parent = await backend.history(QUEUE, task.task_id)
    assert parent is not None
    assert fork_points(parent) == ["read", "image"]
    with pytest.raises(SettingError, match="has no step 'mosaic'; there are: read, image"):
        fork_options(parent, "mosaic")
    await backend.emit_event(QUEUE, "calibrated", 7)
    fork = await forked(backend, parent, "image")
    assert fork.checkpoint_states["read"] == str(task.task_id)
    assert fork.checkpoint_states["image"] == str(fork.task.task_id)
    assert START_PREFIX + "image" in fork.checkpoint_states


async def test_fork_of_a_fork(backend: Backend) -> None:
    """What it has from its own parent counts as its own."""
    first = await forked(backend, await completed(backend), "flag")
    second = await forked(backend, first, "image")
    states = second.checkpoint_states
    assert states["flag"] == str(first.task.task_id)
    assert states["read"] == first.checkpoint_states["read"]


async def test_parent_that_is_gone_fails_the_fork_by_name(backend: Backend) -> None:
    """It is not run from the beginning as if nothing were known."""
    parent = await completed(backend)
    options = fork_options(parent, "image")
    assert await backend.cleanup_tasks(QUEUE, 0) == 1
    task = await backend.spawn_task(QUEUE, "task", {}, options)
    await run_all(backend, steps)
    history = await backend.history(QUEUE, task.task_id)
    assert history is not None
    assert "from which this one was forked, is gone" in str(history.runs[0].failure_reason)
    assert FORKED not in history.checkpoint_states


@pytest.mark.parametrize(
    "headers", [None, {"forked_from": 1}, {"forked_from": {"queue": 1}}, {"forked_from": {
        "queue": "q", "task_id": "no id", "step": "s"}}]
)  # fmt: skip
def test_header_that_is_no_fork_counts_for_nothing(headers: Any) -> None:
    """Another client may store anything."""
    assert Fork.of(headers) is None


def test_fault_at_every_crash_point_of_a_fork() -> None:
    """Each step has a result of the parent before the chosen step, and of the fork from it on."""

    async def handler(params: Any, ctx: TaskContext) -> Any:
        async def work() -> str:
            return "fork" if "forked_from" in ctx.headers else "parent"

        async def tracked(_start: int) -> str:
            return await work()

        first = await ctx.step("first", work)
        await ctx.sleep_for("nap", 10)
        second = await ctx.tracked_step("second", tracked)
        third = await ctx.step("third", work)
        expected = ["parent", "fork" if "forked_from" in ctx.headers else "parent"]
        assert [first, second] == expected, [first, second]
        return [first, second, third]

    async def fork(backend: Backend) -> None:
        *_, task = await backend.list_tasks("default")  # the oldest, also when asked again
        parent = await backend.history("default", task.task_id)
        assert parent is not None
        await backend.spawn_task("default", "task", {}, fork_options(parent, "second", "fork"))

    spec = ExplorationSpec(
        HandlerWorkers({"default": {"task": handler}}),
        [Job("default", "task", {})],
        external_inputs=[ExternalInput(2_000.0, fork)],
        ends_after_seconds=2_100.0,
    )
    exploration = explore(spec)
    assert not exploration.findings, str(exploration.findings[0])
    assert exploration.futures > 100
