"""The operator of the simulated world: frees space, archives, retries what failed, restarts.

Each duty is a coroutine of a process that never dies; a scenario asks for those that it wants.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from typing import Any

from absurd_contimg.backends.memory import MemoryBackend
from absurd_contimg.core.records import TERMINAL_STATES, Task
from absurd_contimg.core.retries import retry_options
from absurd_contimg.simulation.campaign.scenario import Scenario
from absurd_contimg.simulation.model.world import World

LOOK_SECONDS = 600.0
"""How often an operator looks at the disk."""


class Operator:
    """One person who looks after everything; `note` is told of each thing that is done."""

    def __init__(
        self, world: World, queue: str, terminate: Callable[[int], None], note: Callable[[str], Any]
    ) -> None:
        self._world, self._queue = world, queue
        self._backend = MemoryBackend(world.state.database)
        self._terminate, self._note = terminate, note

    def duties(self, scenario: Scenario) -> Sequence[tuple[str, Coroutine[Any, Any, None]]]:
        """What the scenario asks for, by name."""
        wanted = scenario.operator
        found: list[tuple[str, Coroutine[Any, Any, None]]] = []
        if wanted.frees_after_seconds is not None:
            found.append(("frees space", self._free_space(wanted.frees_after_seconds)))
        if wanted.archives_after_seconds is not None:
            found.append(("archives", self._archive(wanted.archives_after_seconds)))
        if wanted.retries_every_seconds is not None:
            found.append(("retries", self._retry(wanted.retries_every_seconds)))
        if wanted.restarts_every_seconds is not None:
            count = scenario.workers.count
            found.append(("restarts", self._restart(wanted.restarts_every_seconds, count)))
        return found

    async def _free_space(self, after_seconds: float) -> None:
        """Free half of the disk some time after less than a tenth of it is left."""
        disk = self._world.state.disk
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if disk.free_bytes < 0.1 * disk.capacity_bytes:
                await asyncio.sleep(after_seconds)
                self._note("frees space")
                await self._archive_done(lambda _task: disk.free_bytes < 0.5 * disk.capacity_bytes)

    async def _archive(self, after_seconds: float) -> None:
        """Move products away whose groups were spawned so long ago and have ended."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self._archive_done(lambda task: self._is_older(task, after_seconds))

    def _is_older(self, task: Task, seconds: float) -> bool:
        return task.enqueue_at < self._world.clock() - timedelta(seconds=seconds)

    async def _archive_done(self, wanted: Callable[[Task], bool]) -> None:
        disk = self._world.state.disk
        tasks = await self._backend.list_tasks(self._queue, limit=10**9)
        done = {_group(one): one for one in tasks if one.state in TERMINAL_STATES}
        for path in disk.product_paths():
            owner = done.get(_group_of(path))
            if owner is not None and wanted(owner):
                disk.archive(path)

    async def _retry(self, every_seconds: float) -> None:
        """Run again what has failed, as ``contimg retry`` does."""
        while True:
            await asyncio.sleep(every_seconds)
            for task in await self._backend.list_tasks(self._queue, states=["failed"], limit=10**9):
                self._note(f"retries {_group(task)}")
                await self._backend.retry_task(self._queue, task.task_id, retry_options(task))

    async def _restart(self, every_seconds: float, count: int) -> None:
        """Restart one worker after the other, by SIGTERM, as for a new version."""
        number = 0
        while True:
            await asyncio.sleep(every_seconds)
            self._note(f"restarts worker-{number % count}")
            self._terminate(number % count)
            number += 1


def _group(task: Task) -> str:
    params = task.params
    return str(params["group_id"]) if isinstance(params, Mapping) else ""


def _group_of(product: str) -> str:
    """Products are named by group and key."""
    return product.rpartition("/")[2].rpartition("-")[0]
