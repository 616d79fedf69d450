"""The worker under faults: stops, deaths, lost leases and lost replies, on both backends."""

from __future__ import annotations

import asyncio
import errno
import logging
from typing import Any

import pytest

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.retries import RetryPolicy

from .worker_helpers import (
    QUEUE,
    Frozen,
    LosesReply,
    make_worker,
    noop,
    noop_step,
    run_until_ended,
    state_of,
)


async def test_stop_releases_the_run_without_costing_an_attempt(backend: Backend) -> None:
    task = await backend.spawn_task(QUEUE, "task", None)
    begun = asyncio.Event()
    cleaned: list[str] = []

    async def handler(params: Any, ctx: TaskContext) -> Any:
        async def image(start: int) -> str:
            if start > 1:
                return "fits"
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                cleaned.append("child killed")
            return "never"

        return await ctx.tracked_step("image", image)

    worker = make_worker(backend, handler)
    running = asyncio.create_task(worker.run())
    await begun.wait()
    worker.stop()
    await running
    history = await backend.history(QUEUE, task.task_id)
    assert history is not None
    assert cleaned == ["child killed"]
    assert [run.state for run in history.runs] == ["sleeping"]
    history = await run_until_ended(
        backend, make_worker(backend, handler, worker_id="worker-2"), task.task_id
    )
    assert history.task.completed_payload == "fits"
    assert len(history.runs) == 1


async def test_restarted_worker_takes_up_its_orphans_at_once(backend: Backend) -> None:
    task = await backend.spawn_task(QUEUE, "task", None)
    await backend.claim_task(QUEUE, "worker-1", claim_timeout=3600)

    async def handler(params: Any, ctx: TaskContext) -> Any:
        return ctx.attempt

    history = await run_until_ended(backend, make_worker(backend, handler), task.task_id)
    assert history.task.completed_payload == 1


@pytest.mark.parametrize("is_stopped", [False, True])
async def test_what_a_worker_has_left_goes_before_what_came_later(
    backend: Backend, is_stopped: bool
) -> None:
    """It went to the end of the queue, behind every other group."""
    begun = asyncio.Event()
    order: list[Any] = []

    async def handler(params: Any, ctx: TaskContext) -> Any:
        order.append(params)
        if params == 0 and len(order) == 1:
            begun.set()
            await asyncio.Event().wait()
        return params

    await backend.spawn_task(QUEUE, "task", 0)
    await asyncio.sleep(0.01)
    for number in range(1, 4):
        await backend.spawn_task(QUEUE, "task", number)
    if is_stopped:
        worker = make_worker(backend, handler)
        running = asyncio.create_task(worker.run())
        await begun.wait()
        worker.stop()
        await running
    else:
        await backend.claim_task(QUEUE, "worker-1", claim_timeout=3600)
        order.append(0)
    await make_worker(backend, handler).run(until_idle=True)
    assert order == [0, 0, 1, 2, 3]


async def test_other_workers_runs_are_left_alone(backend: Backend) -> None:
    await backend.spawn_task(QUEUE, "task", None)
    (theirs,) = await backend.claim_task(QUEUE, "worker-2", claim_timeout=3600)
    await make_worker(backend, noop).run(until_idle=True)
    (run,) = await backend.list_runs(QUEUE, states=["running"])
    assert (run.run_id, run.claimed_by) == (theirs.run_id, "worker-2")


async def test_lost_lease_stops_the_handler(backend: Backend) -> None:
    """Another worker has swept the run: the first must not go on with it."""
    task = await backend.spawn_task(QUEUE, "task", None)
    stopped = asyncio.Event()

    async def handler(params: Any, ctx: TaskContext) -> Any:
        if ctx.attempt == 2:
            return "second"
        await backend.fail_run(QUEUE, ctx.run_id, {"name": "$ClaimTimeout"})
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    worker = make_worker(backend, handler, claim_timeout_seconds=1)
    history = await run_until_ended(backend, worker, task.task_id)
    assert stopped.is_set()
    assert history.task.completed_payload == "second"


async def test_worker_fences_itself_while_the_database_is_away(backend: Backend) -> None:
    """The stage is stopped before the lease ends, not after."""
    await backend.spawn_task(QUEUE, "task", None)
    loop = asyncio.get_running_loop()
    frozen = asyncio.Event()
    times: dict[str, float] = {}

    async def handler(params: Any, ctx: TaskContext) -> Any:
        times["claimed"] = loop.time()
        frozen.set()
        try:
            await asyncio.Event().wait()
        finally:
            times["stopped"] = loop.time()

    worker = make_worker(Frozen(backend, frozen), handler, claim_timeout_seconds=3)  # type: ignore[arg-type]
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(20):
        while "stopped" not in times:
            await asyncio.sleep(0.01)
    worker.stop()
    await running
    assert times["stopped"] - times["claimed"] < 3.0


