"""A run with one fault: waits for the time of injection and watches the database."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg
from campaign_sites import (
    Prepared,
    ProcessStart,
    end,
    log_of,
    observe_processes,
    read_process_starts,
)
from psycopg import sql
from real_site import QUEUE, Site

LEASE_SECONDS = 6
PATIENCE_SECONDS = 600.0
_POLL_SECONDS = 0.25


@dataclass
class Run:
    """One site and its fault."""

    fault: str
    number: int
    prepared: Prepared
    folder: Path
    draw: random.Random
    stage: str
    crashes_server: bool = False
    lease_seconds: int = LEASE_SECONDS
    offset: float = 0.0
    """Seconds from the start of the stage to the injection."""
    injected_at: float | None = None
    damaged_file: str | None = None
    """The damaged input."""
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    committed: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    site: Site = field(init=False)
    problems: list[str] = field(default_factory=list)
    """Such as a step that is committed twice, or a task that no worker can claim."""

    def __post_init__(self) -> None:
        self.observed = self.folder / "observed"
        self.root = self.folder / "site"
        self.offset = self.draw.uniform(0.0, 1.1 * self.prepared.seconds[self.stage])
        self._polled_at = 0.0
        self._state = "pending"

    def prepare(self, **variables: str) -> Site:
        """Make the site before the stage."""
        site = self.prepared.copy(self.root, self.stage, durable=self.crashes_server)
        source = self.prepared.source
        self.site = observe_processes(site, self.observed, source, **variables)
        return self.site

    @property
    def log(self) -> str:
        return log_of(self.folder)

    @property
    def process_starts(self) -> list[ProcessStart]:
        return read_process_starts(self.observed)

    def worker(self, name: str = "one", url: str | None = None) -> subprocess.Popen[bytes]:
        """Start a worker."""
        site = self.site if url is None else replace(self.site, database_url=url)
        worker = site.start_worker(
            *("--worker-id", name, "--claim-timeout", str(self.lease_seconds)),
            log=self.folder / "worker.log",  # not on the disk that a fault fills
        )
        self.workers.append(worker)
        return worker

    def wait_for_injection(self) -> int:
        """Wait for the stage's process, then for the offset; returns the process id."""
        self.until(lambda: any(start.stage == self.stage for start in self.process_starts))
        process = next(start for start in self.process_starts if start.stage == self.stage)
        while (left := process.time + self.offset - time.time()) > 0:
            self.poll()
            time.sleep(min(left, 0.1))
        self.injected_at = time.time()
        return process.pid

    def until(self, holds: Callable[[], bool], patience: float = PATIENCE_SECONDS) -> None:
        """Wait until a condition holds, and watch the database meanwhile."""
        give_up = time.monotonic() + patience
        while not holds():
            if time.monotonic() > give_up:
                raise TimeoutError(f"timed out after {patience:g} s; task {self._state}")
            self.poll()
            time.sleep(0.05)

    def finish(self) -> None:
        """Wait until the task has ended."""
        self.until(lambda: self._state in ("completed", "failed", "cancelled"))

    def ended(self) -> bool:
        self.poll(now=True)
        return self._state in ("completed", "failed", "cancelled")

    def poll(self, now: bool = False) -> None:
        """Compare the database with its last state; at most a few times a second."""
        if not now and time.monotonic() - self._polled_at < _POLL_SECONDS:
            return
        self._polled_at = time.monotonic()
        try:
            self._compare_with_database()
        except psycopg.OperationalError:
            return  # the fault has crashed the server

    def _compare_with_database(self) -> None:
        tables = {letter: sql.Identifier(f"{letter}_{QUEUE}") for letter in "trcw"}
        with psycopg.connect(self.site.database_url, connect_timeout=5) as connection:
            connection.execute("set transaction isolation level repeatable read")
            row = connection.execute(
                sql.SQL(
                    "select t.state, r.state, coalesce(case r.state"
                    " when 'pending' then r.available_at < 'infinity'"
                    " when 'running' then r.claim_expires_at < 'infinity'"
                    " when 'sleeping' then r.available_at < 'infinity' or exists ("
                    "  select from absurd.{w} w where w.run_id = r.run_id"
                    "  and w.timeout_at is not null)"
                    " end, false) from absurd.{t} t"
                    " join absurd.{r} r on r.run_id = t.last_attempt_run"
                ).format(**tables)
            ).fetchone()
            steps = connection.execute(
                sql.SQL(
                    "select checkpoint_name, owner_run_id, updated_at from absurd.{c}"
                    " where checkpoint_name not like '$%'"
                ).format(**tables)
            ).fetchall()
        assert row is not None
        self._state = row[0]
        if self._state not in ("completed", "failed", "cancelled") and not row[2]:
            self.problems.append(f"task {row[0]} with a run {row[1]} that no worker can claim")
        committed = {name: (owner, when) for name, owner, when in steps}
        for name, before in self.committed.items():
            if committed.get(name) != before:
                self.problems.append(f"step {name} was committed again")
        self.committed = committed

    def execute(self, statement: sql.Composed) -> None:
        """Execute a statement behind the workers' backs."""
        with psycopg.connect(self.site.database_url, autocommit=True) as connection:
            connection.execute(statement)

    def stop(self) -> None:
        """Stop the workers as a service manager does; each must end by itself."""
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            worker.wait(60)
        scratch = self.root / "scratch"
        files = [path for path in scratch.rglob("*") if path.is_file()]
        left = [path for path in files if ".owners" not in path.parts]
        self.problems += [f"left in scratch: {path}" for path in left]

    def close(self) -> None:
        """End all workers, also stopped ones."""
        for worker in self.workers:
            end(worker)


def is_running(pid: int) -> bool:
    """Whether a process lives, stopped or not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def signal_process(pid: int, number: int) -> bool:
    """Send a signal to a stage's process; returns whether it was alive."""
    alive = is_running(pid)
    with suppress(ProcessLookupError):
        os.kill(pid, number)
    return alive


def limit_process(pid: int, what: int, value: int) -> bool:
    """Lower a limit of a stage's process; returns whether it was alive."""
    if not is_running(pid):
        return False
    try:
        _, hard = resource.prlimit(pid, what)
        resource.prlimit(pid, what, (value, hard))
    except ProcessLookupError:
        return False
    return is_running(pid)
