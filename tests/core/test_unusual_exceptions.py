"""Whatever a handler raises is recorded, and its task ends."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Never
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from absurd_contimg.backends.memory import jsonb
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.jsonb_sanitizer import sanitized
from absurd_contimg.core.records import History
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings

QUEUE = "dsa110-pipeline"


class Speechless(Exception):
    """An error whose ``str()`` fails."""

    def __str__(self) -> str:
        raise ZeroDivisionError("a bug in the error")


class Loose(Exception):
    """An error of a user that brings details of its own, none of them JSON."""

    @property
    def failure_details(self) -> dict[str, Any]:
        return {"where": object(), "how much": float("nan")}


def chain(length: int) -> Exception:
    """A long chain of causes, as from a retry loop that keeps the last error."""
    error = OSError(errno.ENOENT, "gone")
    for number in range(length):
        outer = RuntimeError(f"try {number}")
        outer.__cause__ = error
        error = outer  # type: ignore[assignment]
    return error


def circle() -> Exception:
    first, other = RuntimeError("one"), RuntimeError("other")
    first.__cause__, other.__cause__ = other, first
    return first


def raises(make: Callable[[], BaseException]) -> Callable[[Any, TaskContext], Any]:
    async def handler(params: Any, ctx: TaskContext) -> None:
        raise make()

    return handler


def system_exit() -> Never:
    """CASA and old scripts end their process where they should raise."""
    raise SystemExit(3)


ODD: dict[str, tuple[Callable[[], BaseException], str]] = {
    "NUL in the text": (lambda: ValueError("no magic value found in \0\0\1"), "wrong-value"),
    "file name that is no UTF-8": (
        lambda: FileNotFoundError(errno.ENOENT, "gone", os.fsdecode(b"/d/\xff\xfe.ms")),
        "path-missing",
    ),
    "text that cannot be had": (Speechless, "unrecognised"),
    "errno that is no number": (lambda: OSError("x", "y"), "unrecognised"),
    "errno that is a list": (lambda: OSError(["x"], "y"), "unrecognised"),
    "details that are no JSON": (Loose, "unrecognised"),
    "text of 30 MB": (lambda: ValueError("x" * 30_000_000), "wrong-value"),
    "5000 causes": (lambda: chain(5000), "path-missing"),
    "causes in a circle": (circle, "unrecognised"),
    "group of groups": (
        lambda: ExceptionGroup("a", [ExceptionGroup("b", [ValueError("c")])]),
        "wrong-value",
    ),
    "end of the process": (system_exit, "unrecognised"),
    "group with an end of the process": (
        lambda: BaseExceptionGroup("a", [SystemExit(3)]),
        "unrecognised",
    ),
}


@pytest.mark.parametrize("name", ODD)
async def test_unusual_exception_is_recorded_like_any_other(backend: Backend, name: str) -> None:
    """Otherwise the lease would expire, and the same would happen for ever."""
    make, rule = ODD[name]
    history = await story(backend, raises(make))
    assert history.task.state == "failed"
    reasons: list[Any] = [run.failure_reason for run in history.runs]
    assert {reason["rule"] for reason in reasons} == {rule}
    assert all(len(str(reason)) < 200_000 for reason in reasons)


async def test_suspend_in_a_task_group_is_no_failure(backend: Backend) -> None:
    """A `TaskGroup` wraps it in a group, which is no `ControlFlow`."""

    async def handler(params: Any, ctx: TaskContext) -> str:
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.sleep_for("nap", 0.05))
            group.create_task(asyncio.sleep(0))
        return "awake"

    task = await backend.spawn_task(QUEUE, "task", None)
    for _ in range(100):
        history = await work(backend, handler, task.task_id)
        if history.task.state == "completed":
            break
        await asyncio.sleep(0.01)
    assert (history.task.completed_payload, len(history.runs)) == ("awake", 1)


async def test_stop_in_a_task_group_releases_the_run(backend: Backend) -> None:
    """At the start of a tracked step, where the worker is about to stop."""
    workers: list[Worker] = []

    async def begin(start: int) -> None:
        raise AssertionError("it must not begin")

    async def handler(params: Any, ctx: TaskContext) -> None:
        workers[0].stop()
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.tracked_step("image", begin))

    task = await backend.spawn_task(QUEUE, "task", None)
    history = await work(backend, handler, task.task_id, workers)
    assert [run.state for run in history.runs] == ["sleeping"]
    assert history.runs[0].available_at < datetime.now(UTC) + timedelta(seconds=1)


json_and_worse = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters())
    | st.text(st.sampled_from("\0\ud800\udfffa")) | st.binary() | st.builds(object),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner)
    | st.tuples(inner),
    max_leaves=10,
)  # fmt: skip


@given(json_and_worse)
def test_jsonb_takes_every_sanitized_value(value: object) -> None:
    """With the emulator's jsonb, which is compared with Postgres'."""
    jsonb.dumps(sanitized(value))


plain_json = st.recursive(
    st.integers() | st.text(st.characters(codec="utf-8", min_codepoint=1)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc"), inner),
    max_leaves=10,
)


@given(plain_json)
def test_sanitizing_keeps_what_jsonb_takes(value: object) -> None:
    assert sanitized(value) == value


async def story(backend: Backend, handler: Any) -> History:
    task = await backend.spawn_task(QUEUE, "task", None)
    return await work(backend, handler, task.task_id)


async def work(
    backend: Backend, handler: Any, task_id: UUID, workers: list[Worker] | None = None
) -> History:
    tasks = TaskRegistry()
    tasks.add("task", handler)
    settings = WorkerSettings(QUEUE, "worker-1", poll_interval_seconds=0.001)
    worker = Worker(backend, tasks, settings, policy=RetryPolicy(backoff_first_seconds=0.0))
    if workers is not None:
        workers.append(worker)
    await worker.run(until_idle=True)
    history = await backend.history(QUEUE, task_id)
    assert history is not None
    return history