async def test_end_of_an_outage_is_logged(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """By the worker that claims, and for each run that has waited under its lease."""
    caplog.set_level(logging.INFO)
    away = asyncio.Event()

    async def handler(params: Any, ctx: TaskContext) -> Any:
        away.set()
        asyncio.get_running_loop().call_later(0.3, away.clear)
        await ctx.fence()

    task = await backend.spawn_task(QUEUE, "task", None)
    worker = make_worker(Frozen(backend, away), handler, concurrency=2)  # type: ignore[arg-type]
    history = await run_until_ended(backend, worker, task.task_id)
    run = history.runs[0].run_id
    assert f"run {run}: dead; repeated under the lease" in caplog.text
    assert f"run {run}: the database took it after" in caplog.text
    outages = [line for line in caplog.messages if line == "cannot claim: dead"]
    assert len(outages) == 1  # though it is tried again and again
    assert "the database answers again, after" in caplog.text


@pytest.mark.parametrize(
    "procedure",
    ["claim_task", "complete_run", "set_task_checkpoint_state", "extend_claim", "history"],
)
async def test_lost_reply_is_recognised_and_nothing_runs_twice(
    backend: Backend, procedure: str
) -> None:
    ran = 0

    async def handler(params: Any, ctx: TaskContext) -> Any:
        async def image(start: int) -> str:
            nonlocal ran
            ran += 1
            return "fits"

        done = await ctx.tracked_step("image", image)
        await ctx.fence()
        return done

    task = await backend.spawn_task(QUEUE, "task", None)
    worker = make_worker(LosesReply(backend, procedure), handler)  # type: ignore[arg-type]
    history = await run_until_ended(backend, worker, task.task_id)
    assert history.task.completed_payload == "fits"
    assert (ran, len(history.runs)) == (1, 1)


@pytest.mark.parametrize(
    ("procedure", "error", "state", "runs"),
    [
        ("fail_run_permanently", ValueError("bad"), "failed", 1),
        ("fail_run", ConnectionResetError("net"), "failed", 3),
        ("schedule_run", OSError(errno.ENOSPC, "full"), "failed", 1),
    ],
)
async def test_lost_reply_of_a_retry_decision_is_recognised(
    backend: Backend, procedure: str, error: Exception, state: str, runs: int
) -> None:
    async def handler(params: Any, ctx: TaskContext) -> Any:
        async def image(start: int) -> None:
            raise error

        await ctx.tracked_step("image", image)

    task = await backend.spawn_task(QUEUE, "task", None)
    policy = RetryPolicy(backoff_first_seconds=0.0, resource_wait_seconds=0.0, resource_waits_max=2)
    worker = make_worker(LosesReply(backend, procedure), handler, policy=policy)  # type: ignore[arg-type]
    history = await run_until_ended(backend, worker, task.task_id)
    assert (history.task.state, len(history.runs)) == (state, runs)


async def test_cancelled_task_stops_its_handler_at_the_next_checkpoint(backend: Backend) -> None:
    task = await backend.spawn_task(QUEUE, "task", None)
    reached: list[str] = []

    async def handler(params: Any, ctx: TaskContext) -> Any:
        await backend.cancel_task(QUEUE, task.task_id)
        try:
            await ctx.step("after", noop_step)
        except Exception:  # noqa: BLE001 - what users write; control flow must get past it
            reached.append("swallowed")
        reached.append("went on")

    history = await run_until_ended(backend, make_worker(backend, handler), task.task_id)
    assert history.task.state == "cancelled"
    assert reached == []


async def test_step_that_ends_its_workers_is_poison(backend: Backend) -> None:
    """Workers die in the same step again and again: the step is not started a fourth time."""
    task = await backend.spawn_task(QUEUE, "task", None)
    started = 0

    async def handler(params: Any, ctx: TaskContext) -> Any:
        async def segfault(start: int) -> None:
            nonlocal started
            started += 1
            dead.set()
            dying.cancel()
            await asyncio.Event().wait()

        await ctx.tracked_step("image", segfault)

    for _ in range(3):
        # The worker is dead: nothing that its tasks still do may reach the database.
        dead = asyncio.Event()
        worker = make_worker(Frozen(backend, dead), handler, claim_timeout_seconds=1)  # type: ignore[arg-type]
        dying = asyncio.create_task(worker.run())
        with pytest.raises(asyncio.CancelledError):
            await dying
    history = await run_until_ended(backend, make_worker(backend, handler), task.task_id)
    assert started == 3
    assert history.task.state == "failed"
    reason: Any = history.runs[-1].failure_reason
    assert reason["rule"] == "poison"
    assert "was started 3 times; 3 times its worker died: the step" in reason["message"]
    again = await backend.retry_task(QUEUE, task.task_id)
    assert again.attempt == 2


async def test_task_without_a_handler_is_left_to_other_workers(backend: Backend) -> None:
    task = await backend.spawn_task(QUEUE, "somebody else's", None)
    await make_worker(backend, noop).run(until_idle=True)
    assert (await state_of(backend, task.task_id)).state == "sleeping"


async def test_workers_share_a_queue_without_running_a_task_twice(backend: Backend) -> None:
    tasks = [await backend.spawn_task(QUEUE, "task", n) for n in range(30)]
    ran: list[Any] = []

    async def handler(params: Any, ctx: TaskContext) -> Any:
        ran.append(params)
        await asyncio.sleep(0)
        return params

    workers = [
        make_worker(backend, handler, worker_id=f"worker-{n}", concurrency=2) for n in range(3)
    ]
    await asyncio.gather(*(worker.run(until_idle=True) for worker in workers))
    assert sorted(ran) == list(range(30))
    assert {(await state_of(backend, t.task_id)).state for t in tasks} == {"completed"}
