"""What happened to a task, step by step, read from its history alone.

The progress display, ``contimg history``, the report and the demo's own checks all read this;
nothing here asks a worker or a log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from absurd_contimg.core.records import TERMINAL_STATES, History, Run
from absurd_contimg.core.step_journal import START_PREFIX


@dataclass(frozen=True, slots=True)
class StepStart:
    """One start of one step, and how it ended.

    `outcome` is ``done``, ``running``, ``died`` (its worker ended without a word), ``handed
    back``, or what the worker noted: ``retry: ...``, ``parked: ...``, ``escalated: ...``,
    ``failed: ...``.
    `ended_at` is None where nobody can know it: a worker that dies leaves no time of death.
    """

    step: str
    start: int
    attempt: int
    worker: str
    started_at: datetime
    ended_at: datetime | None
    outcome: str
    adopted: bool = False
    """The work was already there, finished by an earlier start that died before it could say so."""
    escalations: tuple[str, ...] = ()
    """What this start did differently, after what earlier ones had met."""

    @property
    def seconds(self) -> float | None:
        """How long it took, where both ends are known."""
        if self.ended_at is None:
            return None
        return (self.ended_at - self.started_at).total_seconds()


def step_starts(history: History) -> list[StepStart]:
    """Every start of every tracked step, in order of time."""
    done = {c.checkpoint_name: c for c in history.checkpoints}
    runs = {str(run.run_id): run for run in history.runs}
    found = []
    for name, checkpoint in done.items():
        if not name.startswith(START_PREFIX):
            continue
        step = name.removeprefix(START_PREFIX)
        saved = cast(Mapping[str, Any], checkpoint.state)
        starts = cast(list[Mapping[str, Any]], saved.get("starts", []))
        for position, one in enumerate(starts):
            is_last = position == len(starts) - 1
            outcome, ended_at, adopted = str(one["outcome"] or ""), None, False
            if is_last and step in done:
                outcome, ended_at = "done", done[step].updated_at
                state = done[step].state
                adopted = isinstance(state, Mapping) and bool(state.get("adopted"))
            else:
                run = runs.get(str(one["run_id"]))
                if one["outcome"] is None:
                    outcome = _unsaid_outcome(run, one, is_last)
                elif run is not None and run.failed_at is not None:
                    ended_at = run.failed_at
                elif is_last:
                    ended_at = checkpoint.updated_at
            found.append(
                StepStart(
                    step=step,
                    start=int(one["start"]),
                    attempt=int(one["attempt"]),
                    worker=str(one["worker"]),
                    started_at=datetime.fromisoformat(str(one["started_at"])),
                    ended_at=ended_at,
                    outcome=outcome,
                    adopted=adopted,
                    escalations=tuple(str(each) for each in one.get("escalations", ())),
                )
            )
    return sorted(found, key=lambda one: (one.started_at, one.start))


def _unsaid_outcome(run: Run | None, start: Mapping[str, Any], is_last: bool) -> str:
    """What became of a start whose worker noted nothing."""
    if run is not None and run.state == "cancelled":
        return "cancelled"
    return "running" if is_last and _is_held(run, start) else "died"


def _is_held(run: Run | None, start: Mapping[str, Any]) -> bool:
    """Whether the worker that made this start still holds the run."""
    return run is not None and run.state == "running" and run.claimed_by == start["worker"]


def is_ended(history: History) -> bool:
    """Whether the task has reached a final state."""
    return history.task.state in TERMINAL_STATES


def group_of(history: History) -> str:
    """The observation group that a pipeline task is about."""
    params = history.task.params
    return str(params.get("group_id", "?")) if isinstance(params, Mapping) else "?"


def last_failure(history: History) -> Mapping[str, Any] | None:
    """The reason of the last failed run."""
    for run in reversed(history.runs):
        if isinstance(run.failure_reason, Mapping):
            return run.failure_reason
    return None


def waiting_for(history: History) -> str | None:
    """What a sleeping task waits for, and until when at most; None if it does not sleep."""
    if history.task.state != "sleeping":
        return None
    for wait in history.waits:
        until = "" if wait.timeout_at is None else f", until {wait.timeout_at:%Y-%m-%d %H:%M} UTC"
        if wait.event_name.startswith("calibration.available:"):
            return f"a calibration of its strip within 12 h{until}"
        return f"event {wait.event_name}{until}"
    due = max(run.available_at for run in history.runs)
    return f"a worker, from {due:%Y-%m-%d %H:%M:%S} UTC on"
