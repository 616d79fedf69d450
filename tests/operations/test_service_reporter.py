"""The records of processes in the registry: renewed, and no hindrance when it is away."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from absurd_contimg.core.errors import BackendUnavailable
from absurd_contimg.execution.disk_usage import disk_usage
from absurd_contimg.operations.night_report.task_reading import outage_text
from absurd_contimg.operations.services import service_reporter
from absurd_contimg.operations.services.process_memory import resident_bytes
from absurd_contimg.operations.services.service_reporter import ServiceIdentity, ServiceReporter
from absurd_contimg.operations.services.service_state import LoopState
from absurd_contimg.operations.services.service_watch import reported
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.disk_samples import list_samples
from absurd_contimg.registry.operator_actions import list_actions
from absurd_contimg.registry.outages import list_outages
from absurd_contimg.registry.service_records import ServiceKind, list_services


@pytest.fixture
def registry(tmp_path: Path) -> Database:
    return Database(tmp_path / "registry.sqlite3")


async def slow_clock() -> datetime:
    """A database whose clock is five minutes behind ours."""
    return datetime.now(UTC) - timedelta(seconds=300)


def reporter_of(registry: Database, *folders: Path) -> ServiceReporter:
    return ServiceReporter(
        ServiceIdentity(ServiceKind.WORKER, "worker-1@place", ("q", "q-casa")),
        LoopState(),
        lambda: registry,
        slow_clock,
        folders,
        renewal_seconds=0.05,
        sample_seconds=0.1,
    )


async def seen(registry: Database, condition: str) -> None:
    for _ in range(200):
        if any(condition in (each.activity, each.problem) for each in list_services(registry)):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"never {condition!r}: {list_services(registry)}")


async def test_an_outage_of_the_database_is_noted_once_when_it_is_over(registry: Database) -> None:
    """By each service that met it; nothing told of it afterwards."""
    is_away = False

    async def clock() -> datetime:
        if is_away:
            raise BackendUnavailable("The database cannot be reached: refused.")
        return await slow_clock()

    names = ("worker-1@a", "worker-2@a")
    reporters = [
        replace(reporter_of(registry), identity=ServiceIdentity(ServiceKind.WORKER, name))
        for name in names
    ]
    for reporter in reporters:
        reporter.current_time = clock
    begin = datetime.now(UTC) - timedelta(seconds=301)
    async with reported(reporters[0]), reported(reporters[1]):
        for is_away in (False, True, False):
            while any(bool(each.problem()) != is_away for each in reporters):
                await asyncio.sleep(0.02)
        while len(list_actions(registry)) < 2:
            await asyncio.sleep(0.05)
    assert sorted(each.by for each in list_actions(registry)) == list(names)
    (outage,) = list_outages(registry, begin, begin + timedelta(days=1))
    assert outage.service.endswith("and 1 more")
    assert "refused" in outage.reason
    assert begin < outage.began_at < outage.ended_at
    assert list_outages(registry, outage.ended_at, begin + timedelta(days=1)) == []
    text = outage_text(outage)
    assert f"{outage.began_at:%Y-%m-%d %H:%M:%S} UTC, worker-" in text
    assert "the database was away for 0 s: The database does not answer: " in text


async def test_record_says_what_the_process_does_and_that_it_ended(
    registry: Database, tmp_path: Path
) -> None:
    """Times are of the database's clock, from which this host's differs."""
    reporter = reporter_of(registry, tmp_path, tmp_path / "not there")
    state = reporter.state
    assert isinstance(state, LoopState)
    async with reported(reporter):
        state.begin("image of 2025-01-15T10:00:00")
        await seen(registry, "image of 2025-01-15T10:00:00")
        (record,) = list_services(registry)
        assert record.stopped_at is None
        assert record.clock_offset_seconds == pytest.approx(300, abs=5)
        assert record.seen_at == pytest.approx(time.time() - 300, abs=5)
        assert record.queues == "q,q-casa"
        assert record.pid == os.getpid()
        assert record.memory_bytes > 10e6
        state.wait("waits", "a disk is full")
        await seen(registry, "a disk is full")
    (record,) = list_services(registry)
    assert record.stopped_at is not None
    samples = list_samples(registry, 0.0)
    assert {sample.folder for sample in samples} == {str(tmp_path)}
    assert samples[0].total_bytes == disk_usage(tmp_path).total_bytes
    assert len(samples) >= 1


async def test_locked_registry_delays_nothing_and_is_logged_once(
    registry: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While the registry is locked, the loop goes on and the end is not waited for long."""
    monkeypatch.setattr("absurd_contimg.registry.engines.BUSY_SECONDS", 0.1)
    monkeypatch.setattr(service_reporter, "_END_SECONDS", 0.2)
    registry = Database(Path(registry._place))
    caplog.set_level(logging.INFO)
    reporter = reporter_of(registry)
    loop = asyncio.get_running_loop()
    with closing(sqlite3.connect(registry._place, isolation_level=None)) as other:
        other.execute("begin immediate")
        async with reported(reporter):
            late = 0.0
            for _ in range(50):
                before = loop.time()
                await asyncio.sleep(0.01)
                late = max(late, loop.time() - before)
            began = loop.time()
        assert loop.time() - began < 2.0
        assert late < 1.0
        assert caplog.text.count("cannot be seen by others") == 1
        other.execute("rollback")
        async with reported(reporter):
            await seen(registry, "starts")
    assert caplog.text.count("is seen by others again") == 1


