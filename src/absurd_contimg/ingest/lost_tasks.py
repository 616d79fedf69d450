"""Tasks that the registry names and that went with the queue's database: they are spawned again.

Retention removes tasks too, those that have ended. So only a task counts as lost that is older than
its queue: the queue was made again after it. What a group or window has completed stays done.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.task_ids import is_older_than
from absurd_contimg.ingest.ports import Clock, IngestStore
from absurd_contimg.registry.ingestion_records import is_unfinished

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 60.0
"""Between two looks at when the queue was made."""


@dataclass(slots=True)
class LostTasks:
    """Looks whether the queue is the one that the registry's tasks were spawned on."""

    backend: Backend
    store: IngestStore
    clock: Clock
    queue_name: str
    _created_at: datetime | None = field(default=None, init=False)
    _looked_at: float | None = field(default=None, init=False)

    async def forget(self) -> None:
        """Forget the lost tasks of groups and windows that are not finished.

        The steps that follow spawn them again, under the same key.
        """
        now = self.clock.monotonic()
        if self._looked_at is not None and 0 <= now - self._looked_at < _LOOK_SECONDS:
            return
        created_at = await self.backend.queue_created_at(self.queue_name)
        if created_at is not None and created_at != self._created_at:
            await self._forget_older(created_at)
        self._created_at, self._looked_at = created_at, now

    async def _forget_older(self, created_at: datetime) -> None:
        for group in await asyncio.to_thread(self.store.observations):
            if is_unfinished(group) and await self._is_lost(group.task_id, created_at):
                _log.warning(
                    "group %s: the queue does not know its task %s any more, and is younger: "
                    "it is spawned again",
                    group.group_id, group.task_id,
                )  # fmt: skip
                await asyncio.to_thread(self.store.forget_task, group.group_id, group.files_version)
        for window in await asyncio.to_thread(self.store.windows_without_mosaic):
            if await self._is_lost(window.task_id, created_at):
                _log.warning(
                    "window %s: the queue does not know its task %s any more, and is younger: "
                    "it is spawned again",
                    window.window_id, window.task_id,
                )  # fmt: skip
                await asyncio.to_thread(self.store.forget_window_task, window.window_id)

    async def _is_lost(self, task_id: str | None, created_at: datetime) -> bool:
        if task_id is None or not is_older_than(task_id, created_at):
            return False
        return await self.backend.get_task_result(self.queue_name, UUID(task_id)) is None
