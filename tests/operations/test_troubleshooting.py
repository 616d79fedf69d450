"""Each symptom of docs/troubleshooting.md is produced here, and its advice helps."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer
from arriving_groups import group_id, write_subband
from guide_commands import ROOT, blocks, clean_environment
from standby import standby_gone
from typer.testing import CliRunner

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.execution.disk_marks import Watermarks
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.doctor import doctor
from absurd_contimg.operations.services.disk_guard import DiskGuard
from absurd_contimg.operations.services.queue_gate import QueueGate
from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import ObservationGroup
from absurd_contimg.registry.queue_pauses import QueuePauses
from absurd_contimg.workflows.calibration_wait import calibration_event

from .test_service_reporter import reporter_of

PAGE = ROOT / "docs" / "troubleshooting.md"
QUEUE = "dsa110-pipeline"
GROUP = group_id(0)
TESTS: dict[str, Callable[..., None]] = {}


class Site:
    """Folders, a database and the commands of an operator."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder
        self.database_url = database_url
        self.incoming = folder / "incoming"
        self.state = folder / "products" / "state"
        self.registry = self.state / "registry.sqlite3"
        self.incoming.mkdir()
        (folder / "catalog.csv").write_text("name\n")

    def __call__(self, command: str, *, code: int = 0, **environment: str) -> str:
        """Run ``contimg`` and a command; its output, with the message of an error."""
        given = {
            "PIPELINE_INPUT_DIR": str(self.incoming),
            "PIPELINE_OUTPUT_DIR": str(self.folder / "products"),
            "PIPELINE_CATALOG": str(self.folder / "catalog.csv"),
            "ABSURD_DATABASE_URL": self.database_url,
            "COLUMNS": "200",
            **environment,
        }
        answer = CliRunner().invoke(app, command.split(), env=given)
        assert answer.exit_code == code, f"{command}: {answer.output} {answer.exception}"
        return f"{answer.output} {answer.exception or ''}"

    def work(self, call: Callable[[Backend], Any]) -> Any:
        """Use the database."""

        async def use() -> Any:
            async with PostgresBackend(self.database_url) as backend:
                return await call(backend)

        return asyncio.run(use())

    def spawn(self) -> Any:
        return self.work(lambda b: b.spawn_task(QUEUE, "group", {"group_id": GROUP}))

    def run_worker(self, handler: Any, worker_id: str = "w") -> None:
        tasks = TaskRegistry()
        tasks.add("group", handler)
        options = WorkerSettings(QUEUE, worker_id, poll_interval_seconds=0.01)
        self.work(lambda b: Worker(b, tasks, options).run(until_idle=True))

    def task_state(self) -> str:
        (task,) = self.work(lambda b: b.list_tasks(QUEUE))
        return str(task.state)


