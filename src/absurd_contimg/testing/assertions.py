"""Assertions on a task's history; a failure says what the history shows instead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from absurd_contimg.core.records import History
from absurd_contimg.history.invariants.check import audit
from absurd_contimg.history.summary import summarize
from absurd_contimg.history.timeline import StepStart, step_starts


def assert_completed(history: History) -> None:
    """The task has completed."""
    reasons = [failure.message for failure in summarize(history).failures]
    assert history.task.state == "completed", f"it is {history.task.state}: {reasons}"


def assert_failed(history: History, kind: str | None = None) -> None:
    """The task has failed, with a failure of this kind if one is named."""
    assert history.task.state == "failed", f"it is {history.task.state}"
    failure = summarize(history).last_failure
    last = None if failure is None else failure.kind
    assert kind is None or last == kind, f"it failed as {last}, not as {kind}: {failure}"


def assert_step_ran_once(history: History, step: str) -> None:
    """A tracked step was started once in the whole task, and saved.

    Only the starts of ``ctx.tracked_step`` are in the history; of an ordinary step it shows the
    result, and not how often it ran.
    """
    starts = [start for start in step_starts(history) if start.step == step]
    shown = [f"start {start.start} by {start.worker}: {start.ending}" for start in starts]
    if not starts:
        known = sorted({start.step for start in step_starts(history)})
        saved = any(checkpoint.checkpoint_name == step for checkpoint in history.checkpoints)
        why = "is not a tracked one: use ctx.tracked_step" if saved else "was never started"
        raise AssertionError(f"step {step!r} {why}; tracked steps: {', '.join(known) or 'none'}")
    assert len(starts) == 1, f"step {step!r} was started {len(starts)} times: {shown}"
    assert starts[0].outcome == "done", f"step {step!r} is not saved: {shown}"


def assert_resumes_from(history: History, step: str) -> None:
    """The last attempt went on with this tracked step, and repeated no saved one."""
    starts = step_starts(history)
    shown = [(start.attempt, start.step, start.worker) for start in starts]
    resumed = [start for number, start in enumerate(starts) if _is_resumed(starts, number)]
    assert resumed, f"no step was started again or by another attempt: {shown}"
    assert resumed[-1].step == step, f"it went on with {resumed[-1].step!r}, not {step!r}: {shown}"


def assert_no_violations(histories: Iterable[History]) -> None:
    """Every invariant of `absurd_contimg.history.invariants` holds for these histories."""
    violations = audit(histories)
    assert not violations, "\n".join(map(str, violations))


def _is_resumed(starts: Sequence[StepStart], number: int) -> bool:
    """Whether this start is the first after an interruption: a new attempt, or the step again."""
    if number == 0:
        return False
    before, start = starts[number - 1], starts[number]
    return start.attempt != before.attempt or start.step == before.step
