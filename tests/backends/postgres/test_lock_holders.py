"""Who holds a lock on the queue's tables is named, whatever the site's role may see of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from absurd_contimg.backends.postgres import EmbeddedPostgres
from absurd_contimg.backends.postgres.lock_holders import (
    find_lock_holders,
    find_lock_holders_now,
    name_holders,
)
from absurd_contimg.backends.postgres.schema import install_schema

LOCK_TABLE = "lock table absurd.queues in access exclusive mode"
SOON = 10.0


@contextmanager
def lock_held(url: str) -> Iterator[int]:
    """A session of somebody else, within a transaction; its process number on the server."""
    with psycopg.connect(make_conninfo(url, application_name="a forgotten psql")) as session:
        session.execute(LOCK_TABLE)
        yield session.info.backend_pid


@pytest.fixture
def role_url(postgres_server: EmbeddedPostgres, database_url: str) -> Iterator[str]:
    """The database for a role that sees nothing of the sessions of others."""
    with psycopg.connect(database_url, autocommit=True) as administrator:
        administrator.execute("create role site login password 'secret'")
        socket = quote(str(postgres_server.folder / "socket"), safe="")
        yield f"postgresql://site:secret@/{administrator.info.dbname}?host={socket}"
        administrator.execute("drop owned by site")
        administrator.execute("drop role site")


async def test_session_of_another_role_is_named_with_what_can_be_seen(
    database_url: str, role_url: str
) -> None:
    """Its time and statement are hidden, which was a traceback."""
    with lock_held(database_url) as pid:
        text = name_holders(await find_lock_holders(role_url))
        assert name_holders(find_lock_holders_now(role_url)) == text
    assert f"session {pid} of user postgres (a forgotten psql)" in text
    assert "whose time and statement are hidden from this user (it lacks pg_read_all_stats)" in text
    assert "<insufficient privilege>" not in text
    assert f"select pg_terminate_backend({pid})" in text


async def test_session_whose_statement_is_visible(database_url: str) -> None:
    with lock_held(database_url) as pid:
        text = name_holders(await find_lock_holders(database_url))
    assert f"session {pid} of user postgres (a forgotten psql), for 0 s, with: {LOCK_TABLE}" in text


async def test_session_of_another_role_that_waits_itself_is_no_holder(
    database_url: str, role_url: str
) -> None:
    """Whether it waits is hidden, too, but not that its lock is not granted."""
    async with await psycopg.AsyncConnection.connect(database_url) as waiting:
        await waiting.execute("lock table absurd.contimg_sites in exclusive mode")
        with lock_held(database_url) as pid:
            attempt = asyncio.create_task(waiting.execute(LOCK_TABLE))
            async with asyncio.timeout(SOON):
                while not has_waiter(role_url):
                    await asyncio.sleep(0.02)
            holders = await find_lock_holders(role_url)
        await attempt
    assert [holder.pid for holder in holders] == [pid]


def has_waiter(url: str) -> bool:
    with psycopg.connect(url) as session:
        query = "select from pg_locks where not granted and locktype = 'relation'"
        return session.execute(query).fetchone() is not None


async def test_prepared_transaction_is_named_with_its_remedy(tmp_path: Path) -> None:
    """No process holds its locks, and they outlast a restart of the server."""
    server = EmbeddedPostgres(tmp_path)
    with server:
        url = server.create_database("site")
        install_schema(url)
    with (tmp_path / "data" / "postgresql.conf").open("a") as settings:
        settings.write("max_prepared_transactions = 5\n")
    name = 'the prepared transaction "it\'s left" of user postgres, for '
    with server, psycopg.connect(url, autocommit=True) as session:
        for statement in ("begin", LOCK_TABLE, "prepare transaction 'it''s left'"):
            session.execute(statement.encode())
        assert f"held by {name}0 s" in name_holders(await find_lock_holders(url))
    with server, psycopg.connect(url, autocommit=True) as session:
        text = name_holders(await find_lock_holders(url))
        assert name in text
        remedy = text.rpartition(": ")[2]
        session.execute(remedy.encode())
        assert await find_lock_holders(url) == []