async def test_database_that_is_away_is_a_problem_in_the_record(registry: Database) -> None:
    async def away() -> datetime:
        raise BackendUnavailable("connection refused")

    reporter = reporter_of(registry)
    async with reported(reporter):
        await seen(registry, "starts")
        reporter.current_time = away
        await seen(registry, "The database does not answer: connection refused")
        reporter.current_time = slow_clock
        while reporter.problem():  # the test's timeout bounds it
            await asyncio.sleep(0.02)
    (record,) = list_services(registry)
    assert record.clock_offset_seconds == pytest.approx(300, abs=5)


def test_registry_that_hangs_keeps_no_process(tmp_path: Path) -> None:
    """A dead network file system holds the thread for ever: the process ends all the same."""
    script = f"""
import asyncio, sys, threading
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_service_reporter as tests
from absurd_contimg.operations.services import service_reporter
service_reporter.store_service = lambda *_: threading.Event().wait()
service_reporter._END_SECONDS = 0.1

async def work():
    database = tests.Database(tests.Path({str(tmp_path)!r}) / "registry.sqlite3")
    async with tests.reported(tests.reporter_of(database)):
        await asyncio.sleep(0.1)
        print("worked")

asyncio.run(work())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.returncode) == ("worked\n", 0), done.stderr


def test_memory_of_a_process_includes_its_children() -> None:
    code = "import subprocess, sys; x = bytearray(80_000_000)\n"
    child = f"{code}print(flush=True); sys.stdin.read()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert resident_bytes(process.pid) > 80e6
        assert process.stdin is not None
        process.stdin.close()
    assert resident_bytes(process.pid) == 0


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "Permission denied", "/state")])
async def test_no_trouble_of_files_ends_the_record(
    registry: Database, caplog: pytest.LogCaptureFixture, error: OSError
) -> None:
    """Its thread ended with a traceback."""
    caplog.set_level(logging.INFO)
    reporter = reporter_of(registry)
    is_refused = True

    def database() -> Database:
        if is_refused:
            raise error
        return registry

    reporter.database = database
    async with reported(reporter):
        while "cannot be seen by others" not in caplog.text:
            await asyncio.sleep(0.02)
        is_refused = False
        await seen(registry, "starts")
    assert caplog.text.count("is seen by others again") == 1
