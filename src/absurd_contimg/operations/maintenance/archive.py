"""Histories written to files: those of whole queues, and those of old tasks before they go.

The archive has a file for each day on which tasks ended (UTC). A repeated or interrupted run
archives the same tasks again, which changes nothing: what a file has stays, a newer history of the
same task takes the place of the older one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from absurd_contimg.core.backend import Backend, Inspection
from absurd_contimg.core.records import TERMINAL_STATES, History, State
from absurd_contimg.core.task_queries import TaskFilter
from absurd_contimg.history.history_file import (
    history_writer,
    read_histories_file,
    write_histories,
)
from absurd_contimg.owned_folders import make_private
from absurd_contimg.products.filesystem import LOCAL

_PAGE = 500
_SAFETY = timedelta(seconds=900)
"""What ended up to so long after those that are removed is archived too; `RetentionConfig` has no
shorter time for tasks."""
_REMOVED_AT_ONCE = 1000
_ENDED: tuple[State, ...] = ("completed", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class CleanedQueue:
    """What became of the old tasks and events of a queue."""

    queue: str
    archived: int
    """Of those that were old enough to go; what goes soon may be archived too."""
    removed_tasks: int
    removed_events: int
    kept: int = 0
    """See `CleaningPlan`."""
    kept_for: str = ""


@dataclass(frozen=True, slots=True)
class CleaningPlan:
    """Which old tasks of a queue would go now."""

    ended_before: datetime
    """What ended earlier goes: Absurd's procedure knows nothing but age."""
    count: int
    kept: int = 0
    """Old tasks that stay, as one of them is needed and the others ended after it."""
    kept_for: str = ""
    """Who needs it."""


def terminal_at(history: History) -> datetime | None:
    """When a task ended, as Absurd's ``cleanup_tasks`` counts it; None: it never removes it."""
    task = history.task
    if task.state not in TERMINAL_STATES:
        return None
    if task.state == "cancelled":
        return task.cancelled_at
    last = next((run for run in history.runs if run.run_id == task.last_attempt_run), None)
    if last is None:
        return None
    return last.completed_at if task.state == "completed" else last.failed_at


async def histories_in_pages(
    inspection: Inspection, queue: str, wanted: TaskFilter | None = None
) -> AsyncIterator[list[History]]:
    """All histories of a queue that are meant, the newest tasks first, some hundred at a time."""
    chosen, before = wanted or TaskFilter(), None
    while tasks := await inspection.find_tasks(queue, chosen, before=before, limit=_PAGE):
        ids = [task.task_id for task in tasks]
        yield await inspection.histories(queue, ids)
        before = ids[-1]


async def write_dump(inspection: Inspection, queues: Sequence[str], path: Path) -> int:
    """Write all histories of the queues to a file; the number of tasks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with history_writer(path, read_at=await inspection.current_time()) as add:
        for queue in queues:
            async for page in histories_in_pages(inspection, queue):
                for history in page:
                    add(history)
                count += len(page)
    return count


async def old_histories(
    inspection: Inspection, queue: str, ended_before: datetime
) -> list[History]:
    """The histories of tasks that ended before a time.

    Of those that were made after it none has, unless the database's clock was set back by a day.
    """
    wanted = TaskFilter(_ENDED, enqueued_before=ended_before + timedelta(days=1))
    pages = histories_in_pages(inspection, queue, wanted)
    return [
        history
        async for page in pages
        for history in page
        if (ended := terminal_at(history)) is not None and ended < ended_before
    ]


def archive_histories(folder: Path, histories: Iterable[History]) -> list[Path]:
    """Add histories of ended tasks to the files of their days; those files."""
    by_day: dict[str, list[History]] = {}
    for history in histories:
        ended = terminal_at(history)
        if ended is not None:
            by_day.setdefault(ended.astimezone(UTC).date().isoformat(), []).append(history)
    make_private(folder)
    written = []
    for day, new in sorted(by_day.items()):
        path = folder / f"histories-{day}.jsonl.gz"
        with LOCAL.locked(folder / ".lock"):  # two commands at once
            kept = read_histories_file(path) if path.exists() else []
            merged = {(each.queue_name, each.task.task_id): each for each in (*kept, *new)}
            write_histories(path, merged.values())
        written.append(path)
    return written


async def plan_cleaning(
    inspection: Inspection, queue: str, ended_before: datetime, needed: Mapping[UUID, str]
) -> CleaningPlan:
    """What would go of the tasks that ended before a time; `needed` says by whom some are."""
    return _plan(await old_histories(inspection, queue, ended_before), ended_before, needed)


def _plan(
    histories: Iterable[History], ended_before: datetime, needed: Mapping[UUID, str]
) -> CleaningPlan:
    ends = {each.task.task_id: ended for each in histories if (ended := terminal_at(each))}
    old = {task_id: ended for task_id, ended in ends.items() if ended < ended_before}
    first = min(old.keys() & needed.keys(), key=old.__getitem__, default=None)
    if first is None:
        return CleaningPlan(ended_before, len(old))
    ended_before = old[first] - _SAFETY
    count = sum(ended < ended_before for ended in old.values())
    return CleaningPlan(ended_before, count, len(old) - count, needed[first])


async def clean_queue(
    backend: Backend,
    queue: str,
    folder: Path,
    *,
    tasks_days: float,
    events_days: float,
    needed: Mapping[UUID, str] | None = None,
    note: Callable[[Sequence[History]], None] = lambda _: None,
) -> CleanedQueue:
    """Archive the tasks that ended so many days ago, then remove them and the old events.

    By Absurd's own procedures, which remove by age alone: what ended up to `_SAFETY` later is
    archived too, so that a task is in the archive before it goes. A needed task stays, and what
    ended after it. `note` is called, in a thread, with what may go.
    """
    ended_before = await backend.current_time() - timedelta(days=tasks_days)
    old = await old_histories(backend, queue, ended_before + _SAFETY)
    plan = _plan(old, ended_before, needed or {})
    going = [
        each
        for each in old
        if (ended := terminal_at(each)) is not None and ended < plan.ended_before + _SAFETY
    ]
    if going:
        await asyncio.to_thread(archive_histories, folder, going)
        await asyncio.to_thread(note, going)
    removed = events = 0
    while True:
        age = int((await backend.current_time() - plan.ended_before).total_seconds())
        count = await backend.cleanup_tasks(queue, age, _REMOVED_AT_ONCE)
        removed += count
        if count < _REMOVED_AT_ONCE:
            break
    event_age = int(timedelta(days=events_days).total_seconds())
    while True:
        count = await backend.cleanup_events(queue, event_age, _REMOVED_AT_ONCE)
        events += count
        if count < _REMOVED_AT_ONCE:
            return CleanedQueue(queue, plan.count, removed, events, plan.kept, plan.kept_for)
