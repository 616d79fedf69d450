"""Workers, handlers and faulty databases for the tests of the worker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from absurd_contimg.core.backend import Backend
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
    """The history of the task once this worker, or another, has ended it."""
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


class Frozen:
    """A backend that is out of reach once the event is set, as for a dead worker."""

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


class LosesReply:
    """A backend whose named procedures take effect, while their first replies are lost."""

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


async def noop(params: Any, ctx: Any) -> None:
    """A handler that does nothing."""


async def noop_step() -> None:
    """A step that does nothing."""


async def state_of(backend: Backend, task_id: UUID) -> Task:
    history = await backend.history(QUEUE, task_id)
    assert history is not None
    return history.task
