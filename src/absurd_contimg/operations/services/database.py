"""Which database a command uses, and how its schema and queue are created."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from absurd_contimg.backends.postgres import EmbeddedPostgres, PostgresBackend
from absurd_contimg.backends.postgres.schema import install_schema
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.errors import BackendUnavailable
from absurd_contimg.errors import MissingInputError, SettingError
from absurd_contimg.execution.runner import check_folder_names
from absurd_contimg.execution.stage import stage_queues
from absurd_contimg.operations.services.queue_absence import absent_queue, removed_queue
from absurd_contimg.operations.services.state_check import require_own_state
from absurd_contimg.registry.lost_database import require_own_database
from absurd_contimg.settings import QUEUE_BYTES_MAX, Settings

_log = logging.getLogger(__name__)

_DATABASE = "dsa110_absurd"
_PAUSE_SECONDS = 5.0
SERVICE_PATIENCE_SECONDS = 60.0
"""How long a service waits for the database when it starts: less than systemd's limit of 90 s, and
so long that five starts take more than the 300 s after which systemd would give up."""


def database_url(settings: Settings, *, create: bool = True, may_be_new: bool = False) -> str:
    """The database's URL; starts the embedded server if there is no other database.

    Raises `SettingError` where somebody else could read or replace what is in the state folder.
    With `may_be_new` it makes an empty cluster also where the site's own is gone, which else raises
    `MissingInputError`; so does with `create` False one that never was.
    """
    if settings.database_url is not None:
        return settings.database_url
    require_own_state(settings)
    server = EmbeddedPostgres(settings.embedded_folder)
    if not may_be_new:
        require_own_database(settings)
    if not create and not server.exists():
        raise _never_used(server)
    return server.start().create_database(_DATABASE)


def _never_used(server: EmbeddedPostgres) -> MissingInputError:
    return MissingInputError(
        f"There is no database in {server.folder}: no task has been spawned there.",
        "Check --folder, --output-dir and --state-dir, or set ABSURD_DATABASE_URL.",
    )


@asynccontextmanager
async def open_backend(
    settings: Settings,
    *,
    create: bool = True,
    leave_running: bool = False,
    patience_seconds: float = 0.0,
) -> AsyncIterator[PostgresBackend]:
    """A connected backend; raises `BackendUnavailable` or `SchemaMissing`, which say what to do.

    The embedded server belongs to this installation, so its schema and first queue are created if
    they are missing; a further queue only by `contimg db init`, so that a misspelt name makes none.
    Raises `MissingInputError` where the site had one that is gone; with `create` False also if
    there never was one, and makes no queue; else `SettingError` for folders in which no task could
    run, and by `require_own_state`. If this call has started the server, it stops it at the end,
    unless another process uses it or `leave_running` is set. A server that is killed meanwhile is
    started again. A server of others that is away is waited for, at most for `patience_seconds`.
    """
    if create:
        check_folder_names(settings.pipeline.paths)
    if settings.database_url is not None:
        async with AsyncExitStack() as stack:
            yield await _enter(stack, settings.database_url, patience_seconds)
        return
    require_own_state(settings)
    server = EmbeddedPostgres(settings.embedded_folder)
    require_own_database(settings)
    if not create and not server.exists():
        raise _never_used(server)
    was_running = await asyncio.to_thread(server.is_running)
    try:
        await asyncio.to_thread(server.start)
        url = await asyncio.to_thread(server.create_database, _DATABASE)
        await initialise(url, None)
        if create:
            await _require_queue(url, settings.queue_name)
        async with PostgresBackend(url, recover=server.restart_if_ended) as backend:
            yield backend
    finally:
        if not was_running and not leave_running:
            await asyncio.to_thread(server.stop_if_unused)
        server.release()


async def _enter(stack: AsyncExitStack, url: str, patience_seconds: float) -> PostgresBackend:
    loop = asyncio.get_running_loop()
    give_up = loop.time() + patience_seconds
    while True:
        try:
            return await stack.enter_async_context(PostgresBackend(url))
        except BackendUnavailable as error:
            if loop.time() + _PAUSE_SECONDS >= give_up:
                raise
            _log.warning("waits for the database: %s", error)
            await asyncio.sleep(_PAUSE_SECONDS)


async def _require_queue(url: str, queue_name: str) -> None:
    """Make the first queue of a database; `SettingError` if it has others and not this one."""
    async with PostgresBackend(url) as backend:
        queues = await backend.list_queues()
    if queues and queue_name not in queues:
        if removed := removed_queue(queue_name, queues):
            raise SettingError(*removed)
        problem, hint = absent_queue(queue_name, queues, "Correct --queue or ABSURD_QUEUE_NAME.")
        raise SettingError(problem, f"{hint} To make it: contimg --queue {queue_name} db init")
    await initialise(url, queue_name)


async def initialise(url: str, queue_name: str | None, *, with_stages: bool = True) -> str:
    """Install or migrate the schema, create the queue and those of its stages; says so."""
    message = await asyncio.to_thread(install_schema, url)
    if queue_name is None:
        return message
    stages = sorted(stage_queues(queue_name).values()) if with_stages else []
    stages = [queue for queue in stages if len(queue.encode()) <= QUEUE_BYTES_MAX]
    async with PostgresBackend(url) as backend:
        known = await backend.list_queues()
        for queue in (queue_name, *stages):
            await make_queue(backend, queue)
    if queue_name in known:
        message = f"{message} Queue {queue_name!r} exists."
    else:
        message = f"{message} Made queue {queue_name!r}."
    if made := [queue for queue in stages if queue not in known]:
        message += f" Made for the stages of the telescope's pipeline: {', '.join(made)}."
    return message


async def make_queue(backend: Backend, queue: str) -> None:
    """Make the queue, or what is missing of it, stored as it is if another client made it."""
    policy = await backend.get_queue_policy(queue)
    await backend.create_queue(queue, "unpartitioned" if policy is None else policy.storage_mode)
