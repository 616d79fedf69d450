"""Calls that block, in threads that the process does not wait for when it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar, TypeVarTuple

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


async def in_thread(function: Callable[[*_Ts], _T], *arguments: *_Ts) -> _T:
    """The result of a call in a thread of its own.

    Unlike `asyncio.to_thread`, a call that hangs (a registry that is locked, a disk that is gone)
    keeps no process alive that is told to end.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def tell(set_it: Callable[[], None]) -> None:
        if not future.done():
            set_it()

    def run() -> None:
        try:
            result = function(*arguments)
        except Exception as error:  # noqa: BLE001 - raised again where it is awaited
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(tell, lambda error=error: future.set_exception(error))
        else:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(tell, lambda: future.set_result(result))

    threading.Thread(target=run, name=function.__name__, daemon=True).start()
    return await future
