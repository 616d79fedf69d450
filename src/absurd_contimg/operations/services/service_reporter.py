"""The record of this process in the registry, and the free space of its folders.

A registry that is away or locked delays nothing: each record is written by a thread of its own,
which nobody waits for, and the next one is left out while it lasts.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from absurd_contimg.core.errors import BackendError
from absurd_contimg.core.evidence import reason_of
from absurd_contimg.errors import AwayError
from absurd_contimg.execution.disk_usage import disk_usage
from absurd_contimg.execution.host_scratch import host_name
from absurd_contimg.operations.services.process_memory import resident_bytes
from absurd_contimg.operations.services.service_state import ServiceState
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.disk_samples import DiskSample, store_samples
from absurd_contimg.registry.outages import Outage, store_outage
from absurd_contimg.registry.service_records import (
    RENEWAL_SECONDS,
    ServiceKind,
    ServiceRecord,
    store_service,
)

_log = logging.getLogger(__name__)

SAMPLE_SECONDS = 60.0
"""Between samples of free space."""
SAMPLES_KEPT_SECONDS = 48 * 3600.0

_CLOCK_SECONDS = 5.0
"""How long the database may take to tell its time."""
_END_SECONDS = 3.0
"""How long a process that ends waits for its last record."""
_TEXT_CHARACTERS_MAX = 1000
_OUTAGES_KEPT = 100


@dataclass(frozen=True, slots=True)
class ServiceIdentity:
    """Which process of the site this is."""

    kind: ServiceKind
    name: str
    """Of a worker the name under which it claims, so that its leases can be found."""
    queues: Sequence[str] = ()


@dataclass(slots=True)
class ServiceReporter:
    """Renews the record of this process until it is stopped."""

    identity: ServiceIdentity
    state: ServiceState
    database: Callable[[], Database]
    """The registry; called in a thread, so it may connect, and raise `AwayError`."""
    current_time: Callable[[], Awaitable[datetime]]
    """The database's clock."""
    folders: Sequence[Path] = ()
    """Whose file systems are watched."""
    renewal_seconds: float = RENEWAL_SECONDS
    sample_seconds: float = SAMPLE_SECONDS
    _offset: float = field(default=0.0, init=False)
    _started_at: float | None = field(default=None, init=False)
    _sampled_at: float | None = field(default=None, init=False)
    _written: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    """Set while no thread is writing."""
    _is_away: bool = field(default=False, init=False)
    _database_problem: str = field(default="", init=False)
    _away: tuple[float, str] | None = field(default=None, init=False)
    """Since when the database has not answered, by the monotonic clock, and why."""
    _outages: deque[Outage] = field(default_factory=lambda: deque(maxlen=_OUTAGES_KEPT), init=False)
    """Those that have ended and are not in the registry yet."""

    def problem(self) -> str:
        """Why the process does not do its work, as far as it knows."""
        return self.state.problem() or self._database_problem

    def __post_init__(self) -> None:
        self._written.set()

    async def run(self) -> None:
        """Renew the record for ever; for a task of its own, which is cancelled."""
        while True:
            await self.renew()
            await asyncio.sleep(self.renewal_seconds)

    async def stop(self) -> None:
        """Say that the process ends in order, if the registry can be told soon."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                await self._written.wait()
                await self.renew(is_end=True)
                await self._written.wait()

    async def renew(self, *, is_end: bool = False) -> None:
        """Begin to write the record as it is now, unless the last one is still being written."""
        if not self._written.is_set():
            return
        now = await self._database_now()
        if self._started_at is None:
            self._started_at = now
        record = ServiceRecord(
            kind=self.identity.kind,
            name=self.identity.name,
            host=host_name(),
            pid=os.getpid(),
            version=importlib.metadata.version("absurd-contimg"),
            queues=",".join(self.identity.queues),
            started_at=self._started_at,
            seen_at=now,
            stopped_at=now if is_end else None,
            activity=self.state.activity()[:_TEXT_CHARACTERS_MAX],
            problem=self.problem()[:_TEXT_CHARACTERS_MAX],
            clock_offset_seconds=self._offset,
        )
        is_due = self._sampled_at is None or now - self._sampled_at >= self.sample_seconds
        folders = self.folders if is_due and not is_end else ()
        self._written.clear()
        loop = asyncio.get_running_loop()

        def write() -> None:
            try:
                self._write(record, folders)
            finally:
                with suppress(RuntimeError):  # the loop has ended without waiting
                    loop.call_soon_threadsafe(self._written.set)

        threading.Thread(target=write, name="service record", daemon=True).start()

    async def _database_now(self) -> float:
        """Unix seconds; by this host's clock and its last known offset while nobody answers."""
        asked_at = time.time()
        try:
            async with asyncio.timeout(_CLOCK_SECONDS):
                now = (await self.current_time()).timestamp()
        except (BackendError, TimeoutError) as error:
            self._database_problem = f"The database does not answer: {reason_of(error)}"
            if self._away is None:
                self._away = (time.monotonic(), self._database_problem)
            return time.time() - self._offset
        self._database_problem = ""
        self._offset = (asked_at + time.time()) / 2 - now
        if self._away is not None:
            since, reason = self._away
            self._note_outage(time.monotonic() - since, reason, now)
            self._away = None
        return now

    def _note_outage(self, seconds: float, reason: str, now: float) -> None:
        """Keep it until the registry has it: of what works on tasks, the others wait for none."""
        if self.identity.kind in (ServiceKind.WORKER, ServiceKind.DAEMON):
            ended, reason = datetime.fromtimestamp(now, UTC), reason[:_TEXT_CHARACTERS_MAX]
            began = ended - timedelta(seconds=seconds)
            self._outages.append(Outage(began, ended, self.identity.name, reason))

    def _write(self, record: ServiceRecord, folders: Sequence[Path]) -> None:
        """In a thread: a file system or a registry may not answer for a long time."""
        samples = [
            sample
            for folder in dict.fromkeys(folders)
            if (sample := _sample(record.host, folder, record.seen_at)) is not None
        ]
        try:
            memory_bytes = float(resident_bytes(os.getpid()))
            database = self.database()
            store_service(database, replace(record, memory_bytes=memory_bytes))
            while self._outages:
                store_outage(database, self._outages[0])
                self._outages.popleft()
            if samples:
                store_samples(database, samples, record.seen_at - SAMPLES_KEPT_SECONDS)
                self._sampled_at = record.seen_at
        except (AwayError, OSError) as error:
            if not self._is_away:
                _log.warning("this process cannot be seen by others: %s", error)
            self._is_away = True
        else:
            if self._is_away:
                _log.info("this process is seen by others again")
            self._is_away = False


def _sample(host: str, folder: Path, at: float) -> DiskSample | None:
    try:
        usage = disk_usage(folder)
    except OSError as error:
        _log.debug("no sample of %s: %s", folder, error)
        return None
    return DiskSample(
        host=host,
        folder=str(folder),
        at=at,
        free_bytes=usage.free_bytes,
        total_bytes=usage.total_bytes,
        free_inodes=usage.free_inodes,
        total_inodes=usage.total_inodes,
    )
