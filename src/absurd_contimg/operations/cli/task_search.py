"""The task that a command is given by its id, by the end of its id, or by its group or window."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import UUID

from absurd_contimg.core.backend import Inspection
from absurd_contimg.core.records import History
from absurd_contimg.errors import MissingInputError
from absurd_contimg.history.history_file import HistoryFile
from absurd_contimg.history.timeline import group_of, kind_of
from absurd_contimg.settings import Settings
from absurd_contimg.similar_names import did_you_mean

if TYPE_CHECKING:
    from absurd_contimg.registry.ingestion_records import IngestGroup

ID_END_MIN = 6
"""Characters of the end of a task's id that name it to a command that changes it."""
_ID_END_SHOWN = 12
"""As contimg status shows."""
_SHOWN_MAX = 5
"""Of the tasks that a name may mean."""
_SIMILAR_AMONG = 1000
"""Of the newest tasks, where a name is misspelt."""


async def find_task(
    backend: Inspection, settings: Settings, name: str, *, to_change: bool = False
) -> History:
    """A task by its id, by the end of its id, or by its group or window.

    Of these the newest one, those that measure or publish what it has made after the others.
    """
    return (await find_tasks(backend, settings, name, to_change=to_change))[0]


async def find_tasks(
    backend: Inspection, settings: Settings, name: str, *, to_change: bool = False
) -> list[History]:
    """A task by its id or the end of it, or the newest task of each kind of a group or window.

    The one that has processed it comes first. One `to_change` is not known by a few characters of
    its id, which a slip of the hand may be.
    """
    queue = settings.queue_name
    name = name.encode(errors="replace").decode()  # no database has half a surrogate pair
    ids = await _ids_of(backend, queue, name, to_change)
    candidates = await backend.histories(queue, ids)
    if len(candidates) == 1 or {group_of(history) for history in candidates} == {name}:
        newest: dict[str, History] = {}
        for history in candidates:
            newest.setdefault(kind_of(history.task.task_name), history)
        return [newest[kind] for kind in sorted(newest)]
    file = f" --from {shlex.quote(str(backend.path))}" if isinstance(backend, HistoryFile) else ""
    hint = f"contimg status{file} lists the tasks."
    if candidates:
        ends = ", ".join(
            str(each.task.task_id)[-_ID_END_SHOWN:] for each in candidates[:_SHOWN_MAX]
        )
        raise MissingInputError(
            f"{name!r} means {len(candidates)} tasks on queue {queue}; their ids end in {ends}.",
            f"Give more of one of them. {hint}",
        )
    if not isinstance(backend, HistoryFile) and (group := _known_group(settings, name)):
        why = f"{group.state}, {group.closed_reason}" if group.closed_reason else group.state
        remedy = f"contimg groups says more. To collect its files again: contimg reopen {name}"
        if group.task_id is not None:
            archive = settings.pipeline.paths.state_dir / "archive" / "histories-DATE.jsonl.gz"
            remedy = (
                f"Its task {group.task_id} is no longer there. If contimg maintenance run has "
                f"removed it: contimg history {name} --from {archive}, with the day of its end"
            )
        raise MissingInputError(f"Group {name} has no task on queue {queue}: {why}.", remedy)
    raise MissingInputError(
        f"There is no task of {name!r} on queue {queue}.",
        did_you_mean(name, await _task_names(backend, queue), hint),
    )


async def _ids_of(backend: Inspection, queue: str, name: str, to_change: bool) -> list[UUID]:
    """The ids of all tasks that a name may mean."""
    with suppress(ValueError):
        return [UUID(name)]
    by_id = await backend.list_tasks(queue, id_suffix=name)
    of_group = await backend.list_tasks(queue, params={"group_id": name})
    of_window = await backend.list_tasks(queue, params={"window_id": name})
    tasks = [*of_group, *of_window]
    if not to_change or len(name) >= ID_END_MIN:
        tasks = [*by_id, *tasks]
    elif by_id and not tasks:
        raise MissingInputError(
            f"{name!r} is too short for the end of a task's id in a command that changes the task.",
            f"Give its group, or at least {ID_END_MIN} characters of the end of its id; "
            f"contimg status shows the last {_ID_END_SHOWN}.",
        )
    return list(dict.fromkeys(task.task_id for task in tasks))


def _known_group(settings: Settings, name: str) -> IngestGroup | None:
    """A group that the registry knows."""
    from absurd_contimg.operations.services import has_registry, open_tables  # noqa: PLC0415 - slow
    from absurd_contimg.registry.ingestion import IngestionTables  # noqa: PLC0415

    if not has_registry(settings):
        return None
    with open_tables(settings) as database:
        return next(iter(IngestionTables(database).groups(group_id=name)), None)


async def _task_names(backend: Inspection, queue: str) -> list[str]:
    """The groups and windows of the newest tasks."""
    return [
        str(value)
        for task in await backend.list_tasks(queue, limit=_SIMILAR_AMONG)
        if isinstance(task.params, Mapping)
        for kind in ("group_id", "window_id")
        if (value := task.params.get(kind)) is not None
    ]
