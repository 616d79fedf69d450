"""The operator of the simulated world: frees space, archives, retries failed tasks, restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any

from absurd_contimg.core.records import TERMINAL_STATES, Task
from absurd_contimg.core.retries import retry_options
from absurd_contimg.simulation.campaign.scenario import Scenario
from absurd_contimg.simulation.model.world import World

_CHECK_SECONDS = 600.0
"""How often an operator checks the disk."""


class Operator:
    """One person who looks after everything; calls `note` with each action."""

    def __init__(
        self, world: World, queue: str, stop: Callable[[int], None], note: Callable[[str], Any]
    ) -> None:
        self._world, self._queue = world, queue
        self._backend = world.direct_backend
        self._stop, self._note = stop, note

    def duties(self, scenario: Scenario) -> Sequence[Coroutine[Any, Any, None]]:
        """The duties that the scenario asks for."""
        wanted, workers = scenario.operator, scenario.workers.count
        duties = (
            (self._free_space, wanted.frees_after_seconds),
            (self._archive, wanted.archives_after_seconds),
            (self._retry, wanted.retries_every_seconds),
            (partial(self._restart, workers), wanted.restarts_every_seconds),
        )
        return [duty(seconds) for duty, seconds in duties if seconds is not None]

    async def _free_space(self, after_seconds: float) -> None:
        """Free half of the disk some time after less than a tenth of it is left."""
        disk = self._world.state.disk
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            if disk.free_bytes < 0.1 * disk.capacity_bytes:
                await asyncio.sleep(after_seconds)
                self._note("frees space")
                await self._archive_ended(lambda _task: disk.free_bytes < 0.5 * disk.capacity_bytes)

    async def _archive(self, after_seconds: float) -> None:
        """Archive products of ended groups that were spawned that long ago."""
        age = timedelta(seconds=after_seconds)
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            await self._archive_ended(lambda task: task.enqueue_at < self._world.clock() - age)

    async def _archive_ended(self, wanted: Callable[[Task], bool]) -> None:
        disk = self._world.state.disk
        tasks = await self._backend.list_tasks(self._queue, limit=10**9)
        ended = {_group(task): task for task in tasks if task.state in TERMINAL_STATES}
        for path in disk.product_paths():
            group = path.rpartition("/")[2].rpartition("-")[0]  # products: group and key
            if group in ended and wanted(ended[group]):
                disk.archive(path)

    async def _retry(self, every_seconds: float) -> None:
        """Retry failed tasks, as ``contimg retry`` does."""
        while True:
            await asyncio.sleep(every_seconds)
            for task in await self._backend.list_tasks(self._queue, states=["failed"], limit=10**9):
                self._note(f"retries {_group(task)}")
                await self._backend.retry_task(self._queue, task.task_id, retry_options(task))

    async def _restart(self, workers: int, every_seconds: float) -> None:
        """Restart one worker after the other, by SIGTERM, as for a new version."""
        for number in count():
            await asyncio.sleep(every_seconds)
            self._note(f"restarts worker-{number % workers}")
            self._stop(number % workers)


def _group(task: Task) -> str:
    return str(task.params.get("group_id", "")) if isinstance(task.params, Mapping) else ""
