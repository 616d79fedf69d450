"""Services tell systemd when they are ready, what they do, and whether they make progress."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from notify_socket import NotifySocket, notify_socket

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.operations.services.service_manager import ServiceManager
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.service_records import ServiceRecord, list_services

SCRIPT = """
import asyncio, os, time
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.operations.cli.main import main
from absurd_contimg.operations.services import worker_service


async def works(params, ctx):
    await ctx.step("image", lambda: asyncio.sleep(600))


async def blocks(params, ctx):
    print("blocks", "NOTIFY_SOCKET" in os.environ, flush=True)
    time.sleep(600)


def make_worker(backend, settings, *_others):
    registry = TaskRegistry()
    registry.add("works", works)
    registry.add("blocks", blocks)
    settings = WorkerSettings(settings.queue_name, "w", claim_timeout_seconds=3, grace_seconds=1)
    return Worker(backend, registry, settings)


worker_service.make_worker = make_worker
main()
"""


@pytest.mark.parametrize("abstract", [False, True])
def test_messages_reach_the_manager(tmp_path: Path, abstract: bool) -> None:
    with notify_socket(tmp_path, abstract=abstract) as receiver:
        environment = {"NOTIFY_SOCKET": receiver.address, "WATCHDOG_USEC": "120000000", "A": "1"}
        manager = ServiceManager.from_environment(environment)
        assert environment == {"A": "1"}, "a stage must not speak for its worker"
        assert manager.watchdog_seconds == 120
        manager.ready()
        manager.status("image of 2025\nMAINPID=1")
        manager.ping()
        manager.stopping()
        manager.needs_seconds(1.5)
        messages = receiver.read_until(lambda message: message.startswith("EXTEND"))
    assert messages == [
        "READY=1",
        "STATUS=image of 2025 MAINPID=1",
        "WATCHDOG=1",
        "STOPPING=1",
        "EXTEND_TIMEOUT_USEC=1500000",
    ]


def test_watchdog_of_another_process_is_none_of_ours() -> None:
    environment = {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1", "NOTIFY_SOCKET": "@x"}
    assert ServiceManager.from_environment(environment) == ServiceManager("@x", None)


def test_manager_that_is_away_or_does_not_read_delays_nothing(tmp_path: Path) -> None:
    ServiceManager().ready()
    ServiceManager(str(tmp_path / "nobody")).ready()
    with notify_socket(tmp_path) as receiver:
        manager = ServiceManager(receiver.address)
        for _ in range(10_000):  # more than the socket's buffer holds
            manager.ping()


@contextmanager
def service_process(
    database_url: str, receiver: NotifySocket, folder: Path, *service: str
) -> Iterator[subprocess.Popen[str]]:
    folders = ["--input-dir", str(folder), "--output-dir", str(folder / "out")]
    command = [*folders, "--database-url", database_url, "--queue", "q", *service]
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *command],
        stdout=subprocess.PIPE,
        stderr=(folder / "log").open("w"),
        text=True,
        env={**os.environ, "NOTIFY_SOCKET": receiver.address, "WATCHDOG_USEC": "1200000"},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


async def spawn(database_url: str, name: str | None) -> None:
    async with PostgresBackend(database_url) as backend:
        await backend.create_queue("q")
        if name is not None:
            await backend.spawn_task("q", name, {"group_id": "2025-01-15T10:00:00"})


def recorded(folder: Path) -> ServiceRecord:
    """The record of the one process, which another thread writes."""
    database, give_up = Database(folder / "out/state/registry.sqlite3"), time.monotonic() + 20
    while not (records := list_services(database)) and time.monotonic() < give_up:
        time.sleep(0.1)
    (record,) = records
    return record


def test_worker_is_ready_pings_during_a_long_step_and_says_that_it_stops(
    database_url: str, tmp_path: Path
) -> None:
    """A stopped process pings no more, and goes on when it is continued."""
    asyncio.run(spawn(database_url, "works"))
    with (
        notify_socket(tmp_path) as receiver,
        service_process(database_url, receiver, tmp_path, "worker") as process,
    ):
        receiver.read_until(lambda message: message == "READY=1")
        receiver.read_until(lambda message: message == "STATUS=image of 2025-01-15T10:00:00")
        pings = receiver.read(3.5).count("WATCHDOG=1")
        assert pings >= 4, "for longer than a lease, which was extended"
        process.send_signal(signal.SIGSTOP)
        receiver.read(0.2)
        assert receiver.read(1.0) == []
        process.send_signal(signal.SIGCONT)
        receiver.read_until(lambda message: message == "WATCHDOG=1")
        process.send_signal(signal.SIGTERM)
        messages = receiver.read_until(lambda message: message.startswith("EXTEND"))
        assert "STOPPING=1" in messages
        assert process.wait(30) == 0
    record = recorded(tmp_path)
    assert record.stopped_at is not None
    assert (record.kind, record.queues, record.pid) == ("worker", "q", process.pid)


@pytest.mark.parametrize("kind", ["api", "dashboard"])
def test_server_is_ready_and_among_the_processes_of_the_site(
    database_url: str, tmp_path: Path, kind: str
) -> None:
    asyncio.run(spawn(database_url, None))
    with (
        notify_socket(tmp_path) as receiver,
        service_process(database_url, receiver, tmp_path, kind, "--port", "0") as process,
    ):
        messages = receiver.read_until(lambda message: message == "STATUS=serves requests")
        assert "READY=1" in messages + receiver.read(1.0)
        record = recorded(tmp_path)
        assert (record.kind, record.pid, record.stopped_at) == (kind, process.pid, None)
        process.send_signal(signal.SIGTERM)
        receiver.read_until(lambda message: message == "STOPPING=1")
        assert process.wait(30) == 0
    assert recorded(tmp_path).stopped_at is not None


def test_handler_that_blocks_the_event_loop_stops_the_pings(
    database_url: str, tmp_path: Path
) -> None:
    asyncio.run(spawn(database_url, "blocks"))
    with (
        notify_socket(tmp_path) as receiver,
        service_process(database_url, receiver, tmp_path, "worker") as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == "blocks False\n"
        receiver.read(0.3)
        assert receiver.read(2.0) == []


def test_worker_without_schema_is_never_ready(tmp_path: Path, postgres_server: object) -> None:
    url = postgres_server.create_database("without_schema")  # type: ignore[attr-defined]
    with (
        notify_socket(tmp_path) as receiver,
        service_process(url, receiver, tmp_path, "worker") as process,
    ):
        assert process.wait(60) == 1
        assert "READY=1" not in receiver.read(0.1)
    assert "contimg db init" in (tmp_path / "log").read_text()


def contimg(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "absurd_contimg.operations", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


def test_wrong_settings_end_a_service_with_the_code_after_which_it_is_not_started_again(
    tmp_path: Path,
) -> None:
    """RestartPreventExitStatus=78 in the units; other commands end with 1 as always."""
    wrong = {"ABSURD_QUEUE_NAM": "q", "PIPELINE_OUTPUT_DIR": str(tmp_path)}
    assert contimg("worker", **wrong).returncode == os.EX_CONFIG
    assert contimg("status", **wrong).returncode == 1
