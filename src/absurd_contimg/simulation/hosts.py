"""The computers of the simulated world: cores to wait for and memory that runs out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import simpy

from absurd_contimg.simulation.loop import SimLoop


class Host:
    """One computer. What a process holds is given back when the process dies."""

    def __init__(self, env: simpy.Environment, name: str, cores: int, memory_bytes: int) -> None:
        self.name = name
        self.free_memory_bytes = memory_bytes
        self._cores = simpy.Resource(env, cores)

    async def take_core(self) -> Callable[[], None]:
        """Wait for a core; the answer gives it back."""
        process = cast(SimLoop, asyncio.get_running_loop())
        request = self._cores.request()
        given = process.create_future()

        def give(_event: object) -> None:
            if not given.done():
                given.set_result(None)

        request.callbacks.append(give)
        give_back = self._giver(process, request)
        try:
            await given
        except BaseException:
            give_back()
            raise
        return give_back

    def _giver(self, process: SimLoop, request: Any) -> Callable[[], None]:
        def release() -> None:
            if request.triggered:
                self._cores.release(request)
            else:
                request.cancel()

        process.at_death(request, release)

        def give_back() -> None:
            if not process.dead:
                process.at_death(request, None)
                release()

        return give_back

    def take_memory(self, size: int) -> Callable[[], None] | None:
        """Take memory; the answer gives it back. None when there is not enough."""
        if size > self.free_memory_bytes:
            return None
        process = cast(SimLoop, asyncio.get_running_loop())
        self.free_memory_bytes -= size
        key = object()

        def release() -> None:
            self.free_memory_bytes += size

        def give_back() -> None:
            if not process.dead:
                process.at_death(key, None)
                release()

        process.at_death(key, release)
        return give_back
