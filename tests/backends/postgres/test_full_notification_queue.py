"""The server's queue of notifications is full: the database cannot do it now, no value is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import pytest

from absurd_contimg.backends.postgres import EmbeddedPostgres, PostgresBackend
from absurd_contimg.backends.postgres.database_errors import raise_translated
from absurd_contimg.backends.postgres.schema import install_schema
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.errors import BackendUnavailable, ValueRefused
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings

QUEUE = "q"
REMEDY = "select pg_notification_queue_usage()"


@pytest.fixture
def server_url() -> Iterator[str]:
    """A database on a server whose queue of notifications has the least size."""
    with TemporaryDirectory() as folder:  # short, for the path of a socket
        server = EmbeddedPostgres(Path(folder) / "postgres", durable=False)
        with server:
            connection = psycopg.connect(server.create_database("first"), autocommit=True)
            connection.execute("alter system set max_notify_queue_pages = 64")
            connection.close()
        with server:
            url = server.create_database("site")
            install_schema(url)
            yield url


def fill_queue(url: str) -> psycopg.Connection[Any]:
    """Fill the queue; the session that listens, stays in a transaction and so keeps it full."""
    listener = psycopg.connect(url, autocommit=True)
    for statement in ("listen something", "begin", "select 1"):
        listener.execute(statement)
    with psycopg.connect(url, autocommit=True) as connection:
        for number in range(1000):
            text = f"{number}{'a' * 7900}"
            try:
                connection.execute("select pg_notify('something', %s)", (text,))
            except psycopg.errors.ProgramLimitExceeded:
                return listener
    raise AssertionError("the queue of notifications never was full")


def empty_queue(url: str, listener: psycopg.Connection[Any]) -> None:
    """What the message advises."""
    listener.close()
    with psycopg.connect(url, autocommit=True) as connection:
        while connection.execute(REMEDY).fetchone() != (0,):
            pass


async def test_wait_goes_on_once_the_queue_has_space(server_url: str) -> None:
    """The run keeps its lease and repeats the call; spawning names what to do."""
    began = asyncio.Event()

    async def handler(params: Any, ctx: TaskContext) -> Any:
        began.set()
        await asyncio.sleep(1)  # in which the queue is filled
        return await ctx.await_event("go")

    registry = TaskRegistry()
    registry.add("t", handler)
    async with PostgresBackend(server_url) as backend:
        await backend.create_queue(QUEUE)
        task = await backend.spawn_task(QUEUE, "t", {})
        worker = Worker(backend, registry, WorkerSettings(QUEUE, "w", 1, 30, 0.05, 0.0))
        working = asyncio.create_task(worker.run())
        try:
            async with asyncio.timeout(60):
                await began.wait()
                listener = await asyncio.to_thread(fill_queue, server_url)
                with pytest.raises(BackendUnavailable) as refusal:
                    await backend.spawn_task(QUEUE, "t", {})
                assert REMEDY in str(refusal.value)
                await asyncio.sleep(3)
                history = await backend.history(QUEUE, task.task_id)
                assert history is not None
                assert history.task.state == "running", history.runs[-1].failure_reason
                await asyncio.to_thread(empty_queue, server_url, listener)
                await backend.emit_event(QUEUE, "go", 7)
                while history is None or history.task.state != "completed":
                    history = await backend.history(QUEUE, task.task_id)
                    await asyncio.sleep(0.05)
                assert len({run.attempt for run in history.runs}) == 1
        finally:
            worker.stop()
            await working


@pytest.mark.parametrize(
    ("state", "text"),
    [("54000", "array size exceeds the maximum allowed"), ("54001", "statement NOTIFY too deep")],
)
def test_other_limits_of_the_program_refuse_a_value(
    database_url: str, state: str, text: str
) -> None:
    """54001 is a statement too complex."""
    statement = f"do $$ begin raise exception '{text}' using errcode = '{state}'; end $$"
    with (
        psycopg.connect(database_url) as connection,
        pytest.raises(psycopg.Error) as error,
    ):
        connection.execute(statement.encode())
    with pytest.raises(ValueRefused):
        raise_translated(error.value)
