"""Which database a command speaks to, and how it comes to have a schema and a queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from absurd_contimg.backends.postgres import EmbeddedPostgres, PostgresBackend
from absurd_contimg.backends.postgres.schema import install_schema
from absurd_contimg.operations.settings import Settings


def database_url(settings: Settings) -> str:
    """The database's URL; starts the embedded server if it is that one."""
    if settings.database_url is not None:
        return settings.database_url
    server = EmbeddedPostgres(settings.embedded_folder).start()
    return server.create_database("dsa110_absurd")


@asynccontextmanager
async def open_backend(settings: Settings) -> AsyncIterator[PostgresBackend]:
    """A connected backend; raises `BackendUnavailable` or `SchemaMissing`, which say what to do.

    The embedded server is ours alone, so its schema and queue are made when they are missing.
    """
    url = await asyncio.to_thread(database_url, settings)
    if settings.database_url is None:
        await initialise(url, settings.queue_name)
    async with PostgresBackend(url) as backend:
        yield backend


async def initialise(url: str, queue_name: str) -> str:
    """Install or migrate the schema and make the queue; what was done, as a sentence."""
    done = await asyncio.to_thread(install_schema, url)
    async with PostgresBackend(url, pool_min_size=1) as backend:
        await backend.create_queue(queue_name)
    return f"{done} Queue {queue_name!r} is there."
