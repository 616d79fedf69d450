"""One disturbed run: waits for its moment, watches the database, and says how it ended."""

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
from campaign_sites import Begun, Prepared, end, log_of, read_diary, witnessed
from psycopg import sql
from real_site import QUEUE, Site

LEASE_SECONDS = 6
PATIENCE_SECONDS = 600.0
_LOOK_SECONDS = 0.25


@dataclass
class Run:
    """One site with a fault to come."""

    fault: str
    number: int
    prepared: Prepared
    folder: Path
    draw: random.Random
    stage: str
    crashing: bool = False
    lease_seconds: int = LEASE_SECONDS
    offset: float = 0.0
    """Seconds after the beginning of the stage at which the fault comes."""
    struck_at: float | None = None
    victim: str | None = None
    """The input that was harmed."""
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    committed: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    site: Site = field(init=False)
    problems: list[str] = field(default_factory=list)
    """What must not be: a step committed twice, a task that nobody would take up."""

    def __post_init__(self) -> None:
        self.witness = self.folder / "witness"
        self.root = self.folder / "site"
        self.offset = self.draw.uniform(0.0, 1.1 * self.prepared.seconds[self.stage])
        self._looked_at = 0.0
        self._state = "pending"

    def prepare(self, **variables: str) -> Site:
        """Make the site as it stands before the stage."""
        site = self.prepared.copy(self.root, self.stage, crashing=self.crashing)
        source = self.prepared.source
        self.site = witnessed(site, self.witness, source, **variables)
        return self.site

    @property
    def log(self) -> str:
        return log_of(self.folder)

    @property
    def diary(self) -> list[Begun]:
        return read_diary(self.witness)

    def worker(self, name: str = "one", url: str | None = None) -> subprocess.Popen[bytes]:
        """Start a worker."""
        site = self.site if url is None else replace(self.site, database_url=url)
        worker = site.start_worker(
            *("--worker-id", name, "--claim-timeout", str(self.lease_seconds)),
            log=self.folder / "worker.log",  # not on the disk that a fault fills
        )
        self.workers.append(worker)
        return worker

    def moment(self) -> int:
        """Wait until the stage has begun and the drawn time has passed; the stage's process."""
        self.until(lambda: any(one.stage == self.stage for one in self.diary))
        begun = next(one for one in self.diary if one.stage == self.stage)
        while (left := begun.time + self.offset - time.time()) > 0:
            self.look()
            time.sleep(min(left, 0.1))
        self.struck_at = time.time()
        return begun.pid

    def until(self, holds: Callable[[], bool], patience: float = PATIENCE_SECONDS) -> None:
        """Wait until something holds, and watch the database meanwhile."""
        give_up = time.monotonic() + patience
        while not holds():
            if time.monotonic() > give_up:
                raise TimeoutError(f"nothing came in {patience:g} s; task {self._state}")
            self.look()
            time.sleep(0.05)

    def finish(self) -> None:
        """Wait until the task has ended."""
        self.until(lambda: self._state in ("completed", "failed", "cancelled"))

    def ended(self) -> bool:
        self.look(now=True)
        return self._state in ("completed", "failed", "cancelled")

    def look(self, now: bool = False) -> None:
        """Compare the database with what it said before; at most a few times a second."""
        if not now and time.monotonic() - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = time.monotonic()
        try:
            self._look()
        except psycopg.OperationalError:
            return  # it has been crashed, by us

    def _look(self) -> None:
        tables = {one: sql.Identifier(f"{one}_{QUEUE}") for one in "trcw"}
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
            self.problems.append(f"task {row[0]} with a run {row[1]} that nobody would take up")
        found = {name: (owner, when) for name, owner, when in steps}
        for name, before in self.committed.items():
            if found.get(name) != before:
                self.problems.append(f"step {name} was committed again")
        self.committed = found

    def execute(self, statement: sql.Composed) -> None:
        """Tell the database something that it should not believe."""
        with psycopg.connect(self.site.database_url, autocommit=True) as connection:
            connection.execute(statement)

    def stop(self) -> None:
        """Stop the workers as a service manager does; each must end by itself."""
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            worker.wait(60)
        scratch = self.root / "scratch"
        left = [one for one in scratch.rglob("*") if one.is_file() and ".owners" not in one.parts]
        self.problems += [f"left in scratch: {one}" for one in left]

    def close(self) -> None:
        """End all workers, however they are."""
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
    """Send a signal to a stage's process; whether it was there."""
    alive = is_running(pid)
    with suppress(ProcessLookupError):
        os.kill(pid, number)
    return alive


def limit_process(pid: int, what: int, value: int) -> bool:
    """Lower a limit of a stage's process; whether it was there."""
    if not is_running(pid):
        return False
    try:
        _, hard = resource.prlimit(pid, what)
        resource.prlimit(pid, what, (value, hard))
    except ProcessLookupError:
        return False
    return is_running(pid)
