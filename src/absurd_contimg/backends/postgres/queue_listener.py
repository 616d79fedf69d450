"""Listens for runs that are due, on a connection of its own, and signals the workers.

It only makes a worker claim earlier than it would: without it, or while its connection is away or
silent, the workers poll. A pooler in transaction mode hands on no notifications: nothing is
listened to there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import psycopg
from psycopg import sql

from absurd_contimg.backends.postgres.connections import BoundedConnection
from absurd_contimg.backends.postgres.queue_additions import channel
from absurd_contimg.core.due_signal import DueSignal
from absurd_contimg.core.errors import BackendError
from absurd_contimg.core.evidence import described
from absurd_contimg.core.worker import Worker

_log = logging.getLogger(__name__)

_CALL_SECONDS = 10.0
"""Of one call; then the connection is given up,"""
_PAUSE_SECONDS = 5.0
"""and after so long a new one is tried."""
_LOOK_SECONDS = 5.0
"""Between two looks at what sleeps, which also tell whether the connection is alive."""
_LATE_SECONDS = 0.001
"""A run that sleeps is claimed so long after its time: not before it, by another clock."""


@asynccontextmanager
async def listening(url: str, workers: Sequence[Worker]) -> AsyncIterator[None]:
    """Signal the workers of these queues in the meantime."""
    signals = {worker.settings.queue_name: DueSignal() for worker in workers}
    for worker in workers:
        worker.due_signal = signals[worker.settings.queue_name]
    listener = asyncio.create_task(_listen_always(url, signals), name="queue listener")
    try:
        yield
    finally:
        for worker in workers:
            worker.due_signal = None
        listener.cancel()
        await asyncio.wait({listener})


async def _listen_always(url: str, signals: Mapping[str, DueSignal]) -> None:
    while True:
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                connection = await BoundedConnection.connect(url, autocommit=True)
            try:
                if connection.pooled:
                    _log.info("behind a pooler no notifications come: the workers only poll")
                    return
                await _listen(connection, signals)
            finally:
                connection.abandon()
                if connection.cancellations:
                    await asyncio.wait(connection.cancellations)
        except (psycopg.Error, BackendError, TimeoutError) as error:
            _log.info("nothing is heard of the queues, the workers only poll: %s", described(error))
        await asyncio.sleep(_PAUSE_SECONDS)


async def _listen(connection: BoundedConnection, signals: Mapping[str, DueSignal]) -> None:
    """Signal until the connection fails or is silent."""
    by_channel = {channel(queue): signal for queue, signal in signals.items()}
    listen = [sql.SQL("listen {}").format(sql.Identifier(name)) for name in by_channel]
    async with asyncio.timeout(_CALL_SECONDS):
        await connection.execute(sql.SQL("; ").join(listen))
    for signal in signals.values():
        signal.ring()  # for what came before
    sleeping = sql.SQL(
        "select {}, extract(epoch from min(available_at) - absurd.current_time())::float8"
        " from {} where state = 'sleeping' and available_at < 'infinity'"
    )
    look = sql.SQL(" union all ").join(
        sleeping.format(sql.Literal(name), sql.Identifier("absurd", name)) for name in by_channel
    )
    while True:
        async with asyncio.timeout(_CALL_SECONDS):
            rows = await (await connection.execute(look)).fetchall()
        pause = _LOOK_SECONDS
        for name, seconds in rows:
            if seconds is not None and seconds <= 0:
                by_channel[name].ring()
            elif seconds is not None:
                pause = min(pause, seconds + _LATE_SECONDS)
        async for notice in connection.notifies(timeout=pause, stop_after=1):
            if notice.payload == "pending":
                by_channel[notice.channel].ring()
