"""The tasks that groups have had, by queue and registry: nothing that has ended is done again.

The idempotency key of a group holds while its task is in the queue. Retention removes ended tasks
with their keys; from then on the registry tells how the group ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.records import LIVE_STATES, Task
from absurd_contimg.core.task_ids import is_older_than
from absurd_contimg.core.task_queries import TaskFilter
from absurd_contimg.products.manifest import MANIFEST_NAME
from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.registry.models import ObservationGroup
from absurd_contimg.registry.newest_products import newest_products
from absurd_contimg.registry.removed_products import removed_products

_PAGE = 1000
_IMAGE = "image"
"""The stage whose product is what a group is processed for."""
_FINISHED = (GroupStatus.DONE, GroupStatus.DEGRADED)
_ENDED_BADLY = (GroupStatus.FAILED, GroupStatus.QUARANTINED)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a group ended whose task is not in the queue any more."""

    text: str
    is_finished: bool
    """Its task had completed: only a reprocessing does it again."""


@dataclass(slots=True)
class PastTasks:
    """What queue and registry know of the tasks of groups; the registry's rows are read once."""

    backend: Backend
    queue_name: str
    registry: Registry
    task_names: Collection[str]
    """The names that a group's task can have."""
    _rows: Mapping[str, Mapping[str, Any]] = field(init=False)
    _created_at: datetime | None = field(default=None, init=False)
    _groups: set[object] | None = field(default=None, init=False)

    async def read(self) -> None:
        """Read what the registry knows of all groups, and the age of the queue."""
        rows = await asyncio.to_thread(self.registry.rows, ObservationGroup)
        self._rows = {row["group_id"]: row for row in rows}
        self._created_at = await self.backend.queue_created_at(self.queue_name)

    async def of_group(self, group_id: str, *, to_repeat: bool) -> Task | Ended | None:
        """The group's task, see `task_in_queue`, or how it ended if the queue knows none any more.

        None for a group that may have its first task. With `to_repeat` a group that has not
        finished may be given another one: then the queue is asked as it is at this moment.
        """
        noted = await self._noted_task(group_id)
        if noted is not None and noted.state not in ("failed", "cancelled"):
            return noted
        ended = None if noted is not None else await asyncio.to_thread(self._ended, group_id)
        if noted is None and ended is None:
            return None
        is_asked = to_repeat and not (ended is not None and ended.is_finished)
        if is_asked or group_id in await self._groups_with_tasks():
            return await self.task_in_queue(group_id) or ended
        return ended

    async def task_in_queue(self, group_id: str) -> Task | None:
        """The live task of a group, forks too, else one that completed, else the newest."""
        params = {"group_id": group_id}
        tasks = await self.backend.list_tasks(self.queue_name, params=params)
        tasks = [task for task in tasks if task.task_name in self.task_names]
        tasks.sort(key=lambda task: (task.state not in LIVE_STATES, task.state != "completed"))
        return tasks[0] if tasks else None

    async def _noted_task(self, group_id: str) -> Task | None:
        try:
            task_id = UUID(self._rows[group_id]["task_id"])
        except (KeyError, TypeError, ValueError):  # none is noted
            return None
        wanted = TaskFilter(task_ids=[task_id])
        tasks = await self.backend.find_tasks(self.queue_name, wanted, limit=1)
        return tasks[0] if tasks else None

    async def _groups_with_tasks(self) -> set[object]:
        """Read once for all groups: without an index a look for each one takes too long."""
        if self._groups is None:
            self._groups, before = set(), None
            while tasks := await self.backend.find_tasks(
                self.queue_name, TaskFilter(), before=before, limit=_PAGE
            ):
                before = tasks[-1].task_id
                for task in tasks:
                    if task.task_name in self.task_names and isinstance(task.params, Mapping):
                        self._groups.add(str(task.params.get("group_id")))
        return self._groups

    def _ended(self, group_id: str) -> Ended | None:
        """How the registry says that a group ended whose noted task is gone; None: it has not.

        A task that is older than the queue was lost with an earlier one, and had not ended.
        """
        row = self._rows.get(group_id)
        if row is None:
            return None
        status, task_id = GroupStatus(row["status"]), row["task_id"]
        if status in _FINISHED:
            return self._finished(group_id, status)
        if status in _ENDED_BADLY:
            return Ended(f"{status}: {row['reason'] or 'no reason is known'}", is_finished=False)
        created_at = self._created_at
        if task_id is None or (created_at is not None and is_older_than(task_id, created_at)):
            return None
        return Ended(f"its task ended when it was {status}", is_finished=False)

    def _finished(self, group_id: str, status: GroupStatus) -> Ended | None:
        """None if no image of the group was ever entered, or its product was dropped since."""
        database, text = self.registry.database, f"finished ({status})"
        image = newest_products(database, [group_id]).get((group_id, _IMAGE))
        if image is None:
            removed = removed_products(database, group_id)
            images = [product for product in removed if product.stage == _IMAGE]
            return Ended(f"{text}, its image {images[-1]}", is_finished=True) if images else None
        if not (image.folder / MANIFEST_NAME).is_file():
            return Ended(f"{text}, but its image is missing: {image.folder}", is_finished=True)
        return Ended(text, is_finished=True)
