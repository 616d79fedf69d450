"""Leases that a living worker has lost: noted in the history, so that they count for nothing.

A step that has ended its workers several times is not started again, and a start without an outcome
counts as such a death. So a worker that has outlived an outage of the database, or a pause of its
own, says so as soon as it can. By then its run has often failed and another one goes on: the note
is a checkpoint of its own under the task's newest run, and changes nothing of that run's.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from uuid import UUID

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.errors import (
    BackendError,
    BackendUnavailable,
    LeaseLost,
    RunAlreadyFailed,
    TaskCancelled,
)
from absurd_contimg.core.records import TERMINAL_STATES, ClaimedTask, Json
from absurd_contimg.core.refusals import meaning_of
from absurd_contimg.core.step_journal import LOST_PREFIX, STALLED, StepOutcome

_TRIES = 5
"""Between reading the newest run and writing under it, the run may fail and another one be made."""
_KEPT_MAX = 1000
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Note:
    """A lost lease that is not in the history yet."""

    task_id: UUID
    checkpoint_name: str
    state: dict[str, Json]


class LostLeases:
    """The leases that one worker has lost, until they are noted."""

    def __init__(self, worker_id: str) -> None:
        self._worker_id = worker_id
        self._notes: deque[_Note] = deque(maxlen=_KEPT_MAX)

    def __bool__(self) -> bool:
        return bool(self._notes)

    def add(self, claimed: ClaimedTask, ctx: TaskContext, reason: BaseException) -> None:
        """Keep in mind why a run has ended, if it was for its lease."""
        if not isinstance(reason, LeaseLost | RunAlreadyFailed):
            return
        under_way = ctx.journal.start_under_way()
        if under_way is None:
            name = f"{LOST_PREFIX}{claimed.attempt}:{ctx.current_step or ''}"
        else:
            step, start = under_way
            name = start.loss_of(step)
        is_stalled = isinstance(reason, LeaseLost) and reason.stalled
        outcome = StepOutcome("lost", rule=STALLED if is_stalled else None, message=str(reason))
        run = {"run_id": str(claimed.run_id), "worker": self._worker_id}
        self._notes.append(_Note(claimed.task_id, name, {**outcome.to_json(), **run}))

    async def note(self, backend: Backend, queue_name: str) -> None:
        """Write down all of them; raises `BackendUnavailable` without an answer, nothing else.

        A note that is refused for a reason that may pass is kept, and holds up nothing.
        """
        for _ in range(len(self._notes)):
            note, is_kept = self._notes[0], False
            try:
                await _save(note, backend, queue_name)
            except BackendUnavailable:
                raise
            except BackendError as error:
                _log.warning("a lost lease of task %s cannot be noted: %s", note.task_id, error)
                is_kept = meaning_of(error).may_pass
            except Exception:  # noqa: BLE001 - the boundary: a note ends no worker
                _log.exception("a lost lease of task %s cannot be noted", note.task_id)
            if is_kept:
                self._notes.rotate(-1)
            else:
                self._notes.popleft()


async def _save(note: _Note, backend: Backend, queue_name: str) -> None:
    """Write a note, unless its task has ended."""
    for _ in range(_TRIES):
        history = await backend.history(queue_name, note.task_id)
        if history is None or history.task.state in TERMINAL_STATES:
            return
        if not history.runs:
            _log.error("task %s has no run any more: somebody has deleted it", note.task_id)
            return
        try:
            await backend.set_task_checkpoint_state(
                queue_name,
                note.task_id,
                note.checkpoint_name,
                note.state,
                history.runs[-1].run_id,
            )
        except RunAlreadyFailed:
            continue
        except TaskCancelled:
            return
        return
