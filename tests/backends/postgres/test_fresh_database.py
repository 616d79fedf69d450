"""Several processes that set up the same database at once."""

from __future__ import annotations

import asyncio

from absurd_contimg.backends.postgres import EmbeddedPostgres, PostgresBackend
from absurd_contimg.backends.postgres.schema import install_schema
from absurd_contimg.registry import Registry


async def test_set_up_at_once(postgres_server: EmbeddedPostgres) -> None:
    """Four workers on a fresh site: schema and registry are made once, nobody fails."""
    url = postgres_server.create_database("fresh")

    def set_up() -> str:
        Registry(url).close()
        return install_schema(url).split()[0]

    messages = await asyncio.gather(*(asyncio.to_thread(set_up) for _ in range(4)))
    assert sorted(messages) == [*["Absurd's"] * 3, "Installed"]


async def test_queues_made_at_once(database_url: str) -> None:
    async with PostgresBackend(database_url) as backend:
        for number in range(5):
            await asyncio.gather(*(backend.create_queue(f"q{number}") for _ in range(4)))
        assert await backend.list_queues() == [f"q{number}" for number in range(5)]
