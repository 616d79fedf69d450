"""Invariants over the stream: groups, windows, publications, batches, and the tasks made of them.

They know no registry: a `StreamObservation` describes what one holds.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations, pairwise

from absurd_contimg.core.forks import Fork
from absurd_contimg.core.records import LIVE_STATES, History, Json
from absurd_contimg.core.task_ids import is_older_than

_ONE_OBSERVATION_SECONDS = 60
"""Sub-bands named less than this apart are of one observation: the next one comes after 309 s."""
_ASKED_AGAIN = re.compile(r"#\d+$")
"""In the key of a task that ``contimg mosaic make --again`` has spawned."""
_BATCH_KEY = "batch:"
_PUBLISHING_TASKS = ("mosaic", "publication")
_ENDED_ITEMS = frozenset({"completed", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class ObservedGroup:
    """A group of ingestion."""

    group_id: str
    is_collecting: bool
    times: Sequence[int]
    """The times in the names of its files, Unix seconds."""
    accepted: Sequence[str]
    """The files with which it is processed."""
    task_id: str | None
    is_accepted: bool
    is_unfinished: bool = False
    """No end of its task is known."""


@dataclass(frozen=True, slots=True)
class ObservedWindow:
    """A window of groups."""

    window_id: str
    state: str
    """``open``, ``closed`` or ``superseded``."""
    members: Sequence[str]


@dataclass(frozen=True, slots=True)
class ObservedPublication:
    """A product that is to be, or was, published."""

    product_key: str
    state: str
    destination: str
    times_put_there: int | None
    """How often a copy was renamed to the destination; None where nobody counted."""


@dataclass(frozen=True, slots=True)
class ObservedBatch:
    """A batch, and the state and the task of each item."""

    batch_id: str
    state: str
    items: Sequence[tuple[str, str | None]]


@dataclass(frozen=True, slots=True)
class StreamObservation:
    """What is recorded of a stream, and all tasks."""

    histories: Sequence[History] = ()
    groups: Sequence[ObservedGroup] = ()
    windows: Sequence[ObservedWindow] = ()
    publications: Sequence[ObservedPublication] = ()
    batches: Sequence[ObservedBatch] = ()
    queue_created_at: datetime | None = None
    """When the queue was made; retention removes no older task from it. None: nobody knows."""
    must_have_ended: bool = False
    """Nothing has come for so long that nobody may wait any more."""


def no_observation_in_two_groups(observed: StreamObservation) -> Iterator[str]:
    """A file is accepted by one group, and sub-bands of one observation are in one group."""
    accepted = Counter(file for group in observed.groups for file in group.accepted)
    yield from (f"{file} is in {count} groups" for file, count in accepted.items() if count > 1)
    times = sorted((time, group.group_id) for group in observed.groups for time in group.times)
    for (time, group_id), (next_time, next_id) in pairwise(times):
        if group_id != next_id and next_time - time <= _ONE_OBSERVATION_SECONDS:
            yield f"groups {group_id} and {next_id} have files {next_time - time} s apart"


def no_group_is_processed_twice(observed: StreamObservation) -> Iterator[str]:
    """Of the same files of a group there is one task; a batch may process a group again.

    An operator may too: that task has a version of the files in its key, or is a fork.
    """
    spawned: Counter[tuple[str, str | None, str, str]] = Counter()
    for history in observed.histories:
        task = history.task
        files, key = _param(task.params, "input_files"), task.idempotency_key or ""
        is_ordered = key.startswith(_BATCH_KEY) or Fork.of(task.headers) is not None
        if files is not None and not is_ordered:
            group_id, version = _param(task.params, "group_id"), key.partition("#")[2]
            spawned[task.task_name, group_id, files, version] += 1
    for (name, group_id, *_), count in spawned.items():
        if count > 1:
            yield f"group {group_id} has {count} {name} tasks"


def every_accepted_group_has_its_task(observed: StreamObservation) -> Iterator[str]:
    """The task that is noted with a group is there and is the group's; in the end there is one."""
    processed = {_param(history.task.params, "group_id") for history in observed.histories}
    tasks = {str(history.task.task_id): history.task for history in observed.histories}
    for group in observed.groups:
        if group.task_id is None:
            is_left = group.is_accepted and group.group_id not in processed
            if is_left and observed.must_have_ended:
                yield f"group {group.group_id} is accepted and has no task"
        elif group.task_id not in tasks:
            text = f"task {group.task_id} of group {group.group_id} is not there"
            created_at = observed.queue_created_at
            is_lost = created_at is not None and is_older_than(group.task_id, created_at)
            if observed.must_have_ended:
                yield text
            elif is_lost and group.is_unfinished:  # else retention may have removed it
                yield f"{text}: the queue is younger (contimg daemon spawns it again)"
        elif _param(tasks[group.task_id].params, "group_id") != group.group_id:
            yield f"task {group.task_id} of group {group.group_id} is another group's"


