"""The daemon's clock: the database's, also while the database is away."""

from __future__ import annotations

import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.core.errors import BackendUnavailable
from absurd_contimg.operations.services import Actions, GivenTables, site_clock
from absurd_contimg.operations.services.site_clock import SiteClock
from absurd_contimg.registry import Registry
from absurd_contimg.registry.ingestion import IngestionTables
from absurd_contimg.registry.ingestion_records import Closure, FileSighting
from absurd_contimg.registry.models import IngestState
from absurd_contimg.settings import load_settings


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


async def test_a_command_takes_the_databases_time(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a host whose clock is wrong, for a moment that the daemon compares with its own."""
    there = datetime.now(UTC).timestamp()
    monkeypatch.setattr(site_clock, "time", SimpleNamespace(time=float, monotonic=time.monotonic))
    settings = load_settings({}, (), {"ABSURD_DATABASE_URL": database_url})
    assert await site_clock.read_site_time(settings) == pytest.approx(there, abs=30)
    away = load_settings({}, (), {"ABSURD_DATABASE_URL": "postgresql://127.0.0.1:1/none"})
    assert await site_clock.read_site_time(away) == pytest.approx(0.0, abs=30)


async def test_a_group_is_opened_again_at_the_databases_time(tmp_path: Path) -> None:
    """The daemon closes it by that clock: a wrong one would close it too early."""
    there = datetime(2026, 1, 1, tzinfo=UTC)
    with closing(Registry(tmp_path / "registry.sqlite3")) as registry:
        tables = IngestionTables(registry.database)
        path = tmp_path / "2026-01-01T00:00:00_sb00.hdf5"
        tables.enter_files([FileSighting(path, 1, 1)], 0.0, 60)
        (group,) = tables.groups()
        closed = Closure(group.group_id, IngestState.REJECTED, "late", (), (), None, None, 0.0)
        tables.close_group(closed)
        backend = MemoryBackend(MemoryDatabase(clock=lambda: there))
        actions = Actions(backend, GivenTables(registry.database), "tester@here", "api")
        assert await actions.reopen_group(group.group_id) == 2
        ((file,),) = [group.files for group in tables.groups()]
    assert file.first_seen == pytest.approx(there.timestamp(), abs=5)


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
