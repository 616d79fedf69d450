"""Connections that fall silent, and statements that wait for a lock: every call ends in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from freezing_proxy import FreezingProxy
from psycopg.conninfo import conninfo_to_dict

from absurd_contimg.backends.postgres import PostgresBackend, connections, sessions
from absurd_contimg.backends.postgres.sessions import WAIT_BOUNDS, connection_parameters

QUEUE = "q"
SOON = 5.0
"""Seconds: half of what psycopg waits when it cancels a statement on a silent connection."""


@pytest.fixture(params=[False, True], ids=["unix", "tcp"])
def proxy(
    request: pytest.FixtureRequest, database_url: str, tmp_path: Path
) -> Iterator[FreezingProxy]:
    with FreezingProxy(database_url, tmp_path / "proxy", tcp=request.param) as proxy:
        yield proxy


async def test_silent_idle_connections_are_replaced(
    proxy: FreezingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with PostgresBackend(proxy.url) as backend:
        await asyncio.gather(*(backend.current_time() for _ in range(4)))
        made = proxy.connections
        monkeypatch.setattr(connections, "_TRUSTED_SECONDS", 0.0)
        proxy.silence()
        async with asyncio.timeout(SOON):
            await backend.current_time()
        assert proxy.connections <= made + 2, "one new connection, and the request to cancel"


async def test_cancelled_call_leaves_its_silent_connection_at_once(proxy: FreezingProxy) -> None:
    async with PostgresBackend(proxy.url) as backend:
        await backend.current_time()
        proxy.silence()
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await backend.current_time()
        await backend.current_time()
        assert time.monotonic() - began < SOON


async def test_call_in_time_although_nothing_is_forwarded(
    proxy: FreezingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New connections hang too: the bound of the call holds, and then everything works again."""
    async with PostgresBackend(proxy.url) as backend:
        proxy.freeze()
        monkeypatch.setattr(connections, "_CALL_SECONDS", 0.5)
        for _ in range(2):
            with pytest.raises(ConnectionError, match="did not answer"):
                async with asyncio.timeout(SOON):
                    await backend.current_time()
        proxy.thaw()
        monkeypatch.undo()
        await backend.current_time()


async def test_connecting_can_be_cancelled_at_any_moment(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the settings of the new session are sent."""
    monkeypatch.setattr(sessions, "_set_directly", lambda _info: "select pg_catalog.pg_sleep(60)")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await PostgresBackend(database_url).open()


async def test_server_gives_up_what_nobody_waits_for(database_url: str) -> None:
    waiting = (
        "select count(*) from pg_stat_activity"
        " where datname = current_database() and wait_event_type = 'Lock'"
    )
    async with PostgresBackend(database_url) as backend:
        await backend.create_queue(QUEUE)
        with psycopg.connect(database_url) as locker:
            locker.execute(f"lock table absurd.r_{QUEUE} in access exclusive mode")
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await backend.claim_task(QUEUE, "w")
            assert time.monotonic() - began < SOON
            async with asyncio.timeout(SOON):
                while locker.execute(waiting).fetchone() != (0,):
                    await asyncio.sleep(0.02)


def test_bounds_of_the_url_are_kept() -> None:
    url = "postgresql://localhost/x?connect_timeout=3&keepalives=0"
    parameters = connection_parameters(url, {})
    assert parameters.items() >= {"connect_timeout": "3", "keepalives": "0"}.items()
    assert parameters.keys() >= WAIT_BOUNDS.keys()


async def test_every_connection_has_the_bounds(database_url: str) -> None:
    async with PostgresBackend(database_url) as backend, backend._database.connection() as used:
        parameters = conninfo_to_dict(used.info.dsn)
    assert {name: str(value) for name, value in WAIT_BOUNDS.items()}.items() <= parameters.items()