def no_window_twice(observed: StreamObservation) -> Iterator[str]:
    """A window has one mosaic task; none has all members of another one.

    Tasks that were cancelled, or that an operator asked for again, do not count, nor do windows
    that are superseded.
    """
    mosaics = Counter(
        (_param(history.task.params, "window_id"), _param(history.task.params, "tier"))
        for history in observed.histories
        if history.task.task_name == "mosaic"
        and history.task.state != "cancelled"
        and not _ASKED_AGAIN.search(history.task.idempotency_key or "")
    )
    for (window_id, tier), count in mosaics.items():
        if count > 1 and window_id is not None:
            yield f"window {window_id} has {count} {tier} mosaic tasks"
    current = [window for window in observed.windows if window.state != "superseded"]
    for window, other in combinations(current, 2):
        if set(window.members) <= set(other.members) or set(other.members) <= set(window.members):
            yield f"windows {window.window_id} and {other.window_id} have the same members"


def nothing_is_published_twice(observed: StreamObservation) -> Iterator[str]:
    """Each product has a destination of its own, and was put there once."""
    places = Counter(publication.destination for publication in observed.publications)
    yield from (f"{count} products go to {place}" for place, count in places.items() if count > 1)
    for publication in observed.publications:
        count, state = publication.times_put_there, publication.state
        if count is None:
            continue
        if state == "published" and count == 0:
            yield f"{publication.destination} is published, and was never put there"
        if count > 1:
            yield f"{publication.destination} is {state}, and was put there {count} times"


def nobody_waits_for_ever(observed: StreamObservation) -> Iterator[str]:
    """When the stream is over, no group, window or publication waits for anything.

    After a cancellation a publication does: for an operator. That a task waits for an event or
    until a time is an invariant of the world.
    """
    if not observed.must_have_ended:
        return
    for group in observed.groups:
        if group.is_collecting:
            yield f"group {group.group_id} still collects files"
    for window in observed.windows:
        if window.state == "open":
            yield f"window {window.window_id} is still open"
    cancelled = any(
        history.task.state == "cancelled" and history.task.task_name in _PUBLISHING_TASKS
        for history in observed.histories
    )
    for publication in observed.publications:
        if publication.state in ("staging", "publishing") and not cancelled:
            yield f"product {publication.product_key} is still {publication.state}"


def batch_counts_agree_with_tasks(observed: StreamObservation) -> Iterator[str]:
    """An item that has ended has ended as its task; a batch is completed when all items are."""
    states = {str(history.task.task_id): history.task.state for history in observed.histories}
    for batch in observed.batches:
        for position, (state, task_id) in enumerate(batch.items):
            place = f"item {position} of batch {batch.batch_id}"
            task = None if task_id is None else states.get(task_id)
            if state in _ENDED_ITEMS and task is not None and task != state:
                yield f"{place} is {state}, its task {task}"
            if state == "spawned" and observed.must_have_ended and task not in LIVE_STATES:
                yield f"{place} is spawned, its task {task}"
        noted = Counter(task_id for _, task_id in batch.items if task_id is not None)
        yield from (f"task {key} is noted for {n} items" for key, n in noted.items() if n > 1)
        is_over = all(state in _ENDED_ITEMS for state, _ in batch.items)
        if batch.state == "completed" and not is_over:
            yield f"batch {batch.batch_id} is completed, its items are {batch.items}"
        if batch.state == "active" and is_over and observed.must_have_ended:
            yield f"batch {batch.batch_id} is still active, and all its items have ended"


def _param(params: Json, name: str) -> str | None:
    """A parameter as text, None without it; another client may have stored anything there."""
    value = params.get(name) if isinstance(params, Mapping) else None
    return value if value is None or isinstance(value, str) else repr(value)
