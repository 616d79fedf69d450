"""What all pages share: read once in a while for all readers, however many there are.

The histories of tasks that have ended are kept in memory: they are read again only when a task was
started again.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from absurd_contimg.core.errors import BackendUnavailable, QueueNotFound
from absurd_contimg.core.records import TERMINAL_STATES, History, Task
from absurd_contimg.history.stage_tasks import STAGE_PREFIX, with_stage_tasks
from absurd_contimg.history.summary import summarize
from absurd_contimg.history.timeline import step_order
from absurd_contimg.operations.dashboard.nights import ListedTask
from absurd_contimg.operations.overview import Site, SiteOverview, read_site

READ_SECONDS = 2.0
"""Readers get what was read at most so long ago."""
ANSWER_SECONDS = 2.0
"""A database that does not tell its time within this is away: nothing else is asked of it."""
_TASKS_MAX = 2000
"""The newest tasks of each queue that the pages by night show."""
_KEPT_MAX = 10_000

_Version = tuple[str, int, UUID | None]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A site, and the newest tasks of its queues."""

    overview: SiteOverview
    tasks: tuple[ListedTask, ...]
    steps: tuple[str, ...]
    """Of all these tasks, in order."""
    is_cut: bool
    """There are more tasks than these."""

    @property
    def now(self) -> datetime:
        """The clock of the site."""
        return self.overview.at


class Snapshots:
    """Reads a site for the pages; one reading at a time."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._lock = asyncio.Lock()
        self._overview: tuple[float, SiteOverview] | None = None
        self._snapshot: tuple[float, Snapshot] | None = None
        self._last: Snapshot | None = None
        self._kept: OrderedDict[UUID, tuple[_Version, History]] = OrderedDict()

    async def overview(self) -> SiteOverview:
        """The site as it was at most `READ_SECONDS` ago."""
        async with self._lock:
            return await self._read_overview()

    async def _read_overview(self) -> SiteOverview:
        if self._overview is None or time.monotonic() - self._overview[0] > READ_SECONDS:
            overview = await read_site(self._site, answer_seconds=ANSWER_SECONDS)
            self._overview = time.monotonic(), overview
        return self._overview[1]

    async def snapshot(self) -> Snapshot:
        """The site and its newest tasks, as they were at most `READ_SECONDS` ago."""
        async with self._lock:
            if self._snapshot is None or time.monotonic() - self._snapshot[0] > READ_SECONDS:
                self._last = await self._read_snapshot()
                self._snapshot = time.monotonic(), self._last
            return self._snapshot[1]

    async def require_answers(self) -> None:
        """Raise `BackendUnavailable` at once if the database did not answer lately."""
        overview = await self.overview()
        if not overview.queues and overview.problems:
            raise BackendUnavailable(overview.problems[0])

    def forget(self) -> None:
        """Read again next time: somebody has acted."""
        self._overview = self._snapshot = None

    async def _read_snapshot(self) -> Snapshot:
        overview = await self._read_overview()
        if not overview.queues:  # away, as its problems say: what was read before is shown
            return replace(self._last or Snapshot(overview, (), (), False), overview=overview)
        histories: list[History] = []
        is_cut = False
        for queue in await self._queues():
            tasks = await self._site.inspection.list_tasks(queue, limit=_TASKS_MAX)
            is_cut |= len(tasks) == _TASKS_MAX
            own = [task for task in tasks if not task.task_name.startswith(STAGE_PREFIX)]
            histories += await self._histories(queue, own)
        histories = await with_stage_tasks(self._site.inspection, histories)
        listed = [ListedTask(history.queue_name, summarize(history)) for history in histories]
        return Snapshot(overview, tuple(listed), step_order(histories), is_cut)

    async def _queues(self) -> list[str]:
        """None while the main queue is not there yet: the overview says so."""
        try:
            return await self._site.queues()
        except QueueNotFound:
            return []

    async def _histories(self, queue: str, tasks: Sequence[Task]) -> list[History]:
        """In the order of the tasks; those that have ended come from memory."""
        unknown = [task.task_id for task in tasks if self._get(task) is None]
        answer = await self._site.inspection.histories(queue, unknown) if unknown else []
        fresh = {history.task.task_id: history for history in answer}
        for history in answer:
            if history.task.state in TERMINAL_STATES:
                self._kept[history.task.task_id] = _version(history.task), history
        while len(self._kept) > _KEPT_MAX:
            self._kept.popitem(last=False)
        known = (fresh.get(task.task_id) or self._get(task) for task in tasks)
        return [history for history in known if history is not None]

    def _get(self, task: Task) -> History | None:
        version, history = self._kept.get(task.task_id, (None, None))
        return history if version == _version(task) else None


def _version(task: Task) -> _Version:
    """Another one if the task was started again or has changed its state."""
    return task.state, task.attempts, task.last_attempt_run