@pytest.fixture
def site(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Site:
    clean_environment(monkeypatch)
    site = Site(tmp_path, database_url)
    site("db init")
    return site


async def done(params: object, ctx: object) -> str:
    return "done"


def symptom(heading: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The test of a section."""

    def enter(test: Callable[..., None]) -> Callable[..., None]:
        TESTS[heading] = test
        return test

    return enter


def test_every_section_has_a_test() -> None:
    headings = re.findall(r"^## (.*)$", PAGE.read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(TESTS)


def test_every_command_of_the_page_is_one_of_contimg() -> None:
    """Those of others are run by the tests of their sections."""
    program = typer.main.get_command(app)
    for block in blocks(PAGE):
        for command in block.commands():
            group: Any = program
            for word in command.split()[1:] if command.startswith("contimg ") else ():
                if hasattr(group, "commands"):
                    group = group.commands[word]
                else:
                    options = {name for each in group.params for name in each.opts}
                    assert word.isupper() or word in options, command


@symptom("Tasks stay pending, and no worker takes them")
def test_worker_of_another_queue(site: Site) -> None:
    site.spawn()
    text = site("worker --until-idle", code=1, ABSURD_QUEUE_NAME="dsa110-pipelin")
    assert "dsa110-pipelin" in text
    assert "contimg db init" in text or "Correct" in text
    assert "dsa110-pipeline" in site("queue list")
    site("db init", ABSURD_QUEUE_NAME="dsa110-pipelin")
    assert "dsa110-pipelin " in site("queue list")


@symptom("A queue is paused")
def test_paused_queue(site: Site) -> None:
    site("queue pause --reason maintenance")
    with closing(Database(site.registry)) as database:
        gate = QueueGate(QueuePauses(database), QUEUE)
        assert not asyncio.run(gate.ready_to_claim())
        assert "maintenance" in site("status")
        site("queue resume")
        assert asyncio.run(gate.ready_to_claim())


@symptom("The daemon creates no groups")
def test_daemon_creates_no_groups(site: Site) -> None:
    away = site("daemon --once", code=1, PIPELINE_INPUT_DIR=str(site.folder / "nowhere"))
    assert str(site.folder / "nowhere") in away
    for subband in range(12):
        write_subband(site.incoming, 0, subband, modified=time.time() - 100)
    (site.incoming / f"{GROUP}_sb12.hdf5").write_bytes(b"no HDF5")
    os.utime(site.incoming / f"{GROUP}_sb12.hdf5", (1, 1))
    look = "--set streaming.arrival=rename daemon --once"
    site(look)
    assert GROUP in site("groups")
    assert "refused" in site(f"groups {GROUP}")
    assert "HDF5" in site(f"inspect {site.incoming}/{GROUP}_sb12.hdf5", code=1)
    for subband in range(13, 16):
        write_subband(site.incoming, 0, subband, modified=time.time() - 100)
    (site.incoming / f"{GROUP}_sb12.hdf5").unlink()
    write_subband(site.incoming, 0, 12)
    site(look)
    assert "refused" not in site(f"groups {GROUP}")


@symptom("A task has failed")
def test_failed_task(site: Site) -> None:
    catalogue = site.folder / "missing.csv"

    async def read(params: object, ctx: Any) -> int:
        async def step() -> int:
            return len(catalogue.read_text())

        return int(await ctx.step("image", step))

    site.spawn()
    site.run_worker(read)
    text = site(f"history {GROUP}")
    assert "Restore the named file" in text
    catalogue.write_text("x")
    site(f"retry {GROUP}")
    site.run_worker(read)
    assert site.task_state() == "completed"


@symptom("A group waits for a calibration")
def test_group_waits_for_a_calibration(site: Site) -> None:
    calibrator, gains = group_id(1), site.folder / "gains"
    with closing(Registry(site.registry)) as registry:
        for number, (name, status) in enumerate(
            ((GROUP, GroupStatus.WAITING_FOR_CALIBRATION), (calibrator, GroupStatus.FAILED))
        ):
            registry.set_group_status(name, status, "gains is missing" if number else None)
            with registry.database.writing() as session:
                row = session.get_one(ObservationGroup, name)
                row.mid_mjd, row.declination_deg = 61000.0 + number * 0.004, 16.0

    async def process(params: Any, ctx: Any) -> None:
        if params["group_id"] == GROUP:
            await ctx.await_event(calibration_event(GROUP), timeout=86_400)
            return
        gains.read_text()
        await ctx.emit_event(calibration_event(GROUP), {})

    for name in (GROUP, calibrator):
        site.work(lambda b, name=name: b.spawn_task(QUEUE, "group", {"group_id": name}))
    site.run_worker(process)
    why = f"no group under way can bring one: {calibrator} has failed (gains is missing)"
    assert why in " ".join(site(f"history {GROUP}").split())
    gains.write_text("1")
    site(f"retry {calibrator}")
    assert f"it may come from {calibrator}" in " ".join(site(f"history {GROUP}").split())
    site.run_worker(process)
    states = {task.state for task in site.work(lambda b: b.list_tasks(QUEUE))}
    assert states == {"completed"}


@symptom("The database is away")
def test_database_is_away(site: Site) -> None:
    away = "postgresql://nobody@127.0.0.1:1/x"
    assert "127.0.0.1" in site("status", code=1, ABSURD_DATABASE_URL=away)
    (finding,) = doctor._reachable(away)
    assert not finding.ok
    assert "Check that the server runs" in finding.remedy
    site("status")


@symptom("The database answers and takes no changes")
def test_database_takes_no_changes(site: Site) -> None:
    durable = f"{site.database_url}&options=-csynchronous_commit%3Don"  # as in production
    with standby_gone(site.database_url):
        status = json.loads(site("status --json", ABSURD_DATABASE_URL=durable))
        assert "waits for a synchronous standby" in status["database_problem"]
        with psycopg.connect(site.database_url, autocommit=True) as superuser:
            for block in blocks(PAGE):
                if block.heading == "The database answers and takes no changes":
                    superuser.execute(block.text.encode())
    assert json.loads(site("status --json"))["database_problem"] is None


@symptom("A disk is full")
def test_full_disk(site: Site, small_disk: Path) -> None:
    guard = DiskGuard("worker-1", [small_disk], site.state, Watermarks(0.003, 0.002))
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 7_000_000)
    assert not asyncio.run(guard.ready_to_claim())
    text = " ".join(site("status").split())
    assert f"{small_disk} is nearly full" in text
    filler.unlink()
    assert asyncio.run(guard.ready_to_claim())
    assert "nearly full" not in site("status")
    for option in ("-h", "-i"):
        subprocess.run(["df", option, str(small_disk)], check=True, capture_output=True)


@symptom("A running task does nothing, and its worker is gone")
def test_lease_of_a_dead_worker(site: Site) -> None:
    """Taken up after the lease by any worker, before that by one of the same name."""
    site.spawn()
    site.work(lambda b: b.claim_task(QUEUE, "dead", 3600))
    site.run_worker(done, "other")
    assert site.task_state() == "running"
    site.run_worker(done, "dead")
    assert site.task_state() == "completed"


@symptom("A task has failed as poison")
def test_poisoned_task(site: Site) -> None:
    site.spawn()

    async def die_three_times(backend: Backend) -> None:
        for _ in range(3):
            worker = Worker(backend, TaskRegistry(), WorkerSettings(QUEUE, "w"))
            await worker._recover_orphans(asyncio.create_task(asyncio.Event().wait()))
            assert await backend.claim_task(QUEUE, "w", 3600)

    site.work(die_three_times)
    site.run_worker(done)
    assert site.task_state() == "failed"
    assert "poison" in site(f"history {GROUP}")
    site(f"retry {GROUP}")
    site.run_worker(done)
    assert site.task_state() == "completed"


@symptom("A service ends at once with exit code 78")
def test_misspelt_variable(site: Site) -> None:
    """The exit code itself: test_service_manager.py."""
    text = site("worker", code=1, ABSURD_WORKER_CONCURENCY="2")
    assert "ABSURD_WORKER_CONCURENCY is unknown" in text
    assert "ABSURD_WORKER_CONCURRENCY" in text
    assert "ABSURD_WORKER_CONCURRENCY" in site("settings")


@symptom("A clock is off")
def test_clock_is_off(site: Site) -> None:
    site.state.mkdir(parents=True)
    with closing(Database(site.registry)) as database:

        async def renew() -> None:
            reporter = reporter_of(database)
            await reporter.renew()
            await reporter._written.wait()

        asyncio.run(renew())
    query = "select host, clock_offset_seconds from service_records"
    command = ["sqlite3", "-readonly", str(site.registry), query]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert float(output.partition("|")[2]) == pytest.approx(300, abs=30)


@symptom("The registry is locked or away")
def test_registry_is_locked(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("absurd_contimg.registry.engines.BUSY_SECONDS", 0.1)
    with closing(Registry(site.registry)) as registry:
        gate = QueueGate(QueuePauses(registry.database), QUEUE)
        with closing(sqlite3.connect(site.registry, isolation_level=None)) as other:
            other.execute("pragma locking_mode = exclusive")
            other.execute("begin exclusive")
            assert not asyncio.run(gate.ready_to_claim())
            assert "locked" in gate.problem()
            holders = subprocess.run(
                ["fuser", str(site.registry)], capture_output=True, text=True, check=True
            )
            assert str(os.getpid()) in holders.stdout.split()
        assert asyncio.run(gate.ready_to_claim())


@symptom("The registry is gone or damaged")
def test_registry_is_gone(site: Site) -> None:
    with closing(Registry(site.registry)) as registry:
        gate = QueueGate(QueuePauses(registry.database), QUEUE)
        site.registry.unlink()
        assert not asyncio.run(gate.ready_to_claim())
        assert "contimg registry rebuild" in gate.problem()
        site("registry rebuild")
        site("registry check")
        assert asyncio.run(gate.ready_to_claim())


@symptom("A service is killed by its watchdog")
def test_watchdog() -> None:
    """That a blocked loop pings no more: test_service_manager.py; that systemd then kills it and
    starts it again: python -m systemd_run.
    """
