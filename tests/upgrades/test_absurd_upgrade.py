"""Tasks in flight outlive the migration of Absurd's schema, whatever state they are in."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from earlier_absurd import (
    CALIBRATED,
    CHILDREN,
    DYING,
    LIVING,
    QUEUE,
    child,
    process,
    start_program,
)

from absurd_contimg.backends.postgres import EmbeddedPostgres, PostgresBackend
from absurd_contimg.backends.postgres.schema import queues_without_additions
from absurd_contimg.core.errors import SchemaMissing
from absurd_contimg.core.records import History, SpawnOptions
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.history.invariants.check import audit

EARLIER = ("0.3.0", "0.4.0")
QUEUES = (QUEUE, CHILDREN, DYING, LIVING)
_numbers = itertools.count()


@pytest.fixture(params=EARLIER)
def version(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def earlier_url(request: pytest.FixtureRequest, postgres_server: EmbeddedPostgres) -> str:
    """An empty database."""
    name = f"earlier_{os.getpid()}_{next(_numbers)}"
    server = request.config.getoption("--server")
    if server is None:
        return postgres_server.create_database(name)
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
    return urlsplit(server)._replace(path=f"/{name}").geturl()


@pytest.fixture
def program(
    version: str, earlier_url: str, tmp_path: Path
) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Starts a client of the earlier release."""
    started: list[subprocess.Popen[bytes]] = []

    def start(what: str) -> subprocess.Popen[bytes]:
        started.append(start_program(version, earlier_url, tmp_path, what))
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.wait()


def contimg(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "absurd_contimg.operations", "--database-url", url]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


def effects(folder: Path) -> Counter[str]:
    return Counter((folder / "effects").read_text().splitlines())


def worker(backend: PostgresBackend, queue: str) -> Worker:
    tasks = TaskRegistry()
    tasks.add("process", process)
    tasks.add("child", child)
    return Worker(backend, tasks, WorkerSettings(queue, f"w-{queue}", poll_interval_seconds=0.05))


async def histories_of(backend: PostgresBackend) -> dict[str, History]:
    """By what the task is for."""
    histories: dict[str, History] = {}
    for queue in QUEUES:
        tasks = [task.task_id for task in await backend.list_tasks(queue)]
        for history in await backend.histories(queue, tasks):
            params: Any = history.task.params
            histories[params.get("what", "child")] = history
    return histories


async def test_every_task_in_flight_is_finished_once(
    version: str,
    earlier_url: str,
    database_url: str,
    tmp_path: Path,
    program: Callable[[str], Any],
) -> None:
    assert program("install").wait(60) == 0
    assert program(DYING).wait(60) == 9
    living = program(LIVING)
    while effects(tmp_path)["living convert"] == 0:
        assert living.poll() is None
        await asyncio.sleep(0.02)
    before = effects(tmp_path)
    assert not [line for line in before if line.startswith(("pending", "parent", "cancelled"))]

    with pytest.raises(SchemaMissing, match="contimg db init"):
        async with PostgresBackend(earlier_url):
            pass
    done = await asyncio.to_thread(contimg, earlier_url, "--queue", QUEUE, "db", "init")
    assert f"Migrated Absurd's schema from {version} to " in done.stdout, done.stderr

    async with PostgresBackend(earlier_url) as backend:
        states = {what: each.task.state for what, each in (await histories_of(backend)).items()}
        assert states["pending"] == "pending"
        assert states["dying"] == states["living"] == "running"
        assert states["sleeping"] == states["waiting"] == states["impatient"] == "sleeping"
        assert (states["failing"], states["cancelled"]) == ("failed", "cancelled")
        (tmp_path / "mended").touch()
        again = SpawnOptions(idempotency_key="group-1")
        spawned = await backend.spawn_task(QUEUE, "process", {}, again)
        assert not spawned.created
        await backend.emit_event(QUEUE, CALIBRATED, {"set": "bandpass"})
        histories = await histories_of(backend)
        await backend.retry_task(QUEUE, histories["failing"].task.task_id)
        workers = [worker(backend, queue) for queue in QUEUES]
        runs = [asyncio.create_task(each.run()) for each in workers]
        async with asyncio.timeout(60):
            while any(
                each.task.state not in ("completed", "cancelled")
                for each in (await histories_of(backend)).values()
            ):
                await asyncio.sleep(0.1)
        for each in workers:
            each.stop()
        await asyncio.gather(*runs)
        histories = await histories_of(backend)

    assert await asyncio.to_thread(living.wait, 30) == 0, "the earlier worker ended its own task"
    assert len(histories["living"].runs) == 1
    results = {what: each.task.completed_payload for what, each in histories.items()}
    assert results["waiting"] == [{"ms": "waiting.ms"}, {"set": "bandpass"}, "fits"]
    assert results["impatient"] == [{"ms": "impatient.ms"}, "timed out", "fits"]
    assert results["parent"] == [{"ms": "parent.ms"}, "child done", "fits"]
    assert histories["cancelled"].task.state == "cancelled"
    finished = histories.keys() - {"cancelled", "child"}
    expected = [f"{what} {step}" for what in finished for step in ("convert", "image")]
    assert effects(tmp_path) == Counter(expected)
    assert audit(list(histories.values())) == []
    async with PostgresBackend(database_url) as fresh:
        await fresh.create_queue("new")
    async with PostgresBackend(earlier_url) as migrated:
        await migrated.create_queue("new")
    assert schema_of(earlier_url) == schema_of(database_url)
    assert queues_without_additions(earlier_url) == []


def schema_of(url: str) -> dict[str, str]:
    """Every procedure, and every column of the tables of a new queue."""
    with psycopg.connect(url) as connection:
        procedures = connection.execute(
            "select oid::regprocedure::text, pg_get_functiondef(oid) from pg_proc"
            " where pronamespace = 'absurd'::regnamespace and prokind <> 'a'"
        ).fetchall()
        columns = connection.execute(
            "select attrelid::regclass::text || '.' || attname, format_type(atttypid, atttypmod)"
            " || ' ' || attnotnull from pg_attribute join pg_class on pg_class.oid = attrelid"
            " where relnamespace = 'absurd'::regnamespace and attnum > 0 and not attisdropped"
            " and relkind in ('r', 'p') and relname ~ 'new|^queues'"
        ).fetchall()
    return dict(procedures) | dict(columns)
