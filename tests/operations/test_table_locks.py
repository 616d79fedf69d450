"""A lock that somebody keeps: maintenance ends within a bound and names who has it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from absurd_contimg.backends.postgres import PostgresBackend, lock_holders
from absurd_contimg.core.errors import BackendError
from absurd_contimg.operations.maintenance import vacuum
from absurd_contimg.operations.maintenance.backup import make_backup, restore_backup
from absurd_contimg.registry import Registry

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _short_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_holders, "LOCK_SECONDS", 0.5)


@pytest.fixture
async def url(database_url: str) -> str:
    """A database with a queue, a task, and a registry."""
    async with PostgresBackend(database_url) as backend:
        await backend.create_queue("q")
        await backend.spawn_task("q", "task", {})
    Registry(database_url).close()
    return database_url


@contextmanager
def lock_held(url: str, table: str, mode: str = "access exclusive") -> Iterator[str]:
    """Somebody else's session; how it is named."""
    with psycopg.connect(url) as session:
        session.execute(f"lock table {table} in {mode} mode".encode())
        yield rf"session {session.info.backend_pid} of user postgres.*pg_terminate_backend"


@pytest.mark.parametrize("table", ["absurd.r_q", "contimg.products"])
async def test_backup(url: str, tmp_path: Path, table: str) -> None:
    """It waited as long as the lock, without a word."""
    with lock_held(url, table) as holder, pytest.raises(BackendError, match=holder):
        make_backup(url, url, tmp_path / "b", NOW)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("mode", ["access exclusive", "share update exclusive"])
@pytest.mark.parametrize("table", ["absurd.r_q", "contimg.products"])
async def test_vacuum(url: str, table: str, mode: str) -> None:
    with lock_held(url, table, mode) as holder, pytest.raises(BackendError, match=holder):
        await vacuum(url, url)


@pytest.mark.parametrize("mode", ["access exclusive", "access share"])
@pytest.mark.parametrize("table", ["absurd.queues", "absurd.r_q", "contimg.products"])
async def test_restoration_leaves_all_as_it_was(
    url: str, tmp_path: Path, table: str, mode: str
) -> None:
    """Also beside one who has only read, and whom the removal of the old tables would wait for."""
    make_backup(url, url, tmp_path / "b", NOW)
    async with PostgresBackend(url) as backend:
        await backend.spawn_task("q", "task", {})
        with lock_held(url, table, mode) as holder, pytest.raises(BackendError, match=holder):
            restore_backup(url, url, tmp_path / "b", force=True)
        assert len(await backend.list_tasks("q")) == 2
    restore_backup(url, url, tmp_path / "b", force=True)
    async with PostgresBackend(url) as backend:
        assert len(await backend.list_tasks("q")) == 1
