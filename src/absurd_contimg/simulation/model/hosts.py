"""The computers of the simulated world: cores and disk bandwidth to wait for, and memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import simpy

from absurd_contimg.simulation.runtime.loop import SimLoop


class Queue:
    """A resource for so many processes at a time, in the order of their requests.

    What a process has or waits for is released when it dies.
    """

    def __init__(self, env: simpy.Environment, capacity: int) -> None:
        self._resource = simpy.Resource(env, capacity)

    async def take(self) -> Callable[[], None]:
        """Wait for one; the returned function releases it."""
        process = cast(SimLoop, asyncio.get_running_loop())
        request, granted = self._resource.request(), asyncio.Event()

        def release() -> None:
            if request.triggered:
                self._resource.release(request)
            else:
                request.cancel()

        request.callbacks.append(lambda _event: granted.set())
        release_now = process.release_at_death(release)
        try:
            await granted.wait()
        except BaseException:
            release_now()
            raise
        return release_now


class DiskChannel(Queue):
    """The bandwidth of a disk: one write after the other, each with all of it."""

    def __init__(self, env: simpy.Environment, bytes_per_second: float) -> None:
        super().__init__(env, 1)
        self._bytes_per_second = bytes_per_second

    async def write(self, size_bytes: int) -> None:
        """Wait for the writes before, and for so many bytes."""
        release = await self.take()
        try:
            await asyncio.sleep(size_bytes / self._bytes_per_second)
        finally:
            release()


@dataclass(slots=True, eq=False)
class Host:
    """One computer; without a channel no stage waits for the disk."""

    name: str
    cores: Queue
    free_memory_bytes: int
    channel: DiskChannel | None = None

    def take_memory(self, size_bytes: int) -> Callable[[], None] | None:
        """Take memory; the returned function releases it. None when there is not enough."""
        if size_bytes > self.free_memory_bytes:
            return None
        self.free_memory_bytes -= size_bytes

        def release() -> None:
            self.free_memory_bytes += size_bytes

        return cast(SimLoop, asyncio.get_running_loop()).release_at_death(release)
