"""The computers of the simulated world: what is scarce there, and how one waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import simpy

from absurd_contimg.simulation.runtime.loop import SimLoop


class Queue:
    """What so many processes can have at a time; who waits is served in the order of coming.

    What a process has, or waits for, is given back when the process dies.
    """

    def __init__(self, env: simpy.Environment, capacity: int) -> None:
        self._resource = simpy.Resource(env, capacity)

    async def take(self) -> Callable[[], None]:
        """Wait for one; the answer gives it back."""
        process = cast(SimLoop, asyncio.get_running_loop())
        request = self._resource.request()
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
                self._resource.release(request)
            else:
                request.cancel()

        process.at_death(request, release)

        def give_back() -> None:
            if not process.dead:
                process.at_death(request, None)
                release()

        return give_back


class DiskChannel:
    """The way to a disk: one write after the other, each at the disk's full bandwidth."""

    def __init__(self, env: simpy.Environment, bytes_per_second: float) -> None:
        self._bytes_per_second = bytes_per_second
        self._queue = Queue(env, 1)

    async def carry(self, size_bytes: int) -> None:
        """Wait for one's turn and for so many bytes."""
        give_back = await self._queue.take()
        try:
            await asyncio.sleep(size_bytes / self._bytes_per_second)
        finally:
            give_back()


class Host:
    """One computer: cores to wait for, memory that runs out, and perhaps a slow disk."""

    def __init__(
        self,
        env: simpy.Environment,
        name: str,
        cores: int,
        memory_bytes: int,
        channel: DiskChannel | None = None,
    ) -> None:
        self.name = name
        self.free_memory_bytes = memory_bytes
        self.channel = channel
        self._cores = Queue(env, cores)

    async def take_core(self) -> Callable[[], None]:
        """Wait for a core; the answer gives it back."""
        return await self._cores.take()

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
