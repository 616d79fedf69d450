"""The read model over many tasks: summaries, order of steps, figures, on both backends."""

from __future__ import annotations

import errno
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.history.metrics import measure, percentile
from absurd_contimg.history.summary import read_histories, summarize
from absurd_contimg.history.timeline import step_order, step_starts
from absurd_contimg.operations.night_report.task_reading import interruption, operations_facts

QUEUE = "dsa110-pipeline"


async def worked(backend: Backend, steps_of_tasks: list[list[str]], failing: str = "") -> None:
    """One task for each list of steps, each done by one worker; `failing` fails every time."""

    async def handler(params: Any, ctx: TaskContext) -> str:
        for step in params["steps"]:
            await ctx.tracked_step(step, work(step))
        return "done"

    def work(step: str) -> Any:
        async def run(_start: int) -> str:
            if step == failing:
                raise ConnectionError("reset")
            return step

        return run

    for number, steps in enumerate(steps_of_tasks):
        await backend.spawn_task(QUEUE, "task", {"group_id": f"G{number}", "steps": steps})
    tasks = TaskRegistry()
    tasks.add("task", handler)
    settings = WorkerSettings(QUEUE, "worker-1", poll_interval_seconds=0.01)
    policy = RetryPolicy(backoff_first_seconds=0.0)
    await Worker(backend, tasks, settings, policy=policy).run(until_idle=True)


async def test_summaries_tell_state_steps_and_failures(backend: Backend) -> None:
    """Newest task first; a failed task tells its kind, rule and step, and where it was tried."""
    await worked(backend, [["convert", "flag"], ["convert", "image"]], failing="image")
    failed, done = map(summarize, await read_histories(backend, QUEUE))
    assert (done.state, done.result, done.group, list(done.steps)) == (
        "completed",
        "done",
        "G0",
        ["convert", "flag"],
    )
    assert (done.failures, done.waiting, done.last_failure) == ((), None, None)
    assert done.ended_at is not None
    assert [start.outcome for start in failed.starts] == ["done", "retry", "retry", "failed"]
    assert failed.starts[-1].ending == "failed: transient (connection)"
    assert failed.last_failure is not None
    assert (failed.last_failure.rule, failed.last_failure.step) == ("connection", "image")
    assert [failure.final for failure in failed.failures] == [False, False, True]
    (completed,) = await read_histories(backend, QUEUE, states=["completed"])
    assert summarize(completed) == done


async def test_the_end_of_a_start_is_when_it_failed_not_when_it_was_tried_again() -> None:
    """The wait for its retry, or for space, was counted as time in it."""
    late = timedelta(0)
    memory = MemoryBackend(MemoryDatabase(clock=lambda: datetime.now(UTC) + late))
    await memory.create_queue(QUEUE)
    failures: list[Exception] = [OSError(errno.ENOSPC, "No space left"), ConnectionError("reset")]

    async def image(_start: int) -> str:
        if failures:
            raise failures.pop(0)
        return "done"

    async def handler(_params: Any, ctx: TaskContext) -> None:
        await ctx.tracked_step("image", image)

    await memory.spawn_task(QUEUE, "task", {"group_id": "G1"})
    tasks = TaskRegistry()
    tasks.add("task", handler)
    settings = WorkerSettings(QUEUE, "worker-1", poll_interval_seconds=0.01)
    for _ in range(3):
        worker = Worker(memory, tasks, settings, policy=RetryPolicy(transient_attempts=3))
        await worker.run(until_idle=True)
        late += timedelta(hours=8)
    (history,) = await read_histories(memory, QUEUE)
    starts = step_starts(history)
    assert [start.outcome for start in starts] == ["waiting", "retry", "done"]
    assert starts[1].started_at - starts[0].started_at > timedelta(hours=7)
    assert all(start.seconds is not None and start.seconds < 60 for start in starts)
    facts = operations_facts([history], [])
    assert (facts.wasted_starts, facts.wasted_seconds < 60) == (2, True)
    (lacked,) = facts.interruptions  # a failure that was tried again is none
    assert lacked.endswith("UTC, worker-1: image of G1 lacked disk space")
    dead = replace(starts[1], outcome="died", ended_at=None, noted=None)
    died = interruption(history, dead)
    assert died.startswith(f"{dead.started_at:%Y-%m-%d %H:%M:%S} UTC, worker-1: ")
    assert died.endswith("died in image of G1, which began then")


async def test_order_of_steps_comes_from_the_journals(backend: Backend) -> None:
    """A step that only one task has stands behind the step that it followed there."""
    await worked(backend, [["convert", "image"], ["convert", "flag", "image"], ["convert"]])
    histories = await read_histories(backend, QUEUE)
    assert step_order(histories) == ("convert", "flag", "image")
    assert step_order([]) == ()


async def test_figures_count_states_failures_and_durations(backend: Backend) -> None:
    await worked(backend, [["convert"], ["convert", "image"]], failing="image")
    figures = measure(await read_histories(backend, QUEUE))
    assert figures.tasks_by_state == {"completed": 1, "failed": 1}
    assert figures.failures_by_kind == {"transient": 3}
    assert figures.failures_by_rule == {"connection": 3}
    assert {step: len(seconds) for step, seconds in figures.step_seconds.items()} == {"convert": 2}
    assert figures.lost_starts == {"failed": 3}
    (latency,) = figures.latency_seconds
    assert latency >= 0


@pytest.mark.parametrize(("share", "value"), [(0.0, 1.0), (0.5, 2.0), (0.75, 3.0), (1.0, 4.0)])
def test_percentile_is_the_nearest_rank(share: float, value: float) -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], share) == value
    assert math.isnan(percentile([], share))
