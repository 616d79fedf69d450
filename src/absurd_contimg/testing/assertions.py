"""Assertions on a task's history. Each says in its failure what the history shows instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from absurd_contimg.core.records import History
from absurd_contimg.history.invariants.check import audit
from absurd_contimg.history.timeline import StepStart, step_starts


def assert_completed(history: History) -> None:
    """The task has completed."""
    reasons = [run.failure_reason for run in history.runs if run.failure_reason]
    assert history.task.state == "completed", f"it is {history.task.state}: {reasons}"


def assert_failed(history: History, kind: str | None = None) -> None:
    """The task has failed, with a failure of this kind if one is named."""
    assert history.task.state == "failed", f"it is {history.task.state}"
    reason = history.runs[-1].failure_reason
    found = reason.get("kind") if isinstance(reason, Mapping) else None
    assert kind is None or found == kind, f"it failed as {found}, not as {kind}: {reason}"


def assert_step_ran_once(history: History, step: str) -> None:
    """A tracked step was started once in the whole crash_run of the task, and saved.

    Only ``ctx.tracked_step`` notes its starts; of an ordinary step history tells that it is saved,
    and not how often it ran.
    """
    starts = [one for one in step_starts(history) if one.step == step]
    shown = [f"start {one.start} by {one.worker}: {one.outcome}" for one in starts]
    if not starts:
        known = sorted({one.step for one in step_starts(history)})
        saved = any(one.checkpoint_name == step for one in history.checkpoints)
        why = "is not a tracked one: use ctx.tracked_step" if saved else "was never started"
        raise AssertionError(f"step {step!r} {why}; tracked steps: {', '.join(known) or 'none'}")
    assert len(starts) == 1, f"step {step!r} was started {len(starts)} times: {shown}"
    assert starts[0].outcome == "done", f"step {step!r} is not saved: {shown}"


def assert_resumes_from(history: History, step: str) -> None:
    """The last attempt went on with this tracked step, and repeated none that was saved."""
    starts = step_starts(history)
    workers = [(one.attempt, one.step, one.worker) for one in starts]
    again = [one for position, one in enumerate(starts) if _resumed(starts, position)]
    assert again, f"no step was started again or by another attempt: {workers}"
    assert again[-1].step == step, f"it went on with {again[-1].step!r}, not {step!r}: {workers}"


def assert_no_violations(histories: Iterable[History]) -> None:
    """Every invariant of `absurd_contimg.history.invariants` holds for these histories."""
    found = audit(histories)
    assert not found, "\n".join(map(str, found))


def _resumed(starts: Sequence[StepStart], position: int) -> bool:
    """Whether this start is the first after an interruption: another attempt, or the step again."""
    if position == 0:
        return False
    before, here = starts[position - 1], starts[position]
    return here.attempt != before.attempt or here.step == before.step
