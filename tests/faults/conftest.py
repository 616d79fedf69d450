"""One site for each fault: folders on a small disk, a real database, worker processes."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from committed_products import committed_products
from forked_programs import ForkedProcess

from absurd_contimg.backends.postgres import EmbeddedPostgres, PostgresBackend
from absurd_contimg.core.records import History
from absurd_contimg.history.timeline import step_starts
from absurd_contimg.products.manifest import MANIFEST_NAME
from absurd_contimg.products.store import verify

sys.path.append(str(Path(__file__).parent))
import fault_worker
from fault_stages import MAGIC, SECONDS, STAGES, parameters
from fault_worker import QUEUE


@dataclass(slots=True)
class Outcome:
    """The result of one run of one fault."""

    fault: str
    effective: bool
    recovered: bool
    wasted_seconds: float
    attempts_spent: int
    products_equal: bool | None
    """None where the task must fail."""


_OUTCOMES: list[Outcome] = []


@dataclass
class Site:
    """One small pipeline and its workers."""

    root: Path
    url: str
    deadline_seconds: float = 30.0
    """Of each stage; long enough for a loaded machine, shortened where a stage shall hang."""
    workers: list[ForkedProcess] = field(default_factory=list)
    task_id: UUID | None = None

    def __post_init__(self) -> None:
        (self.root / "control").mkdir(parents=True)
        (self.root / "source.hdf5").write_bytes(MAGIC + bytes(1000))

    @property
    def log(self) -> str:
        return (self.root / "worker.log").read_text(errors="replace")

    @property
    def stage_log(self) -> list[str]:
        path = self.root / "control" / "stage_log"
        return path.read_text().splitlines() if path.exists() else []

    def worker(self, name: str = "worker-1", url: str | None = None) -> ForkedProcess:
        """Start a worker process."""
        worker = partial(fault_worker.run, self.root, url or self.url, name, self.deadline_seconds)
        process = ForkedProcess(worker, os.environ, self.root / "worker.log")
        self.workers.append(process)
        return process

    def call(self, work: Callable[[PostgresBackend], Any]) -> Any:
        """Ask the database something."""

        async def ask() -> Any:
            async with PostgresBackend(self.url, pool_max_size=1) as backend:
                return await work(backend)

        return asyncio.run(ask())

    def spawn(self, seconds: float = SECONDS) -> None:
        async def spawn(backend: PostgresBackend) -> UUID:
            await backend.create_queue(QUEUE)
            spawned = await backend.spawn_task(QUEUE, "pipeline", parameters(self.root, seconds))
            return spawned.task_id

        self.task_id = self.call(spawn)

    def history(self) -> History:
        return self.call(lambda backend: backend.history(QUEUE, self.task_id))

    def plan(self, stage: str, what: str) -> None:
        (self.root / "control" / f"plan-{stage}").write_text(what)

    def pid_at(self, stage: str, patience: float = 30.0) -> int:
        """Wait until a stage is in the middle of its work; its process."""
        path = self.root / "control" / f"at-{stage}"
        self.until(path.exists, patience)
        return int(path.read_text())

    def until(self, holds: Callable[[], bool], patience: float = 30.0) -> None:
        """Wait until something holds; fail with the workers' log if it never does."""
        give_up = time.monotonic() + patience
        while not holds():
            assert time.monotonic() < give_up, f"{self.log}\n{self.stage_log}"
            time.sleep(0.01)

    def until_ended(self, patience: float = 40.0) -> History:
        """Wait until the task has ended."""
        with psycopg.connect(self.url, autocommit=True) as connection:

            def ended() -> bool:
                query = f'select state from absurd."t_{QUEUE}"'
                (state,) = connection.execute(query.encode()).fetchone() or ("?",)
                return state in ("completed", "failed", "cancelled")

            self.until(ended, patience)
        return self.history()

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def products(self) -> dict[str, str]:
        """What each file of each product holds, by stage folder and name."""
        digests = {}
        output = self.root / "disk" / "products"
        for folder, manifest in committed_products(output):
            verify(folder, manifest, deep=True)
            for path in sorted(folder.rglob("*")):
                if path.is_file() and path.name != MANIFEST_NAME:
                    name = f"{folder.relative_to(output).parts[0]}/{path.name}"
                    assert name not in digests, f"two products hold {name}"
                    digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return digests

    def scratch_files(self) -> list[Path]:
        scratch = self.root / "disk" / "scratch"
        return [p for p in scratch.rglob("*") if p.is_file() and ".owners" not in p.parts]

    def close(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGCONT)
                worker.kill()
            worker.wait()


