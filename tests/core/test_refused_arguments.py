"""What a handler hands to the database and no database takes fails its own task, by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.records import SpawnOptions
from absurd_contimg.core.worker import WorkerSettings

from .worker_helpers import QUEUE, make_worker, run_until_ended

ATTEMPTS = SpawnOptions(max_attempts=2**31)
SOON = SpawnOptions(cancellation={"max_delay": "soon"})
AEONS = SpawnOptions(cancellation={"max_duration": 2**63})
KEY = SpawnOptions(idempotency_key="x" * 2700)
CALLS: dict[str, tuple[Callable[[TaskContext], Awaitable[Any]], str]] = {
    "attempts": (lambda ctx: ctx.spawn("child", {}, options=ATTEMPTS), "options.max_attempts"),
    "cancellation": (lambda ctx: ctx.spawn("child", {}, options=SOON), "cancellation.max_delay"),
    "seconds": (lambda ctx: ctx.spawn("child", {}, options=AEONS), "cancellation.max_duration"),
    "key": (lambda ctx: ctx.spawn("child", {}, options=KEY), "idempotency key"),
    "queue": (lambda ctx: ctx.spawn("child", {}, queue="q\0"), "queue_name"),
    "queue of an event": (lambda ctx: ctx.emit_event("e", {}, "x" * 58), "queue_name"),
    "event": (lambda ctx: ctx.await_event("e\ud800"), "event name"),
    "timeout": (lambda ctx: ctx.await_event("e", timeout=2**40), "timeout"),
    "queue of a result": (lambda ctx: ctx.task_result(str(uuid4()), ""), "queue_name"),
}


async def test_refused_argument_fails_its_own_task_by_name(backend: Backend) -> None:
    """In one attempt; the same worker does the next task."""

    async def handler(params: Any, ctx: TaskContext) -> Any:
        if params["call"]:
            await CALLS[params["call"]][0](ctx)

    for name, (_, named) in CALLS.items():
        spawned = await backend.spawn_task(QUEUE, "task", {"call": name})
        history = await run_until_ended(backend, make_worker(backend, handler), spawned.task_id)
        (run,) = history.runs
        assert history.task.state == "failed", name
        assert isinstance(run.failure_reason, dict)
        assert run.failure_reason["rule"] == "wrong-value", (name, run.failure_reason)
        assert named in str(run.failure_reason["message"]), (name, run.failure_reason)
    spawned = await backend.spawn_task(QUEUE, "task", {"call": ""})
    history = await run_until_ended(backend, make_worker(backend, handler), spawned.task_id)
    assert history.task.state == "completed"


@pytest.mark.parametrize(
    ("name", "value"),
    [("claim_timeout_seconds", 2**31), ("worker_id", "w\0"), ("queue_name", "x" * 58)],
)
def test_a_worker_whose_claims_would_be_refused_is_not_made(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        WorkerSettings(**{"queue_name": QUEUE, "worker_id": "w", name: value})
