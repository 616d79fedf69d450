"""What happened to a task, step by step, read from its history alone.

The progress display, ``contimg history``, the report and the demo's own checks all read this;
nothing here asks a worker or a log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from absurd_contimg.core.context import START_PREFIX
from absurd_contimg.core.records import TERMINAL_STATES, History, Run


@dataclass(frozen=True, slots=True)
class StepStart:
    """One start of one step, and how it ended.

    `outcome` is ``done``, ``running``, ``died`` (its worker ended without a word), ``handed
    back``, or what the worker noted: ``retry: ...``, ``parked: ...``, ``failed: ...``.
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
            elif one["outcome"] is None:
                run = runs.get(str(one["run_id"]))
                outcome = "running" if is_last and _is_held(run, one) else "died"
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
                )
            )
    return sorted(found, key=lambda one: (one.started_at, one.start))


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


def interruptions(history: History) -> int:
    """How many starts of steps ended with their worker."""
    return sum(one.outcome in ("died", "poison") for one in step_starts(history))
