"""Publications whose task has ended without a word: cancelled, or failed before it could say so.

A task that is cancelled cannot note anything. So the daemon looks at the publications that have
not ended, and at those on which no task works any more the disk decides.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.records import LIVE_STATES, Json, Task
from absurd_contimg.errors import AwayError, InputError
from absurd_contimg.products.publication import StagedCopy
from absurd_contimg.registry.publications import Publication
from absurd_contimg.workflows import mosaic, publication
from absurd_contimg.workflows.publication import Publisher, published_event

_log = logging.getLogger(__name__)

_TASKS_MAX = 10_000
"""With more tasks than this nobody can say that none works on a publication."""
_NO_TASK = "its task has ended (cancelled, or failed before the copy was made)"


async def reconcile_publications(
    publisher: Publisher, backend: Backend, queue_names: Sequence[str]
) -> None:
    """End the publications on which no task of these queues works.

    A whole copy in its place is published, and who waits for it is told; else the publication has
    failed, until an operator has it tried again. What cannot be decided now, because a disk is
    away or a process still copies, is left to the next call.
    """
    rows = await publisher.in_thread(publisher.registry.unfinished)
    if not rows:
        return
    tasks: list[Task] = []  # read after the rows: a task that ends in between has noted its end
    for queue in queue_names:
        for name in (mosaic.TASK_NAME, publication.TASK_NAME):
            tasks += await backend.list_tasks(
                queue, states=LIVE_STATES, task_name=name, limit=_TASKS_MAX
            )
    if len(tasks) >= _TASKS_MAX:
        return
    work = LiveWork.of_tasks(tasks)
    for row in rows:
        if row.product_key in work.product_keys:
            continue
        copy = await publisher.in_thread(_look, publisher, row, work)
        if copy is None:
            continue
        if copy.manifest.stage == mosaic.TASK_NAME:  # before the row: a death repeats it
            payload = {"product_key": row.product_key, "destination": str(copy.destination)}
            for queue in queue_names:
                await backend.emit_event(queue, published_event(copy.manifest.group_id), payload)
        await publisher.in_thread(publisher.registry.finish, row.product_key, publisher.now())
        _log.info("product %s is published: its task had made the copy", row.product_key)


@dataclass(frozen=True, slots=True)
class LiveWork:
    """What tasks that have not ended publish."""

    product_keys: frozenset[Json]
    window_ids: frozenset[Json]

    @classmethod
    def of_tasks(cls, tasks: Sequence[Task]) -> LiveWork:
        """From their parameters."""
        params = [task.params for task in tasks if isinstance(task.params, dict)]
        return cls(
            frozenset(str(each["product_key"]) for each in params if "product_key" in each),
            frozenset(str(each["window_id"]) for each in params if "window_id" in each),
        )


def _look(publisher: Publisher, row: Publication, work: LiveWork) -> StagedCopy | None:
    """The copy if it is whole; if there is none and no task makes it, the row has failed."""
    try:
        copy = StagedCopy(row.source, publisher.config.paths.published, publisher.files)
        if copy.manifest.group_id in work.window_ids:
            return None
        publisher.require_folder()
        with closing(copy):
            if copy.look():
                return copy
    except AwayError:  # another look tells
        return None
    except (InputError, OSError) as error:
        if work.window_ids:
            return None
        reason = f"{_NO_TASK}; {error}"
    else:
        reason = f"{_NO_TASK}."
    publisher.registry.fail(row.product_key, reason)
    _log.warning(
        "product %s is not published: %s To have it tried again: contimg publish retry %s",
        row.product_key, reason, row.product_key,
    )  # fmt: skip
    return None
