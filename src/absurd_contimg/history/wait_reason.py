"""Why a task that has not ended does nothing now: what it waits for, and until when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from absurd_contimg.core.records import INFINITY, LIVE_STATES, History, Run, created_at
from absurd_contimg.core.step_journal import START_PREFIX, StepOutcome, StepRecord
from absurd_contimg.history.failures import FailedRun, failed_runs

Cause = Literal["resource", "event", "retry", "time", "handler", "worker"]
"""``time``: its handler sleeps; ``handler``: a worker without a handler for it has left it to
others; ``worker``: it can go on, and no worker has claimed it, or none again since one released it.
"""


CALIBRATION_EVENT = "calibration.available"
"""Before a colon and the group that waits for it."""


@dataclass(frozen=True, slots=True)
class WaitReason:
    """What a task waits for. Kind to advice are set where a failure made it wait."""

    cause: Cause
    until: datetime | None
    """When it goes on by itself or gives up waiting; None: never, or nobody knows."""
    event: str | None = None
    step: str | None = None
    kind: str | None = None
    rule: str | None = None
    message: str | None = None
    path: str | None = None
    advice: str | None = None

    def __str__(self) -> str:
        if self.cause in ("resource", "retry"):
            place = "" if self.path is None else f" ({self.path})"
            until = "" if self.until is None else f", until {self.until:%Y-%m-%d %H:%M:%S} UTC"
            return f"{self.kind} {self.rule}{place}{until}"
        if self.cause == "event":
            until = "" if self.until is None else f", until {self.until:%Y-%m-%d %H:%M} UTC"
            if str(self.event).startswith(f"{CALIBRATION_EVENT}:"):
                return f"a calibration of its strip{until}"
            return f"event {self.event}{until}"
        if self.cause == "time":
            until = "" if self.until is None else f", until {self.until:%Y-%m-%d %H:%M:%S} UTC"
            return f"a sleep of its own{until}"
        if self.cause == "handler":
            return "a worker that has a handler for it"
        since = "" if self.until is None else f", from {self.until:%Y-%m-%d %H:%M:%S} UTC on"
        return f"a worker{since}"


def find_wait_reason(history: History) -> WaitReason | None:
    """Why the task does nothing now; None if it runs or has ended."""
    run = next((run for run in history.runs if run.state in LIVE_STATES), None)
    if run is None or run.state == "running":
        return None
    for wait in history.waits:
        return WaitReason("event", wait.timeout_at, event=wait.event_name)
    due = None if run.available_at == INFINITY else run.available_at
    if run.started_at is None:
        last = next(reversed(failed_runs(history)), None)
        if last is None or last.action not in ("retry", "fallback"):
            return WaitReason("worker", due)
        return _after_failure("retry", due, last.step, last)  # first the back-off has to end
    step, outcome = _last_noted(history)
    cause: Cause = "worker" if _was_released(run) else "time"
    if outcome is not None and outcome.until in (None, run.available_at):  # not an earlier wait's
        if outcome.action == "waiting":
            return _after_failure("resource", due, step, outcome)
        if outcome.action == "released":
            cause = "worker"
    if cause == "time" and not _sleeps_until(history, run.available_at):
        cause = "handler"
    return WaitReason(cause, due)


def _was_released(run: Run) -> bool:
    """Whether a worker that stopped, or its successor, gave back a run that has not ended.

    It is then due since it was made (`Worker`), which no claim, sleep or event leaves behind.
    """
    is_due_since_made = run.available_at == created_at(run.run_id, INFINITY)
    return run.state == "sleeping" and run.started_at is not None and is_due_since_made


def _sleeps_until(history: History, due: datetime) -> bool:
    """Whether a checkpoint has this time: our handlers and the SDK's save it before they sleep."""
    for state in history.checkpoint_states.values():
        try:
            if isinstance(state, str) and datetime.fromisoformat(state) == due:
                return True
        except ValueError:
            continue
    return False


def _after_failure(
    cause: Cause, due: datetime | None, step: str | None, failure: FailedRun | StepOutcome
) -> WaitReason:
    kind, rule, path = failure.kind, failure.rule, failure.path
    message = failure.text if isinstance(failure, FailedRun) else failure.message
    return WaitReason(cause, due, None, step, kind, rule, message, path, failure.advice)


def _last_noted(history: History) -> tuple[str | None, StepOutcome | None]:
    """The outcome that was written last into the journal, and its step."""
    states = history.checkpoint_states
    name = next((name for name in reversed(states) if name.startswith(START_PREFIX)), None)
    if name is None:
        return None, None
    step = name.removeprefix(START_PREFIX)
    return step or None, StepRecord.read(step, states).last_outcome
