"""Workers claim as soon as a run is due, by whatever client; without the trigger they poll."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from absurd_sdk import Absurd
from freezing_proxy import FreezingProxy
from psycopg.conninfo import make_conninfo
from transaction_pooler import TransactionPooler

from absurd_contimg.backends.postgres import PostgresBackend, queue_listener
from absurd_contimg.backends.postgres.schema import install_schema, queues_without_additions
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.operations.doctor.doctor import _additions

SOON = 5.0
"""Seconds, on a busy machine; the workers here poll once a minute."""
POLL_SECONDS = 60.0
QUEUES = ("q", 'it\'s %s "x"', "x" * 57)


class Starts:
    """A handler that does what its parameters say, and when it was called."""

    def __init__(self) -> None:
        self.calls: asyncio.Queue[float] = asyncio.Queue()

    async def handler(self, params: Any, ctx: TaskContext) -> None:
        self.calls.put_nowait(time.monotonic())
        if "sleep" in params:
            await ctx.sleep_for("sleep", params["sleep"])
        if "event" in params:
            await ctx.await_event(params["event"])

    async def next(self, seconds: float = SOON) -> float:
        """The time of the next call."""
        async with asyncio.timeout(seconds):
            return await self.calls.get()


def make_worker(
    backend: PostgresBackend,
    queue: str,
    starts: Starts,
    name: str = "w",
    poll: float = POLL_SECONDS,
) -> Worker:
    registry = TaskRegistry()
    registry.add("task", starts.handler)
    settings = WorkerSettings(queue, name, poll_interval_seconds=poll, grace_seconds=0.5)
    return Worker(backend, registry, settings)


@asynccontextmanager
async def working(url: str, queue: str = "q", poll: float = POLL_SECONDS) -> AsyncIterator[Starts]:
    """An idle worker that listens."""
    starts = Starts()
    async with PostgresBackend(url) as backend:
        worker = make_worker(backend, queue, starts, poll=poll)
        async with backend.listening(worker):
            running = asyncio.create_task(worker.run())
            await until(lambda: worker.activity.claims_tried >= 1 and is_listened_to(url))
            await asyncio.sleep(0.1)
            try:
                yield starts
            finally:
                worker.stop()
                async with asyncio.timeout(2 * SOON):
                    await running


def is_listened_to(url: str) -> bool:
    """Whether a session waits for notifications: the last thing it did was to look at sleeps."""
    query = (
        "select 1 from pg_stat_activity where datname = current_database() and state = 'idle'"
        " and query like '%min(available_at)%'"
    )
    with psycopg.connect(url) as connection:
        connection.execute("set role none")  # others' statements are hidden from a plain role
        return connection.execute(query).fetchone() is not None


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("queue", QUEUES)
@pytest.mark.parametrize("mode", ["unpartitioned", "partitioned"])
async def test_whatever_makes_a_run_due_wakes_a_worker(
    database_url: str, queue: str, mode: Any
) -> None:
    """A spawn by another SDK, the end of a sleep, an event, and a failure."""
    async with PostgresBackend(database_url) as client:
        await client.create_queue(queue, mode)
        assert queues_without_additions(database_url) == []
        app = Absurd(database_url, queue_name=queue)
        async with working(database_url, queue) as starts:
            await asyncio.to_thread(app.spawn, "task", {"sleep": 0.7}, queue=queue)
            first = await starts.next()
            assert 0.6 < await starts.next() - first < SOON
            task = await client.spawn_task(queue, "task", {"event": "ready"})
            await starts.next()
            await asyncio.sleep(0.3)
            await client.emit_event(queue, "ready", 1)
            await starts.next()
            await asyncio.sleep(0.3)
            late = await client.spawn_task(queue, "task", {"event": "never"})
            await starts.next()
            await asyncio.sleep(0.3)
            await client.fail_run(queue, late.run_id, {"name": "E"}, None)
            await starts.next()
            assert task.created
        app.close()


async def test_a_sleep_ends_in_time_where_there_is_no_trigger(database_url: str) -> None:
    async with PostgresBackend(database_url) as client:
        await client.create_queue("q")
        execute(database_url, "drop trigger contimg_due on absurd.r_q")
        task = await client.spawn_task("q", "task", {})
        (run,) = await client.claim_task("q", "somebody")
        wake_at = await client.current_time() + timedelta(seconds=2.0)
        await client.schedule_run("q", run.run_id, wake_at)
        began = time.monotonic()
        async with working(database_url) as starts:
            assert 1.0 < await starts.next() - began < SOON
        assert task.created


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


async def test_role_that_may_add_nothing_works_as_without(database_url: str) -> None:
    """And doctor says so; the owner's next ``db init`` adds what is missing, to every queue."""
    app = Absurd(database_url, queue_name="made by another SDK")
    app.create_queue()
    app.close()
    role = "no_owner_of_absurd"
    execute(
        database_url,
        f"create role {role} login",
        f"grant usage on schema absurd to {role}",
        f"grant all on all tables in schema absurd to {role}",
    )
    try:
        as_role = make_conninfo(database_url, options=f"-c role={role}")
        assert "already there" in install_schema(as_role)
        assert queues_without_additions(as_role) == ["made by another SDK"]
        finding = _additions(as_role)
        assert finding.ok
        assert "'made by another SDK': without our trigger" in finding.finding
        async with (
            PostgresBackend(as_role) as client,
            working(as_role, "made by another SDK", 0.1) as starts,
        ):
            await client.spawn_task("made by another SDK", "task", {})
            await starts.next()
        install_schema(database_url)
        assert "hear of each run" in _additions(as_role).finding
        async with (
            PostgresBackend(as_role) as client,
            working(as_role, "made by another SDK") as starts,
        ):
            await client.spawn_task("made by another SDK", "task", {})
            await starts.next()
    finally:
        execute(database_url, f"drop owned by {role}", f"drop role {role}")


