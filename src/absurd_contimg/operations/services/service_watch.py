"""Around the work of a service: its record, its samples of free space, its service manager."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from absurd_contimg.operations.services.service_manager import ServiceManager
from absurd_contimg.operations.services.service_reporter import ServiceReporter

_TICK_SECONDS = 1.0
_START_TICK_SECONDS = 0.1
_PINGS_PER_WATCHDOG = 4
_STUCK_SHARE = 0.5
"""The share of the watchdog's time that one step may take: a service that is stuck is killed after
at most one and a half times that time."""
_EXTENSION_SECONDS = 30.0


@asynccontextmanager
async def reported(
    reporter: ServiceReporter, manager: ServiceManager | None = None
) -> AsyncIterator[None]:
    """While the body runs, its state is told to the registry and to the service manager.

    Neither delays the body, nor ends it. At the end the record says that it has ended in order,
    also when the body raises: only a process that dies leaves no such record.
    """
    tasks = [asyncio.create_task(reporter.run(), name="service record")]
    if manager is not None and manager.address:
        tasks.append(asyncio.create_task(tell_manager(manager, reporter), name="sd_notify"))
    try:
        yield
    finally:
        if manager is not None:
            manager.stopping()
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        await reporter.stop()


async def tell_manager(manager: ServiceManager, reporter: ServiceReporter) -> None:
    """Tell the manager of each change, and ping its watchdog while there is progress.

    This task and the service's loop are tasks of one event loop: what blocks the loop stops the
    pings too.
    """
    state = reporter.state
    clock = asyncio.get_running_loop().time
    limit = (manager.watchdog_seconds or 2 * _EXTENSION_SECONDS) * _STUCK_SHARE
    ping_seconds = (manager.watchdog_seconds or _EXTENSION_SECONDS) / _PINGS_PER_WATCHDOG
    was_ready = was_stopping = False
    status, pinged_at = "", clock() - ping_seconds
    while True:
        if not was_ready and (was_ready := state.is_ready()):
            manager.ready()
        if not was_stopping and (was_stopping := state.is_stopping()):
            manager.stopping()
        text = reporter.problem() or state.activity()
        if text != status:
            status = text
            manager.status(text)
        if not state.is_stuck(limit):
            if clock() - pinged_at >= ping_seconds:
                pinged_at = clock()
                manager.ping()
            if was_stopping or not was_ready:
                manager.needs_seconds(_EXTENSION_SECONDS)
        await asyncio.sleep(min(_TICK_SECONDS, ping_seconds) if was_ready else _START_TICK_SECONDS)