@pytest.fixture
def new_site(tmp_path: Path, new_database: Callable[[], str]) -> Iterator[Callable[..., Site]]:
    """Makes a site with an empty database."""
    made: list[Site] = []

    def make(url: str | None = None, **settings: float) -> Site:
        made.append(Site(tmp_path / f"site-{len(made)}", url or new_database(), **settings))
        return made[-1]

    yield make
    for site in made:
        site.close()


@dataclass(frozen=True)
class Baseline:
    """What the pipeline makes without a fault, and how long it takes."""

    products: dict[str, str]
    seconds: float


@pytest.fixture(scope="session")
def baseline(tmp_path_factory: pytest.TempPathFactory, new_database: Callable[[], str]) -> Baseline:
    site = Site(tmp_path_factory.mktemp("baseline") / "site", new_database())
    site.spawn()
    began = time.monotonic()
    site.worker()
    try:
        history = site.until_ended()
        seconds = time.monotonic() - began
        assert history.task.state == "completed", site.log
        return Baseline(site.products(), seconds)
    finally:
        site.close()


@pytest.fixture
def check_recovery(baseline: Baseline) -> Callable[..., None]:
    """Checks how a run with a fault has ended, and adds it to the table."""

    def check(
        site: Site, fault: str, began: float, *, effective: bool, runs: int | None = 1
    ) -> None:
        history = site.until_ended()
        elapsed = time.monotonic() - began
        equal = site.products() == baseline.products
        recovered = history.task.state == "completed"
        _OUTCOMES.append(
            Outcome(
                fault,
                effective,
                recovered and equal,
                max(elapsed - baseline.seconds, 0.0),
                len(history.runs) - 1,
                equal,
            )
        )
        assert recovered, site.log
        assert equal
        assert_nothing_twice(site, history)
        assert runs is None or len(history.runs) == runs, [r.failure_reason for r in history.runs]

    return check


@pytest.fixture
def check_failure() -> Callable[..., None]:
    """Checks that a run that cannot succeed has failed at once, and adds it to the table."""

    def check(site: Site, fault: str, says: str) -> None:
        history = site.until_ended()
        reason: Any = history.runs[-1].failure_reason
        right = history.task.state == "failed" and reason["kind"] == "permanent"
        _OUTCOMES.append(Outcome(fault, True, right, 0.0, len(history.runs) - 1, None))
        assert right, (reason, site.log)
        assert len(history.runs) == 1
        assert says in reason["message"] + reason["advice"]
        assert_nothing_twice(site, history)

    return check


def assert_nothing_twice(site: Site, history: History) -> None:
    """No committed step was started again, and no stage ran twice at the same time."""
    by_step = defaultdict(list)
    for start in step_starts(history):
        by_step[start.step].append(start)
    for step, starts in by_step.items():
        assert all(start.outcome != "done" for start in starts[:-1]), (step, starts)
    assert not [line for line in site.stage_log if line.endswith("overlap")], site.stage_log
    for stage in STAGES:
        assert site.stage_log.count(f"{stage.name} end") <= len(by_step[stage.name])


@pytest.fixture(scope="session")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A server that a test may crash; it waits for the disk, so that a crash loses nothing."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("own"), durable=True) as server:
        yield server


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of the campaign."""
    if not _OUTCOMES:
        return
    by_fault: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in _OUTCOMES:
        by_fault[outcome.fault].append(outcome)
    terminalreporter.section("injected faults")
    head = ("fault", "runs", "effective", "recovered", "wasted s", "attempts", "equal")
    rows = [head]
    for fault, runs in sorted(by_fault.items()):
        equal = [run.products_equal for run in runs if run.products_equal is not None]
        wasted = sorted(run.wasted_seconds for run in runs)
        rows.append(
            (
                fault,
                str(len(runs)),
                str(sum(run.effective for run in runs)),
                str(sum(run.recovered for run in runs)),
                f"{wasted[len(wasted) // 2]:.1f} (max {wasted[-1]:.1f})",
                str(sum(run.attempts_spent for run in runs)),
                f"{sum(equal)}/{len(equal)}" if equal else "must fail",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        terminalreporter.write_line("  ".join(cells).rstrip())


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("ABSURD_", "PIPELINE_", "CONTIMG_")):
            monkeypatch.delenv(name)
