"""What ``contimg history`` shows of a task without tracked steps: its attempts and its result."""

from __future__ import annotations

import errno
import re
from datetime import timedelta
from typing import Any

from rich.console import Console

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.records import History, Json
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.operations.attempts import result_line
from absurd_contimg.operations.console import SafeConsole
from absurd_contimg.operations.terminal import history_table

QUEUE = "dsa110-pipeline"


def shown(history: History) -> str:
    console: Console = SafeConsole(width=300, highlight=False, emoji=False)
    with console.capture() as capture:
        console.print(history_table(history))
        console.print(result_line(history), soft_wrap=True)
    return capture.get()


async def worked(
    backend: Backend, result: Json, sleep_seconds: float = 0.0, *, fails_first: bool = False
) -> History:
    """The history of a completed task that has slept so long after its step."""

    async def order(_params: Any, ctx: TaskContext) -> Json:
        if fails_first and ctx.attempt == 1:
            raise OSError(errno.EBUSY, "busy", "/data/table.lock")

        async def charge() -> bool:
            return True

        await ctx.step("charge", charge)
        if sleep_seconds:
            await ctx.sleep_for("cooling off", sleep_seconds)
        return result

    tasks = TaskRegistry()
    tasks.add("order", order)
    spawned = await backend.spawn_task(QUEUE, "order", {})
    settings = WorkerSettings(QUEUE, "w", poll_interval_seconds=0.02)
    worker = Worker(backend, tasks, settings, policy=RetryPolicy(backoff_first_seconds=0.0))
    while True:
        await worker.run(until_idle=True)
        history = await backend.history(QUEUE, spawned.task_id)
        assert history is not None
        if history.task.state == "completed":
            return history


async def test_an_attempt_that_slept_tells_its_beginning_and_when_it_was_resumed(
    backend: Backend,
) -> None:
    """It began, by the table, when it was last claimed, and took no time."""
    history = await worked(backend, None, 1.1)
    (run,) = history.runs
    began = history.task.first_started_at
    assert began is not None
    assert run.started_at is not None
    assert run.started_at - began > timedelta(seconds=1)
    text = shown(history)
    assert f" {began:%H:%M:%S}, last resumed {run.started_at:%H:%M:%S} " in text


async def test_a_later_attempt_that_slept_tells_that_it_was_resumed(backend: Backend) -> None:
    """When it began is not known then: only the first attempt of a task keeps that."""
    history = await worked(backend, None, 1.1, fails_first=True)
    resumed = history.runs[-1].started_at
    assert len(history.runs) == 2
    assert f" last resumed {resumed:%H:%M:%S} " in shown(history)


async def test_an_attempt_in_one_piece_tells_its_beginning_alone(backend: Backend) -> None:
    text = shown(await worked(backend, None))
    assert "resumed" not in text
    assert "Result" not in text


async def test_the_result_of_a_task_is_shown(backend: Backend) -> None:
    assert 'Result: {"charged": 950}' in shown(await worked(backend, {"charged": 950}))


async def test_a_result_is_shown_short_masked_and_harmless(backend: Backend) -> None:
    text = shown(
        await worked(
            backend,
            ["[/]\x1b[2J\nFORGED", "postgresql://anna:geheim@db/x", "[bold]b", "x " * 9000],
        )
    )
    assert "geheim" not in text
    assert "\x1b[2J" not in text
    assert "[bold]b" in text
    assert not [line for line in text.splitlines() if line.strip().startswith("FORGED")]
    (line,) = re.findall(r"Result: (.*)", text)
    assert line.endswith("...")
    assert len(line) <= 300
