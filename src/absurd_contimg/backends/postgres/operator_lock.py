"""The lock of what makes tasks live again: one operator's action at a time, from any process.

Each looks first whether another task does the same work; of two at one moment both would see none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import LiteralString

import psycopg

from absurd_contimg.backends.postgres.database_errors import raise_translated, unavailable
from absurd_contimg.backends.postgres.sessions import AsyncSession
from absurd_contimg.core.errors import BackendError

_LOCK: LiteralString = f"select pg_advisory_xact_lock({0x636F6E74}, {0x61637473})"
"""Its key is ("cont", "acts"); of a transaction, as behind a pooler no lock of a session lasts."""
_PATIENCE_SECONDS = 20.0


@asynccontextmanager
async def operator_lock(url: str) -> AsyncIterator[None]:
    """Hold the lock, on a connection of its own; `BackendError` if another action keeps it."""
    try:
        session = await AsyncSession.connect(url)
    except psycopg.OperationalError as error:
        raise unavailable(error) from error
    try:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await session.execute(_LOCK)
        except TimeoutError as error:
            raise BackendError(
                f"Another command has retried or forked tasks for {_PATIENCE_SECONDS:g} s. Wait "
                "for its end, then look before you repeat: contimg actions, contimg status",
                "55P03",
            ) from error
        except psycopg.Error as error:
            raise_translated(error)
        yield
    finally:
        session.pgconn.finish()  # its transaction has changed nothing
