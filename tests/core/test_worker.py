"""The worker and its handler: results, retries, waits and events, on both backends."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import absurd_sdk
import pytest

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.records import SpawnOptions

from .worker_helpers import QUEUE, kinds, make_worker, run_until_ended, spawn_and_run, state_of


async def test_result_of_the_handler_is_the_result_of_the_task(backend: Backend) -> None:
    async def handler(params: Any, ctx: TaskContext) -> Any:
        return {"params": params, "attempt": ctx.attempt}

    history = await spawn_and_run(backend, handler)
    assert history.task.completed_payload == {"params": {"group_id": "g"}, "attempt": 1}


async def test_committed_step_is_never_run_again(backend: Backend) -> None:
    ran: list[str] = []

    async def handler(params: Any, ctx: TaskContext) -> Any:
        async def convert(start: int) -> str:
            ran.append(f"convert {start}")
            return "ms"

        async def image(start: int) -> str:
            ran.append(f"image {start}")
            if start == 1:
                raise ConnectionResetError("the file server went away")
            return "fits"

        return [await ctx.tracked_step("convert", convert), await ctx.tracked_step("image", image)]

    history = await spawn_and_run(backend, handler)
    assert history.task.completed_payload == ["ms", "fits"]
    assert ran == ["convert 1", "image 1", "image 2"]
    assert kinds(history) == ["transient"]


@pytest.mark.parametrize(
    ("error", "runs", "kind"),
    [
        (FileNotFoundError(errno.ENOENT, "no such file"), 1, "permanent"),
        (PermissionError(errno.EACCES, "not yours"), 1, "permanent"),
        (ValueError("imsize must be positive"), 1, "permanent"),
        (TimeoutError("no answer"), 3, "transient"),
        (RuntimeError("something new"), 2, "unknown"),
    ],
)
async def test_failure_gets_the_retries_of_its_kind(
    backend: Backend, error: Exception, runs: int, kind: str
) -> None:
    async def handler(params: Any, ctx: TaskContext) -> Any:
        raise error

    history = await spawn_and_run(backend, handler)
    assert history.task.state == "failed"
    assert kinds(history) == [kind] * runs


async def test_budget_is_counted_per_step(backend: Backend) -> None:
    """A flaky early step does not eat the budget of a later one."""
    left = {"convert": 2, "image": 2}

    async def handler(params: Any, ctx: TaskContext) -> Any:
        for step in left:

            async def work(start: int, step: str = step) -> None:
                if left[step] > 0:
                    left[step] -= 1
                    raise ConnectionResetError(step)

            await ctx.tracked_step(step, work)

    history = await spawn_and_run(backend, handler)
    assert history.task.state == "completed"
    assert len(history.runs) == 5


async def test_spawners_own_max_attempts_is_kept(backend: Backend) -> None:
    async def handler(params: Any, ctx: TaskContext) -> Any:
        raise ConnectionResetError("again")

    history = await spawn_and_run(backend, handler, SpawnOptions(max_attempts=5))
    assert [run.attempt for run in history.runs] == [1, 2, 3, 4, 5]


async def test_permanent_failure_leaves_operators_retry_possible(backend: Backend) -> None:
    broken = True

    async def handler(params: Any, ctx: TaskContext) -> Any:
        if broken:
            raise FileNotFoundError(errno.ENOENT, "sub-band file gone")
        return "done"

    history = await spawn_and_run(backend, handler, SpawnOptions(max_attempts=5))
    assert len(history.runs) == 1
    broken = False
    again = await backend.retry_task(QUEUE, history.task.task_id)
    history = await run_until_ended(backend, make_worker(backend, handler), again.task_id)
    assert history.task.completed_payload == "done"


async def test_full_disk_lets_the_run_wait_without_costing_an_attempt(backend: Backend) -> None:
    full = [True, True, False]

    async def handler(params: Any, ctx: TaskContext) -> Any:
        async def image(start: int) -> str:
            if full[start - 1]:
                raise OSError(errno.ENOSPC, "No space left on device")
            return "fits"

        return await ctx.tracked_step("image", image)

    history = await spawn_and_run(backend, handler)
    assert history.task.state == "completed"
    assert len(history.runs) == 1
    starts = {c.checkpoint_name: c.state for c in history.checkpoints}["$start:image"]
    outcomes = [each["outcome"] for each in starts["starts"]]  # type: ignore[index,call-overload]
    assert [each and (each["action"], each["rule"]) for each in outcomes] == [
        ("waiting", "disk-full"),
        ("waiting", "disk-full"),
        None,
    ]


async def test_users_except_exception_cannot_swallow_a_suspend(backend: Backend) -> None:
    async def handler(params: Any, ctx: TaskContext) -> Any:
        try:
            await ctx.sleep_for("nap", 0.05)
        except Exception:  # noqa: BLE001 - what users write
            return "swallowed"
        return "slept"

    history = await spawn_and_run(backend, handler)
    assert history.task.completed_payload == "slept"


async def test_event_wakes_the_task_with_its_payload(backend: Backend) -> None:
    async def handler(params: Any, ctx: TaskContext) -> Any:
        return await ctx.await_event("calibration.available:g")

    task = await backend.spawn_task(QUEUE, "task", None)
    worker = make_worker(backend, handler)
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(5):
        while (await state_of(backend, task.task_id)).state != "sleeping":
            await asyncio.sleep(0.01)
    worker.stop()
    await running
    await backend.emit_event(QUEUE, "calibration.available:g", {"set": "a"})
    history = await run_until_ended(backend, make_worker(backend, handler), task.task_id)
    assert history.task.completed_payload == {"set": "a"}


async def test_waiting_for_an_event_can_time_out(backend: Backend) -> None:
    async def handler(params: Any, ctx: TaskContext) -> Any:
        try:
            return await ctx.await_event("never", timeout=1)
        except absurd_sdk.TimeoutError:
            return "timed out"

    history = await spawn_and_run(backend, handler)
    assert history.task.completed_payload == "timed out"
