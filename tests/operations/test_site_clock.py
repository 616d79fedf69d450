"""The daemon's clock: the database's, also while the database is away."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from absurd_contimg.core.errors import BackendUnavailable
from absurd_contimg.operations.services.site_clock import SiteClock


class DatabaseTime:
    """A database whose clock is five minutes behind this host's, and which may be away."""

    def __init__(self) -> None:
        self.is_away = False
        self.offset_seconds = -300.0

    async def __call__(self) -> datetime:
        if self.is_away:
            raise BackendUnavailable("away")
        return datetime.fromtimestamp(time.time() + self.offset_seconds, UTC)


async def test_the_time_is_the_databases(caplog: pytest.LogCaptureFixture) -> None:
    there = DatabaseTime()
    clock = SiteClock(there)
    assert clock.now() == pytest.approx(time.time(), abs=1)  # nobody has told it yet
    await clock.read()
    await clock.read()
    assert clock.now() == pytest.approx(time.time() - 300, abs=1)
    assert clock.today().timestamp() == pytest.approx(clock.now(), abs=1)
    (record,) = caplog.records
    assert "is 300 s ahead of the database's" in record.message


async def test_while_the_database_is_away_this_hosts_clock_may_be_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Time goes on from the last reading by the clock that cannot be set."""
    there = DatabaseTime()
    clock = SiteClock(there)
    await clock.read()
    before = clock.now()
    there.is_away = True
    monkeypatch.setattr(time, "time", lambda: 0.0)
    await clock.read()
    assert before <= clock.now() < before + 2
