"""What must not be removed: what tasks, windows, batches, publications and calibrations need."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from uuid import UUID

from absurd_contimg.core.backend import Inspection
from absurd_contimg.core.records import LIVE_STATES, History, Task
from absurd_contimg.core.task_queries import TaskFilter
from absurd_contimg.ingest.selection import mjd_of
from absurd_contimg.operations.maintenance.archive import histories_in_pages
from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.registry.batches import Batches
from absurd_contimg.registry.models import CaltableSetRow, IngestState, ObservationGroup
from absurd_contimg.registry.publications import PublicationState
from absurd_contimg.registry.windows import Window, WindowState, list_windows


@dataclass(frozen=True, slots=True)
class Needs:
    """Who needs what, in words that follow "kept:"."""

    groups: Mapping[str, str] = field(default_factory=dict)
    """By group or window."""
    products: Mapping[str, str] = field(default_factory=dict)
    """By product key."""
    folders: Mapping[str, str] = field(default_factory=dict)
    """By path; what is at, in or around it stays."""
    tasks: Mapping[UUID, str] = field(default_factory=dict)
    """By id, those that others name which have not ended."""

    def reason(self, key: str, group_id: str, folder: Path) -> str | None:
        """Why a product has to stay, None if nothing needs it."""
        reason = self.groups.get(group_id) or self.products.get(key)
        if reason is not None:
            return reason
        text = str(folder)
        for path, needed in self.folders.items():
            if path == text or path.startswith(f"{text}{os.sep}"):
                return needed
        return None


async def read_needs(
    inspection: Inspection, queues: Sequence[str], registry: Registry, now: datetime
) -> Needs:
    """What is needed now, by the tasks of these queues and by the registry."""
    live = [
        history
        for queue in queues
        async for page in histories_in_pages(inspection, queue, TaskFilter(LIVE_STATES))
        for history in page
    ]
    return needs_of(live, registry, now)


def needs_of(live: Iterable[History], registry: Registry, now: datetime) -> Needs:
    """What these tasks, which have not ended, and the registry need."""
    live = list(live)
    windows = list_windows(registry.database)
    members = {window.window_id: _members(window) for window in windows}
    groups = _of_windows(windows) | _of_groups(registry)
    for name, batch_id in Batches(registry.database).open_names().items():
        groups |= dict.fromkeys((name, *members.get(name, ())), f"batch {batch_id} goes on")
    known = {row["group_id"] for row in registry.rows(ObservationGroup)} | members.keys()
    folders: dict[str, str] = {}
    for history in live:
        task, text = history.task, _not_ended(history.task)
        for word in _texts([task.params, *history.checkpoint_states.values()]):
            if word in known:
                groups |= dict.fromkeys((word, *members.get(word, ())), text)
            elif os.path.isabs(word):
                folders[word] = text
    products = {
        publication.product_key: f"its publication is {publication.state.value}"
        for publication in registry.publications.all()
        if publication.state is not PublicationState.PUBLISHED
    }
    for row in registry.rows(CaltableSetRow):
        if row["status"] == "active" and row["valid_end_mjd"] >= mjd_of(now):
            text = f"calibration {row['set_name']} is valid"
            products[row["product_key"]] = text
            folders[row["source_ms"]] = text
    return Needs(groups, products, folders, needed_tasks(live))


def needed_tasks(live: Iterable[History]) -> dict[UUID, str]:
    """The tasks that these name: a child is waited for, the parent of a fork is copied from."""
    tasks: dict[UUID, str] = {}
    for history in live:
        task = history.task
        states = history.checkpoint_states.values()
        for word in _texts([task.params, task.headers, *states]):
            with suppress(ValueError):
                tasks[UUID(word)] = _not_ended(task)
    return tasks


def _not_ended(task: Task) -> str:
    return f"task {task.task_id} ({task.task_name}) has not ended"


def _of_windows(windows: Iterable[Window]) -> dict[str, str]:
    """Windows whose mosaic is still to come, and their groups."""
    groups: dict[str, str] = {}
    for window in windows:
        is_closed = window.state is WindowState.CLOSED
        if window.state is WindowState.OPEN or (is_closed and window.task_id is None):
            text = f"window {window.window_id} is {window.state} and has no mosaic task"
            groups |= dict.fromkeys((window.window_id, *_members(window)), text)
    return groups


def _of_groups(registry: Registry) -> dict[str, str]:
    """Groups that wait for files or for a calibration."""
    groups: dict[str, str] = {}
    for row in registry.rows(ObservationGroup):
        if row["status"] == GroupStatus.WAITING_FOR_CALIBRATION.value:
            groups[row["group_id"]] = "its group waits for a calibration"
        elif row["ingest_state"] == IngestState.COLLECTING.value:
            groups[row["group_id"]] = "its group still collects files"
    return groups


def _members(window: Window) -> list[str]:
    return [member.group_id for member in window.members]


def _texts(value: object) -> Iterator[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for member in value.values():
            yield from _texts(member)
    elif isinstance(value, list | tuple):
        for member in value:
            yield from _texts(member)
