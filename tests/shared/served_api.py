"""An API on a real socket, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.operations.api.server import (
    BoundedProtocol,
    address,
    open_socket,
    run_server,
)

QUEUE = "dsa110-pipeline"


@asynccontextmanager
async def served(app: Any, protocol: type[BoundedProtocol] = BoundedProtocol) -> AsyncIterator[str]:
    """The application on a free port of this event loop; its address."""
    listener = open_socket("127.0.0.1", 0)
    ready = asyncio.Event()
    serving = asyncio.create_task(run_server(app, listener, ready.set, protocol, signals=()))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    try:
        yield address(listener)
    finally:
        serving.cancel()
        await asyncio.wait({serving})
        listener.close()


@contextmanager
def served_in_thread(
    make: Callable[[], AbstractAsyncContextManager[Any]],
) -> Iterator[str]:
    """The application that `make` gives, on an event loop of its own; its address."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    stop: asyncio.Event
    started: threading.Event = threading.Event()
    url = ""
    failed: list[BaseException] = []

    async def serve() -> None:
        nonlocal url, stop
        stop = asyncio.Event()
        try:
            async with make() as app, served(app) as url:
                started.set()
                await stop.wait()
        except BaseException as error:
            failed.append(error)
            raise
        finally:
            started.set()

    serving = asyncio.run_coroutine_threadsafe(serve(), loop)
    started.wait(60)
    if failed:
        raise failed[0]
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(stop.set)
        serving.result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()


async def emulator() -> MemoryBackend:
    """An emulator with an empty queue."""
    backend = MemoryBackend(MemoryDatabase())
    await backend.create_queue(QUEUE)
    return backend
