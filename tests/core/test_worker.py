"""The worker: one handler's story at a time, on the emulator and on real Postgres."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import absurd_sdk
import pytest

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.errors import BackendUnavailable
from absurd_contimg.core.records import History, SpawnOptions, Task
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings

QUEUE = "dsa110-pipeline"

AT_ONCE = RetryPolicy(backoff_first_seconds=0.0, resource_wait_seconds=0.0)


def make_worker(
    backend: Backend, handler: Callable[[Any, Any], Awaitable[Any]], **settings: Any
) -> Worker:
    registry = TaskRegistry()
    registry.add("task", handler)
    policy = settings.pop("policy", AT_ONCE)
    defaults = {"worker_id": "worker-1", "poll_interval_seconds": 0.02, "grace_seconds": 0.0}
    return Worker(
        backend,
        registry,
        WorkerSettings(queue_name=QUEUE, **{**defaults, **settings}),
        policy=policy,
    )


async def run_until_ended(backend: Backend, worker: Worker, task_id: UUID) -> History:
    """Let the worker work until the task has ended; what happened to it."""
    running = asyncio.create_task(worker.run())
    try:
        async with asyncio.timeout(20):
            while True:
                history = await backend.history(QUEUE, task_id)
                assert history is not None
                if history.task.state in ("completed", "failed", "cancelled"):
                    return history
                if running.done():
                    running.result()
                await asyncio.sleep(0.01)
    finally:
        worker.stop()
        await running


async def spawn_and_run(
    backend: Backend,
    handler: Callable[[Any, Any], Awaitable[Any]],
    options: SpawnOptions | None = None,
    **settings: Any,
) -> History:
    spawned = await backend.spawn_task(QUEUE, "task", {"group_id": "g"}, options)
    return await run_until_ended(
        backend, make_worker(backend, handler, **settings), spawned.task_id
    )


def kinds(history: History) -> list[str]:
    return [str(r.failure_reason["kind"]) for r in history.runs if r.failure_reason]  # type: ignore[index,call-overload]


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
        # A dead process has no hands: what the worker still does must not reach the database.
        dead = asyncio.Event()
        worker = make_worker(Frozen(backend, dead), handler, claim_timeout_seconds=1)  # type: ignore[arg-type]
        dying = asyncio.create_task(worker.run())
        with pytest.raises(asyncio.CancelledError):
            await dying
    history = await run_until_ended(backend, make_worker(backend, handler), task.task_id)
    assert started == 3
    assert history.task.state == "failed"
    assert history.runs[-1].failure_reason["rule"] == "poison"  # type: ignore[index,call-overload]
    again = await backend.retry_task(QUEUE, task.task_id)
    assert again.attempt == 2


class Frozen:
    """A backend that cannot be reached once the event is set: the hands of a dead worker."""

    def __init__(self, backend: Backend, frozen: asyncio.Event) -> None:
        self._backend = backend
        self._frozen = frozen

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._backend, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self._frozen.is_set():
                raise BackendUnavailable("dead")
            return await method(*args, **kwargs)

        return call


async def test_stop_hands_the_run_back_without_costing_an_attempt(backend: Backend) -> None:
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


async def test_other_workers_runs_are_left_alone(backend: Backend) -> None:
    await backend.spawn_task(QUEUE, "task", None)
    (theirs,) = await backend.claim_task(QUEUE, "worker-2", claim_timeout=3600)
    await make_worker(backend, noop).run(until_idle=True)
    (run,) = await backend.list_runs(QUEUE, states=["running"])
    assert (run.run_id, run.claimed_by) == (theirs.run_id, "worker-2")


async def noop(params: Any, ctx: Any) -> None:
    """A handler that does nothing."""


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

    worker = make_worker(Frozen(backend, frozen), handler, claim_timeout_seconds=1)  # type: ignore[arg-type]
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(5):
        while "stopped" not in times:
            await asyncio.sleep(0.01)
    worker.stop()
    await running
    assert times["stopped"] - times["claimed"] < 1.0


class LosesReply:
    """A backend whose named procedures take effect, but whose first reply is lost."""

    def __init__(self, backend: Backend, *names: str) -> None:
        self._backend = backend
        self._names = set(names)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._backend, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            result = await method(*args, **kwargs)
            if name in self._names:
                self._names.discard(name)
                raise BackendUnavailable("connection lost before the reply")
            return result

        return call


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
async def test_lost_reply_of_a_settlement_is_recognised(
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


async def noop_step() -> None:
    """A step that does nothing."""


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


async def state_of(backend: Backend, task_id: UUID) -> Task:
    history = await backend.history(QUEUE, task_id)
    assert history is not None
    return history.task


async def test_waiting_for_an_event_can_time_out(backend: Backend) -> None:
    async def handler(params: Any, ctx: TaskContext) -> Any:
        try:
            return await ctx.await_event("never", timeout=1)
        except absurd_sdk.TimeoutError:
            return "timed out"

    history = await spawn_and_run(backend, handler)
    assert history.task.completed_payload == "timed out"


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
