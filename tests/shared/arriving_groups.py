"""Small but valid sub-band files, and a site whose daemon reads them: no CASA, no worker.

The files have the keys that ingestion reads. The site's clock is moved by the test.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.core.backend import Backend
from absurd_contimg.ingest.arrivals import Arrivals
from absurd_contimg.ingest.closing import ArrivalRules, ClosingRules
from absurd_contimg.ingest.daemon import Daemon, PollReport
from absurd_contimg.ingest.incoming_folder import Incoming, IncomingFolder
from absurd_contimg.ingest.ports import IngestStore
from absurd_contimg.ingest.windows import WindowRules
from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.ingestion import IngestionTables
from absurd_contimg.registry.ingestion_records import IngestGroup
from absurd_contimg.registry.models import FileState

QUEUE = "dsa110-pipeline"
CADENCE_SECONDS = 309
FIRST_SECONDS = 1_769_380_000
"""Unix time of the first group's name."""


def group_seconds(number: int) -> int:
    return FIRST_SECONDS + number * CADENCE_SECONDS


def group_id(number: int) -> str:
    return datetime.fromtimestamp(group_seconds(number), UTC).strftime("%Y-%m-%dT%H:%M:%S")


def file_name(number: int, subband: int, late_seconds: int = 0) -> str:
    stamp = datetime.fromtimestamp(group_seconds(number) + late_seconds, UTC)
    return f"{stamp:%Y-%m-%dT%H:%M:%S}_sb{subband:02d}.hdf5"


def write_subband(
    folder: Path,
    number: int,
    subband: int,
    *,
    declination_deg: float = 16.27,
    late_seconds: int = 0,
    modified: float | None = None,
) -> Path:
    """A file of the n-th group, which appears under its name when it is whole."""
    path = folder / file_name(number, subband, late_seconds)
    growing = path.with_name(f"{path.stem}_incomplete.hdf5")
    start_jd = 2_440_587.5 + group_seconds(number) / 86_400.0
    with h5py.File(growing, "w") as file:
        file["Header/time_array"] = start_jd + np.array([6.4, 302.8]) / 86_400.0
        file["Header/freq_array"] = np.array([[1.4e9 - subband * 1.17e7]])
        file["Header/polarization_array"] = np.array([-5, -6])
        file["Header/extra_keywords/phase_center_dec"] = np.radians(declination_deg)
        file["Data/visdata"] = np.ones((2, 1, 1, 2), np.complex64)
    if modified is not None:
        os.utime(growing, (modified, modified))
    growing.rename(path)
    return path


@cache
def empty_registry() -> bytes:
    """The file of a registry without rows: making its tables takes a while."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "registry.sqlite3"
        Registry(path).close()
        return path.read_bytes()


@dataclass
class ManualClock:
    """A clock that a test moves; `set_by` is what somebody has added to the wall clock."""

    started: float = field(default_factory=time.time)
    elapsed: float = 0.0
    set_by: float = 0.0

    def now(self) -> float:
        return self.started + self.elapsed + self.set_by

    def monotonic(self) -> float:
        return self.elapsed


@dataclass
class DaemonSite:
    """A folder, a registry and a queue; daemons come and go."""

    root: Path
    arrival: ArrivalRules = field(default_factory=ArrivalRules)
    closing: ClosingRules = field(default_factory=ClosingRules)
    rules: WindowRules = field(default_factory=WindowRules)

    def __post_init__(self) -> None:
        self.incoming = self.root / "incoming"
        self.incoming.mkdir(exist_ok=True)
        self.catalog = self.root / "catalog.csv"
        self.catalog.write_text("name\n")
        path = self.root / "registry.sqlite3"
        path.write_bytes(empty_registry())
        self.registry = Registry(path)
        self.tables = IngestionTables(self.registry.database)
        self.clock = ManualClock()
        self.backend: Backend = MemoryBackend(MemoryDatabase())
        self.daemon: Daemon | None = None

    @property
    def database(self) -> Database:
        return self.registry.database

    async def begin(self) -> None:
        await self.backend.create_queue(QUEUE)

    def new_daemon(
        self,
        incoming: Incoming | None = None,
        store: IngestStore | None = None,
        backend: Backend | None = None,
        *,
        polls_once: bool = False,
    ) -> Daemon:
        """A daemon that knows nothing but what is stored, as after a restart."""
        store = store or self.tables
        incoming = incoming or IncomingFolder(self.incoming)
        arrivals = Arrivals(
            *(incoming, store, self.arrival, self.closing, 3600.0), polls_once=polls_once
        )
        return Daemon(
            backend=backend or self.backend,
            store=store,
            arrivals=arrivals,
            clock=self.clock,
            queue_name=QUEUE,
            rules=self.rules,
            find_catalog=lambda: self.catalog,
        )

    async def poll(self, seconds: float = 0.0) -> PollReport:
        """One poll of the daemon that runs, so many seconds later."""
        self.clock.elapsed += seconds
        self.daemon = self.daemon or self.new_daemon()
        return await self.daemon.poll()

    async def single_poll(self, seconds: float) -> None:
        """One poll of a process of its own, as ``contimg daemon --once``, so much later."""
        self.clock.elapsed += seconds
        daemon = self.new_daemon(polls_once=True)
        while (await daemon.poll()).more:
            pass

    async def polls(self, seconds: float, count: int) -> None:
        for _ in range(count):
            await self.poll(seconds)

    def write(self, number: int, subbands: Sequence[int] = range(16), **options: Any) -> None:
        """Files of a group, written now."""
        for subband in subbands:
            write_subband(self.incoming, number, subband, modified=self.clock.now(), **options)

    def group(self, number: int) -> IngestGroup:
        (group,) = self.tables.groups(group_id=group_id(number))
        return group

    def file_states(self, number: int) -> dict[FileState, list[int]]:
        states: dict[FileState, list[int]] = {}
        for file in self.group(number).files:
            states.setdefault(file.state, []).append(file.subband)
        return states

    def finish(self, number: int, status: GroupStatus = GroupStatus.DONE) -> None:
        """As a worker does that ran the group's task."""
        self.registry.set_group_status(group_id(number), status, None)

    async def tasks(self) -> list[tuple[str, str]]:
        """Name and key of each task in order of spawning."""
        tasks = await self.backend.list_tasks(QUEUE, limit=10_000)
        return [(task.task_name, str(task.idempotency_key)) for task in reversed(tasks)]
