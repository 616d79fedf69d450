"""Which database a command uses, and how its schema and queue are created."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from absurd_contimg.backends.postgres import EmbeddedPostgres, PostgresBackend
from absurd_contimg.backends.postgres.schema import install_schema
from absurd_contimg.errors import MissingInputError
from absurd_contimg.settings import Settings


def database_url(settings: Settings) -> str:
    """The database's URL; starts the embedded server if there is no other database."""
    if settings.database_url is not None:
        return settings.database_url
    server = EmbeddedPostgres(settings.embedded_folder).start()
    return server.create_database("dsa110_absurd")


@asynccontextmanager
async def open_backend(
    settings: Settings, *, create: bool = True, leave_running: bool = False
) -> AsyncIterator[PostgresBackend]:
    """A connected backend; raises `BackendUnavailable` or `SchemaMissing`, which say what to do.

    The embedded server belongs to this installation, so its schema and queue are created if they
    are missing; with `create` False, raises `MissingInputError` if the server does not exist. If
    this call has started the server, it stops it at the end, unless another process uses it or
    `leave_running` is set.
    """
    if settings.database_url is not None:
        async with PostgresBackend(settings.database_url) as backend:
            yield backend
        return
    server = EmbeddedPostgres(settings.embedded_folder)
    if not create and not server.exists():
        raise MissingInputError(
            f"There is no database in {settings.embedded_folder}: no task has been spawned there.",
            "Check --output-dir and --state-dir, or set ABSURD_DATABASE_URL.",
        )
    was_running = await asyncio.to_thread(server.is_running)
    try:
        url = await asyncio.to_thread(database_url, settings)
        await initialise(url, settings.queue_name)
        async with PostgresBackend(url) as backend:
            yield backend
    finally:
        if not was_running and not leave_running:
            await asyncio.to_thread(server.stop_if_unused)


async def initialise(url: str, queue_name: str) -> str:
    """Install or migrate the schema and create the queue; returns a sentence that says so."""
    message = await asyncio.to_thread(install_schema, url)
    async with PostgresBackend(url) as backend:
        await backend.create_queue(queue_name)
    return f"{message} Queue {queue_name!r} exists."
