"""Figures of stages, read from real histories on both backends."""

from __future__ import annotations

from typing import Any

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.history.stage_figures import SAMPLE_MIN, StageFigures, read_stage_figures

QUEUE = "dsa110-pipeline"


async def test_figures_are_those_of_the_journals(backend: Backend) -> None:
    """Six tasks: each converts; one of them fails to make its image three times."""

    async def handler(params: Any, ctx: TaskContext) -> None:
        async def convert(_start: int) -> str:
            return "done"

        async def image(_start: int) -> str:
            raise ConnectionError("reset")

        await ctx.tracked_step("convert", convert)
        if params["fails"]:
            await ctx.tracked_step("image", image)

    for number in range(6):
        await backend.spawn_task(QUEUE, "task", {"fails": number == 0})
    tasks = TaskRegistry()
    tasks.add("task", handler)
    settings = WorkerSettings(QUEUE, "worker-1", poll_interval_seconds=0.01)
    policy = RetryPolicy(backoff_first_seconds=0.0)
    await Worker(backend, tasks, settings, policy=policy).run(until_idle=True)

    figures = await read_stage_figures(backend, [QUEUE, "gone"])
    assert figures.ended_starts == {
        ("convert", "done", ""): 6,
        ("image", "failed", "transient"): 1,
        ("image", "retry", "transient"): 2,
    }
    assert len(figures.step_seconds["convert", "done"]) == 6
    assert len(figures.start_waits[QUEUE]) == 8
    assert all(seconds >= 0 for seconds in figures.start_waits[QUEUE])
    assert figures.usual_seconds("convert") is not None
    assert figures.usual_seconds("image") is None


def test_percentile_needs_a_sample() -> None:
    few = StageFigures({("image", "done"): [1.0] * (SAMPLE_MIN - 1)})
    enough = StageFigures({("image", "done"): [float(n) for n in range(1, 101)]})
    assert few.usual_seconds("image") is None
    assert enough.usual_seconds("image") == 95.0
