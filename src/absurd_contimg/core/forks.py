"""Forks: a new task that begins at a chosen step of an earlier one, its parent.

Absurd has no fork. The headers of the new task name parent and step; before its handler runs for
the first time, the worker copies the parent's checkpoints from before that step into it, then
writes `FORKED`. Until that is written, a later attempt copies what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast
from uuid import UUID

from absurd_contimg.core.errors import QueueNotFound
from absurd_contimg.core.records import Checkpoint, History, Json, SpawnOptions
from absurd_contimg.core.row_values import require_readable
from absurd_contimg.core.run_session import RunSession
from absurd_contimg.core.step_journal import JOURNAL_PREFIXES, START_PREFIX
from absurd_contimg.core.step_order_check import STEPS_CHANGED
from absurd_contimg.errors import MissingInputError, SettingError
from absurd_contimg.similar_names import did_you_mean

FORK_HEADER = "forked_from"
"""The header of a forked task: queue and id of its parent, and the step at which it begins."""

FORKED = "$forked"
"""The checkpoint that says which steps were taken from the parent; the last that is copied."""

_NOT_COPIED = (*JOURNAL_PREFIXES, STEPS_CHANGED, FORKED)
"""What tells of the parent's own attempts."""


@dataclass(frozen=True, slots=True)
class Fork:
    """Where a task was forked."""

    queue: str
    task_id: UUID
    step: str

    def __str__(self) -> str:
        return f"forked from {self.task_id} at {self.step}"

    def to_json(self) -> dict[str, Json]:
        """The header."""
        return {"queue": self.queue, "task_id": str(self.task_id), "step": self.step}

    @classmethod
    def of(cls, headers: Json) -> Fork | None:
        """The fork in the headers of a task; None if it is none, or no fork that we wrote."""
        saved = headers.get(FORK_HEADER) if isinstance(headers, Mapping) else None
        if not isinstance(saved, Mapping):
            return None
        queue, task_id, step = (saved.get(name) for name in ("queue", "task_id", "step"))
        if not (isinstance(queue, str) and isinstance(task_id, str) and isinstance(step, str)):
            return None
        try:
            return cls(queue, UUID(task_id), step)
        except ValueError:
            return None


def fork_points(history: History) -> list[str]:
    """The steps at which a task can be forked: those that have a result, and the one that has not.

    In the order of their results; steps that have begun and have no result come last.
    """
    names = [saved.checkpoint_name for saved in history.checkpoints]
    done = [name for name in names if not name.startswith(_NOT_COPIED)]
    begun = [name.removeprefix(START_PREFIX) for name in names if name.startswith(START_PREFIX)]
    return [*done, *(step for step in begun if step and step not in done)]


def steps_before(history: History, step: str) -> list[Checkpoint]:
    """The checkpoints that were there before the step had its result, in their order.

    Waits, sleeps, child tasks and timeouts count as steps. All of them for a step without a result.
    Raises `SettingError` if the task has no such step.
    """
    points = fork_points(history)
    if step not in points:
        known = ", ".join(points) or "none"
        raise SettingError(
            f"Task {history.task.task_id} has no step {step!r}; there are: {known}.",
            did_you_mean(step, points, "contimg history shows its steps."),
        )
    before: list[Checkpoint] = []
    for saved in history.checkpoints:
        if saved.checkpoint_name == step:
            break
        if not saved.checkpoint_name.startswith(_NOT_COPIED):
            before.append(saved)
    return before


def fork_options(history: History, step: str, idempotency_key: str | None = None) -> SpawnOptions:
    """The options of a task that begins at a step of this one, with its name and parameters.

    Raises `SettingError` if it has no such step, or its headers cannot be read.
    """
    steps_before(history, step)
    task = history.task
    headers = require_readable(task.headers, f"the headers of task {task.task_id}")
    fork = Fork(history.queue_name, task.task_id, step)
    kept = headers if isinstance(headers, Mapping) else {}
    return SpawnOptions(
        headers={**kept, FORK_HEADER: fork.to_json()}, idempotency_key=idempotency_key
    )


async def load_steps(session: RunSession) -> list[Checkpoint]:
    """The checkpoints of a run; those of a fork are copied from its parent first, once.

    Raises `MissingInputError` if the parent is not in the database any more.
    """
    saved = await session.load()
    fork = Fork.of(session.claimed.headers)
    known = {checkpoint.checkpoint_name for checkpoint in saved}
    if fork is None or FORKED in known:
        return saved
    names = []
    for checkpoint in steps_before(await _parent(session, fork), fork.step):
        name = checkpoint.checkpoint_name
        if name not in known:
            state = require_readable(checkpoint.state, f"checkpoint {name!r} of the parent")
            await session.save(name, cast(Json, state))
        names.append(name)
    await session.save(FORKED, {**fork.to_json(), "steps": names})
    return await session.load()


async def _parent(session: RunSession, fork: Fork) -> History:
    try:
        parent = await session.lease.retry_until_deadline(
            lambda: session.backend.history(fork.queue, fork.task_id)
        )
    except QueueNotFound:
        parent = None
    if parent is None:
        raise MissingInputError(
            f"Task {fork.task_id} on queue {fork.queue}, from which this one was forked, is gone.",
            "Spawn its group again: contimg spawn --group GROUP --respawn",
        )
    return parent
