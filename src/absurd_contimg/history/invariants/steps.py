"""Invariants of steps: their starts in the journal, and their checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from absurd_contimg.core.records import History
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.history.timeline import journal


def poison_is_not_started_again(history: History, policy: RetryPolicy) -> Iterator[str]:
    """A step that ended `poison_limit` workers without a word is started no more."""
    for record in journal(history):
        silent = sum(start.outcome is None for start in record.starts[:-1])
        if silent >= policy.poison_limit:
            yield f"step {record.step} was started again after it had ended {silent} workers"


def committed_step_is_not_started_again(history: History, _policy: RetryPolicy) -> Iterator[str]:
    """No start of a step is younger than the step's checkpoint."""
    saved = {save.checkpoint_name: save.updated_at for save in history.checkpoints}
    for record in journal(history):
        for start in record.starts:
            if record.step in saved and start.started_at > saved[record.step]:
                yield f"step {record.step} was started at {start.started_at}, after it was saved"


def every_start_is_numbered_once(history: History, _policy: RetryPolicy) -> Iterator[str]:
    """Starts of a step carry ascending numbers: they name scratch folders and logs."""
    for record in journal(history):
        numbers = [start.number for start in record.starts]
        if any(after <= before for before, after in pairwise(numbers)):
            yield f"starts of {record.step} are numbered {numbers}"


def every_record_has_a_start(history: History, _policy: RetryPolicy) -> Iterator[str]:
    """No step has an empty record of starts."""
    for record in journal(history):
        if not record.starts:
            yield f"step {record.step} has an empty record of starts"


def checkpoints_belong_to_runs_of_the_task(history: History, _policy: RetryPolicy) -> Iterator[str]:
    """Who wrote a checkpoint is a run of this task."""
    runs = {run.run_id for run in history.runs}
    for checkpoint in history.checkpoints:
        if checkpoint.owner_run_id is not None and checkpoint.owner_run_id not in runs:
            yield f"checkpoint {checkpoint.checkpoint_name} was written by a run of another task"


def completed_task_has_saved_its_steps(history: History, _policy: RetryPolicy) -> Iterator[str]:
    """A completed task has saved every step that it recorded as started."""
    if history.task.state != "completed":
        return
    saved = history.checkpoint_states
    for record in journal(history):
        if record.step not in saved:
            yield f"it is completed, but step {record.step} was started and never saved"
