"""A task whose stored row makes every claim fail is ended by name, and the others go on."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from unreadable_rows import connected, store

from absurd_contimg.backends.memory import MemoryBackend
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.errors import BackendError, BackendUnavailable

from .worker_helpers import QUEUE, make_worker, noop

RULES = (
    *("1" + "0" * 308, "1" + "0" * 400, "1" + "0" * 4999, "9223372036854775808", "12.5", "true"),
    *('"soon"', '""', '"1 hour"', "[60]", '{"seconds": 60}', '"\u0663"', '"1\\u001c"'),
)
BLOCKING = {
    **{
        f"{name} {value[:20]}": f'update absurd."t_{QUEUE}" set cancellation = '
        f"'{{\"{name}\": {value}}}'::jsonb where task_id = %s"
        for value in RULES
        for name in ("max_delay", "max_duration")
    },
    "expired run of the last attempt there is": (
        f"update absurd.\"r_{QUEUE}\" set attempt = 2147483647, state = 'running',"
        " claim_expires_at = '2020-01-01 00:00Z'::timestamptz where task_id = %s"
    ),
}
HARMLESS = (
    *('{"max_delay": "0x7fffffff"}', '{"max_delay": " 6_0000 "}', '{"max_duration": "+60"}'),
    *('{"max_delay": null}', "[60]", '"max_delay"', '{"max_delay": 9223372036854775807}'),
)


@pytest.fixture
def url(request: pytest.FixtureRequest, backend: Backend) -> str:
    """Of the backend's database; the emulator has none."""
    if isinstance(backend, MemoryBackend):
        return ""
    return str(request.getfixturevalue("database_url"))


async def test_rows_that_refuse_every_claim_end_their_own_tasks(
    backend: Backend, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """All of them in one queue, between healthy tasks, which a worker does until it is idle."""
    blocking, healthy = {}, []
    with connected(backend, url) as connection:
        for statement in BLOCKING.values():
            task = await backend.spawn_task(QUEUE, "task", {})
            store(connection, statement, task.task_id)
            blocking[task.task_id] = statement
            healthy.append((await backend.spawn_task(QUEUE, "task", {})).task_id)
        for rules in HARMLESS:
            task = await backend.spawn_task(QUEUE, "task", {})
            statement = (
                f"update absurd.\"t_{QUEUE}\" set cancellation = '{rules}' where task_id = %s"
            )
            store(connection, statement, task.task_id)
            healthy.append(task.task_id)
    with pytest.raises(BackendError):
        await backend.claim_task(QUEUE, "another client", 60)
    with caplog.at_level(logging.ERROR):
        async with asyncio.timeout(60):
            await make_worker(backend, noop).run(until_idle=True)
    for task_id in healthy:
        history = await backend.history(QUEUE, task_id)
        assert history is not None
        assert history.task.state == "completed", history.task.cancellation
    for task_id, statement in blocking.items():
        history = await backend.history(QUEUE, task_id)
        assert history is not None
        assert history.task.state == "cancelled", statement
        assert str(task_id) in caplog.text
        outside: Any = history.checkpoint_states["$start:"]
        assert outside["outside"]["rule"] == "unreadable-value", statement
        assert "Spawn the task again" in outside["outside"]["advice"]


async def test_run_that_cannot_be_failed_is_cancelled_at_once(backend: Backend, url: str) -> None:
    """Its handler fails; the count of its attempts is at its end."""

    async def fail(params: Any, ctx: TaskContext) -> None:
        raise ConnectionError("again")

    task = await backend.spawn_task(QUEUE, "task", {})
    with connected(backend, url) as connection:
        statement = f'update absurd."r_{QUEUE}" set attempt = 2147483647 where task_id = %s'
        store(connection, statement, task.task_id)
    async with asyncio.timeout(20):
        await make_worker(backend, fail, claim_timeout_seconds=60).run(until_idle=True)
    history = await backend.history(QUEUE, task.task_id)
    assert history is not None
    assert history.task.state == "cancelled"
    outside: Any = history.checkpoint_states["$start:"]
    assert "cannot be failed" in outside["outside"]["message"]


class Refusing:
    """A backend whose named calls fail."""

    def __init__(self, backend: Backend, error: BackendError, *names: str) -> None:
        self._backend, self._error, self._names = backend, error, names

    def __getattr__(self, name: str) -> Any:
        async def refuse(*args: Any, **kwargs: Any) -> Any:
            raise self._error

        return refuse if name in self._names else getattr(self._backend, name)


async def test_reason_that_cannot_be_noted_keeps_no_queue_blocked(
    backend: Backend, url: str
) -> None:
    task = await backend.spawn_task(QUEUE, "task", {})
    with connected(backend, url) as connection:
        store(connection, BLOCKING["max_delay 12.5"], task.task_id)
    refusal = BackendError("not this row", "23514")
    refusing: Any = Refusing(backend, refusal, "set_task_checkpoint_state")
    await make_worker(refusing, noop).run(until_idle=True)
    assert [each.state for each in await backend.list_tasks(QUEUE)] == ["cancelled"]


async def test_database_that_goes_away_meanwhile_ends_no_worker(backend: Backend, url: str) -> None:
    task = await backend.spawn_task(QUEUE, "task", {})
    with connected(backend, url) as connection:
        store(connection, BLOCKING["max_delay 12.5"], task.task_id)
    away = BackendUnavailable("away")
    refusing: Any = Refusing(backend, away, "cancel_task")
    with pytest.raises(BackendError, match=r"12\.5"):
        await make_worker(refusing, noop).run(until_idle=True)
    await make_worker(backend, noop).run(until_idle=True)
    assert [each.state for each in await backend.list_tasks(QUEUE)] == ["cancelled"]