async def test_tables_in_use_delay_nothing(database_url: str) -> None:
    """A transaction that was left open in a client would block every spawn behind the trigger."""
    async with PostgresBackend(database_url) as client:
        await client.create_queue("q")
        execute(database_url, "drop trigger contimg_due on absurd.r_q")
        with psycopg.connect(database_url) as forgotten:
            await client.spawn_task("q", "task", {})
            forgotten.execute("update absurd.r_q set attempt = attempt")
            async with asyncio.timeout(SOON):
                await client.create_queue("other")
            assert queues_without_additions(database_url) == ["q"]
        await client.create_queue("q")
        assert queues_without_additions(database_url) == []


async def test_two_processes_add_at_the_same_time(database_url: str) -> None:
    clients = [await PostgresBackend(database_url).open() for _ in range(4)]
    for number in range(5):
        await asyncio.gather(*(client.create_queue(f"q{number}") for client in clients))
    for client in clients:
        await client.close()
    assert queues_without_additions(database_url) == []


async def test_behind_a_pooler_workers_poll(database_url: str, tmp_path: Path) -> None:
    async with PostgresBackend(database_url) as client:
        await client.create_queue("q")
        pooler = TransactionPooler(database_url, tmp_path)
        async with pooler.running():
            starts = Starts()
            async with PostgresBackend(pooler.url) as backend:
                worker = make_worker(backend, "q", starts, poll=0.1)
                async with backend.listening(worker):
                    running = asyncio.create_task(worker.run())
                    await client.spawn_task("q", "task", {})
                    await starts.next()
                    worker.stop()
                    await running


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
async def test_silent_connection_leaves_polls_and_is_replaced(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tcp: bool
) -> None:
    monkeypatch.setattr(queue_listener, "_CALL_SECONDS", 2.0)
    monkeypatch.setattr(queue_listener, "_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(queue_listener, "_LOOK_SECONDS", 0.3)
    with FreezingProxy(database_url, tmp_path / "proxy", tcp=tcp) as proxy:
        async with PostgresBackend(database_url) as client:
            await client.create_queue("q")
            async with working(proxy.url) as starts:
                await client.spawn_task("q", "task", {})
                await starts.next()
                await asyncio.sleep(0.3)  # completed
                proxy.silence()
                await asyncio.sleep(1.5)  # so long unused, the worker's own is asked for life
                await client.spawn_task("q", "task", {})
                await starts.next(2 * SOON)
                await asyncio.sleep(0.3)
                proxy.freeze()
                await asyncio.sleep(1.0)
                proxy.thaw()
                await client.spawn_task("q", "task", {})
                await starts.next(2 * SOON)
                proxy.freeze()
                began = time.monotonic()
            assert time.monotonic() - began < 2 * SOON, "stop is obeyed"
            proxy.thaw()


async def test_a_run_that_no_worker_has_room_for_costs_no_claims(database_url: str) -> None:
    """A worker that is full, or whose gate is closed, does not claim all the time."""
    starts = Starts()
    async with PostgresBackend(database_url) as backend:
        await backend.create_queue("q")
        worker = make_worker(backend, "q", starts)

        async def closed() -> bool:
            return False

        worker.ready_to_claim = closed
        async with backend.listening(worker):
            running = asyncio.create_task(worker.run())
            (run,) = [await backend.spawn_task("q", "task", {})]
            (claimed,) = await backend.claim_task("q", "somebody")
            await backend.schedule_run("q", claimed.run_id, await backend.current_time())
            await asyncio.sleep(2.0)
            assert worker.activity.claims_tried <= 8
            worker.stop()
            await running
            assert run.created
