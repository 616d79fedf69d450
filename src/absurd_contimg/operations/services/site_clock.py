"""The clock by which the daemon and commands decide: the database's, which all hosts share.

A host whose own clock is wrong closes no group too early or too late. Between two readings, and
while the database is away, time goes on by this host's monotonic clock.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.errors import BackendError
from absurd_contimg.core.evidence import reason_of
from absurd_contimg.registry.service_records import CLOCK_OFFSET_SECONDS_MAX
from absurd_contimg.settings import Settings

_log = logging.getLogger(__name__)

_ANSWER_SECONDS = 5.0
"""How long the database may take to tell its time."""


async def read_site_time(settings: Settings) -> float:
    """Unix seconds by the database's clock; by this host's while it does not answer.

    A server that runs for this site on this host has the clock of this host, and is not started.
    """
    if settings.database_url is None:
        return time.time()
    backend = PostgresBackend(settings.database_url)
    try:
        clock = SiteClock(backend.current_time)
        await clock.read()
        return clock.now()
    finally:
        await backend.close()


@dataclass(slots=True)
class SiteClock:
    """The database's clock as of the last reading; this host's until there is one."""

    current_time: Callable[[], Awaitable[datetime]]
    """The database's clock."""
    _reading: tuple[float, float] | None = field(default=None, init=False)
    """The database's Unix seconds, and this host's monotonic seconds at that moment."""
    _is_noted: bool = field(default=False, init=False)

    async def read(self) -> None:
        """Ask the database for its time. While it does not answer, the last reading goes on."""
        asked_at = self.monotonic()
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                there = (await self.current_time()).timestamp()
        except (BackendError, TimeoutError) as error:
            _log.debug("the database does not tell its time: %s", reason_of(error))
            return
        self._reading = there, (asked_at + self.monotonic()) / 2
        self._note_offset(time.time() - self.now())

    def now(self) -> float:
        """Unix seconds."""
        if self._reading is None:
            return time.time()
        there, at = self._reading
        return there + self.monotonic() - at

    def monotonic(self) -> float:
        """Seconds that go on when the clock is set."""
        return time.monotonic()

    def today(self) -> datetime:
        """The same time as `now`, in UTC."""
        return datetime.fromtimestamp(self.now(), UTC)

    def _note_offset(self, seconds: float) -> None:
        is_off = abs(seconds) > CLOCK_OFFSET_SECONDS_MAX
        if is_off and not self._is_noted:
            _log.warning(
                "the clock of this host is %.0f s %s the database's, by which the daemon decides: "
                "start its time service (systemctl status systemd-timesyncd)",
                abs(seconds),
                "ahead of" if seconds > 0 else "behind",
            )
        self._is_noted = is_off
