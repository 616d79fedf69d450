"""What happened to a task, step by step: the starts of its steps, and how each of them ended.

Reads histories alone: no worker, no log and no clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from absurd_contimg.core.records import Checkpoint, History, Json, Run, Task
from absurd_contimg.core.step_journal import START_PREFIX, StartRecord, StepOutcome, StepRecord


@dataclass(frozen=True, slots=True)
class StepStart:
    """One start of one step, and how it ended.

    `outcome` is ``done``, ``running``, ``died`` (its worker ended without a word), ``cancelled``
    or the action of `noted`, what the worker wrote into the journal.
    `ended_at` is None where nobody can know it: a worker that dies leaves no time of death.
    """

    step: str
    start: int
    attempt: int
    worker: str
    started_at: datetime
    ended_at: datetime | None
    outcome: str
    noted: StepOutcome | None = None
    adopted: bool = False
    """An earlier start had finished the work and died before it could say so."""
    fallbacks: tuple[str, ...] = ()
    """What this start did differently, after what earlier ones had met."""

    @property
    def seconds(self) -> float | None:
        """How long it took, where both ends are known."""
        if self.ended_at is None:
            return None
        return (self.ended_at - self.started_at).total_seconds()

    @property
    def ending(self) -> str:
        """The outcome with its failure kind and rule: ``retry: transient (busy)``."""
        return self.outcome if self.noted is None else str(self.noted)


_read_last: list[tuple[History, list[StepRecord]]] = []
"""The journal that was read last, with its history: each invariant asks for the same one."""


def journal(history: History) -> list[StepRecord]:
    """The journal's record of every tracked step, in the order of their last writes."""
    for known, records in _read_last:
        if known is history:
            return records
    states = history.checkpoint_states
    names = (name.removeprefix(START_PREFIX) for name in states if name.startswith(START_PREFIX))
    records = [StepRecord.read(step, states) for step in names if step]
    _read_last[:] = [(history, records)]
    return records


def step_starts(history: History) -> list[StepStart]:
    """Every start of every tracked step, in order of time.

    Of those that began at the same moment the one that ended first came first.
    """
    saved = {saved.checkpoint_name: saved for saved in history.checkpoints}
    runs = {str(run.run_id): run for run in history.runs}
    starts = [
        _step_start(record, start, saved, runs.get(start.run_id))
        for record in journal(history)
        for start in record.starts
    ]
    return sorted(starts, key=_order)


def _order(start: StepStart) -> tuple[datetime, datetime, int]:
    return start.started_at, start.ended_at or datetime.max.replace(tzinfo=UTC), start.start


def _step_start(
    record: StepRecord, start: StartRecord, saved: Mapping[str, Checkpoint], run: Run | None
) -> StepStart:
    is_last = start is record.starts[-1]
    result = saved.get(record.step) if is_last else None
    ended_at: datetime | None = None
    if result is not None:
        outcome, ended_at = "done", result.updated_at
    elif start.outcome is not None:
        is_last_of_run = not any(
            other.run_id == start.run_id and other.number > start.number for other in record.starts
        )
        outcome = start.outcome.action
        # The end of a run is that of its last start: those before it were released or waited.
        ended_at = start.ended_at
        if ended_at is None and run is not None and is_last_of_run:
            ended_at = run.failed_at
        if ended_at is None and is_last:
            ended_at = saved[START_PREFIX + record.step].updated_at
    elif run is not None and run.state == "cancelled":
        outcome = "cancelled"
    else:  # its worker noted nothing
        held = run is not None and run.state == "running" and run.claimed_by == start.worker
        outcome = "running" if is_last and held else "died"
    state = None if result is None else result.state
    return StepStart(
        step=record.step,
        start=start.number,
        attempt=start.attempt,
        worker=start.worker,
        started_at=start.started_at,
        ended_at=ended_at,
        outcome=outcome,
        noted=None if result is not None else start.outcome,
        adopted=isinstance(state, Mapping) and bool(state.get("adopted")),
        fallbacks=start.fallbacks,
    )


def step_order(histories: Iterable[History]) -> tuple[str, ...]:
    """All tracked steps in the order in which tasks start them, from the journals alone.

    A step that only some tasks have stands behind the step that came before it there.
    """
    order: list[str] = []
    sequences = [dict.fromkeys(s.step for s in step_starts(history)) for history in histories]
    for steps in sorted(sequences, key=len, reverse=True):
        position = 0
        for step in steps:
            if step not in order:
                order.insert(position, step)
            position = order.index(step) + 1
    return tuple(order)


SECONDARY_TASKS = frozenset({"photometry", "publication"})
"""Tasks about what the task of a group or window has made: that one is meant by its name."""


def kind_of(task_name: str) -> str:
    """The name of a secondary task; empty for all that process a group: one follows another."""
    return task_name if task_name in SECONDARY_TASKS else ""


def task_label(task: Task) -> str:
    """What a person calls a task: its group or window, with what it does there; else its name."""
    group = group_in(task.params)
    return task.task_name if group is None else f"{group} {kind_of(task.task_name)}".rstrip()


def group_of(history: History) -> str:
    """The observation group that a task is about, or the window of a mosaic."""
    return group_in(history.task.params) or "?"


def group_in(params: Json) -> str | None:
    """The observation group or the window in the parameters of a task."""
    if not isinstance(params, Mapping):
        return None
    group = params.get("group_id", params.get("window_id"))
    return None if group is None else str(group)
