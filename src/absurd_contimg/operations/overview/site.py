"""A site as what watches it sees it: its tasks, its registry, its settings, wherever they are."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from absurd_contimg.backends.postgres import EmbeddedPostgres, PostgresBackend
from absurd_contimg.core.backend import Inspection
from absurd_contimg.core.errors import BackendUnavailable, QueueNotFound
from absurd_contimg.ingest.batches import pipeline_queues
from absurd_contimg.operations.services import (
    absent_queue,
    has_registry,
    open_backend,
    require_own_state,
)
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.lost_database import lost_database
from absurd_contimg.settings import Settings


@dataclass(slots=True)
class Site:
    """What is looked at: production, an emulator, a finished simulation, a file of histories."""

    source: str
    """``production``, ``emulator``, ``simulation`` or ``history file``, and which."""
    inspection: Inspection
    database: Database | None = None
    """The tables of the registry, as far as they are open: see `registry`."""
    settings: Settings | None = None
    """None: no folder of this host belongs to the site, and all queues do."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def registry(self) -> Database | None:
        """The tables of the registry, opened when they are first there; None without any.

        Blocks for a moment. Raises `AwayError` while they cannot be opened; ask again later.
        """
        with self._lock:
            settings = self.settings
            if self.database is None and settings is not None and has_registry(settings):
                output_dir = settings.pipeline.paths.output_dir
                self.database = Database(settings.registry_url, output_dir=output_dir)
            return self.database

    async def queues(self) -> list[str]:
        """The main queue, those of its stages and of batches, or all; raises `QueueNotFound`."""
        known = await self.inspection.list_queues()
        if self.settings is None:
            return known
        main = self.settings.queue_name
        if main not in known:
            raise QueueNotFound(" ".join(absent_queue(main, known, "")).strip())
        return pipeline_queues(main, known)


@contextmanager
def production_site(settings: Settings, inspection: Inspection) -> Iterator[Site]:
    """The site of these settings with this database; its registry is closed at the end."""
    site = Site(f"production, queue {settings.queue_name}", inspection, None, settings)
    try:
        yield site
    finally:
        if site.database is not None:
            site.database.close()


@asynccontextmanager
async def open_site(settings: Settings) -> AsyncIterator[Site]:
    """The production site of these settings, also while its database or registry is away.

    Raises `MissingInputError` where there never was a database: see `open_backend` of the services.
    """
    async with AsyncExitStack() as stack:
        if settings.database_url is not None:
            # What looks at a site says at once that the database is away, and looks again.
            backend = PostgresBackend(settings.database_url, connect_seconds=0.0)
            stack.push_async_callback(backend.close)
        elif lost_database(settings) is not None:
            require_own_state(settings)
            backend = _returning_backend(settings, stack)
        else:
            try:
                backend = await stack.enter_async_context(open_backend(settings, create=False))
            except BackendUnavailable:  # its disk is full, say: what shows the site shows the rest
                backend = _returning_backend(settings, stack)
        with production_site(settings, backend) as site:
            yield site


def _returning_backend(settings: Settings, stack: AsyncExitStack) -> PostgresBackend:
    """The embedded database that is gone or cannot start; usable as soon as it can."""
    server = EmbeddedPostgres(settings.embedded_folder)
    has_started = False

    def start() -> None:
        nonlocal has_started
        if (lost := lost_database(settings)) is not None:
            raise BackendUnavailable(str(lost))
        if has_started:
            server.restart_if_ended()  # not one that an operator has stopped since
        else:
            server.start()
            has_started = True

    stack.push_async_callback(asyncio.to_thread, server.stop_if_unused)
    backend = PostgresBackend(server.url(), recover=start, connect_seconds=1.0)
    stack.push_async_callback(backend.close)
    return backend
