"""The two backends that every worker test runs on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.backend import Backend

QUEUE = "dsa110-pipeline"


@pytest.fixture(params=["memory", "postgres"])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    """A backend with one empty queue: the emulator, then the real engine."""
    if request.param == "memory":
        memory = MemoryBackend(MemoryDatabase())
        await memory.create_queue(QUEUE)
        yield memory
        return
    async with PostgresBackend(request.getfixturevalue("database_url")) as postgres:
        await postgres.create_queue(QUEUE)
        yield postgres
