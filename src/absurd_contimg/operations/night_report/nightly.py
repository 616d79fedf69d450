"""The daemon's part: writes the report of each night that has ended, beside its polls.

It looks every few minutes at the latest nights. A night has ended when no group of it was closed
for a while and all its tasks and windows have ended, or at a deadline. A report is written again
when a state that it depends on has changed since: all of that is read from registry, queue and the
JSON of the report, so that a restart of the daemon changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.records import LIVE_STATES
from absurd_contimg.operations.night_report.data_reading import read_data
from absurd_contimg.operations.night_report.facts import DataFigures
from absurd_contimg.operations.night_report.nights import (
    Night,
    groups_of,
    known_nights,
    quiet_seconds,
)
from absurd_contimg.operations.night_report.reading import (
    NightSite,
    read_fingerprint,
    read_states,
)
from absurd_contimg.operations.night_report.writing import write_night_report
from absurd_contimg.registry import Registry
from absurd_contimg.settings import Settings

_log = logging.getLogger(__name__)

_NIGHTS = 3
"""The latest nights are looked at."""
_GROUPS = 1000
"""Their groups, at most: 280 a day."""


@dataclass(slots=True)
class NightlyReports:
    """Looks for nights that have ended, one look at a time, in the background."""

    site: NightSite
    _running: asyncio.Task[None] | None = field(default=None)
    _next_look: float = field(default=0.0)
    _stopped: threading.Event = field(default_factory=threading.Event)

    async def step(self) -> None:
        """Begin a look if one is due; returns at once. What the last one failed of is logged."""
        if self._running is not None and self._running.done():
            self._log_failure(self._running)
            self._running = None
        gates = self.site.config.night_report
        if not gates.written or self._running is not None or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + 60.0 * gates.look_minutes
        self._running = asyncio.create_task(self.look())

    @staticmethod
    def _log_failure(task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            _log.warning(
                "the report of a night was not written and is tried again: %s: %s",
                type(error).__name__,
                error,
            )

    async def look(self) -> None:
        """Write what is due; raises what writing raises."""
        nights = await asyncio.to_thread(known_nights, self.site.database, _GROUPS)
        for day in nights[:_NIGHTS]:
            night = Night(day)
            if self._stopped.is_set() or not await self._has_ended(night):
                continue
            stored = await asyncio.to_thread(self.site.stored, day)
            if stored is not None:
                fingerprint = await read_fingerprint(self.site, night)
                if stored.fingerprint == fingerprint:
                    continue
            report, page, _ = await write_night_report(
                self.site, night, None, self._read_data, self._stopped.is_set
            )
            _log.info("night %s is %s: %s", day, report.verdict, page)

    async def _has_ended(self, night: Night) -> bool:
        config = self.site.config
        now = (await self.site.inspection.current_time()).timestamp()
        groups = await asyncio.to_thread(groups_of, self.site.database, night)
        quiet = quiet_seconds(groups, now)
        if quiet < config.streaming.night_end_seconds:
            return False
        if quiet >= 3600.0 * config.night_report.deadline_hours:
            return True
        tasks, windows = await read_states(self.site, night)
        return not any(state in LIVE_STATES for state in tasks) and "open" not in windows

    def _read_data(self, paths: Sequence[Path]) -> Mapping[Path, DataFigures]:
        return read_data(paths, self.site.config.paths.scratch_dir, self._stopped.is_set)

    async def stop(self) -> None:
        """End a look that is under way, without its report.

        Its thread ends within seconds: after the image that it measures, half a second after
        this while it waits for the process that reads flags.
        """
        self._stopped.set()
        if self._running is not None:
            self._running.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait([self._running])


@asynccontextmanager
async def daemon_reports(
    backend: Backend, settings: Settings, registry: Registry
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """The step of the daemon with these; at the end a look that is under way is given up."""
    site = NightSite(backend, registry.database, settings.pipeline, settings.queue_name, settings)
    reports = NightlyReports(site)
    try:
        yield reports.step
    finally:
        await reports.stop()
