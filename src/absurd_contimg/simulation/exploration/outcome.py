"""What a run leaves, without what may differ between runs that are equally good.

Kept: every task with its parameters, its state, its result and its checkpoints, every event, every
product, what ingestion and batches have recorded, every external effect. Left out: times, how long
a stage took, which worker ran it or met its failure, how often it was started; a window that
another one has rightly replaced, and its mosaic.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any

from absurd_contimg.core.records import Checkpoint, History, Json, Run
from absurd_contimg.core.step_journal import JOURNAL_PREFIXES
from absurd_contimg.core.step_order_check import STEPS_CHANGED
from absurd_contimg.history.invariants.check import Violation
from absurd_contimg.history.invariants.world import WorldObservation
from absurd_contimg.registry.windows import WindowState
from absurd_contimg.simulation.exploration.differences import (
    short,
    task_differences,
    value_differences,
)
from absurd_contimg.simulation.model.simulated_ingestion import (
    SimulatedIngestion,
    describe_ingestion,
)
from absurd_contimg.simulation.model.world import State
from absurd_contimg.workflows import mosaic

VOLATILE = frozenset({"adopted", "seconds", "logs"})
"""Fields of a stage's checkpoint that say how it was made, not what."""

_UUID = re.compile(r"[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12}")
_SAVED = 4
"""The place of the checkpoints in the essence of a task."""
_PROVENANCE = ("attempt", "host", "created_at")
"""Fields of a manifest that say who made the product, and when."""
_RUN_FIELDS = frozenset({"worker", "workerId", "attempt", "host", "start", "logs"})
"""Fields of a failure reason, ours or Absurd's: who met the failure, where, at which start."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The essence of what a run leaves, and its violations."""

    tasks: tuple[Json, ...]
    products: tuple[Json, ...]
    records: tuple[Json, ...]
    """What the registry holds of files, groups, windows and batches."""
    ledger: tuple[str, ...]
    violations: tuple[Violation, ...]
    run_ends: tuple[tuple[str, ...], ...] = ()
    """How each run of each task ended. Equally good outcomes differ in it."""
    unprotected: tuple[str, ...] = ()
    """The effects that happened outside of a step, and must not be repeated."""
    events: tuple[Json, ...] = ()
    """Name, queue and payload of each."""
    seconds: float = field(default=0.0, compare=False)
    """When the world ended."""

    @property
    def checkpoints(self) -> int:
        """Of all tasks, those that say how a step was begun left out."""
        return sum(len(task[_SAVED]) for task in self.tasks if isinstance(task, list))

    def differences(self, baseline: Outcome) -> list[str]:
        """How it differs from the baseline, one line each."""
        lines: list[str] = []
        if self.tasks != baseline.tasks:  # hardly ever, and text costs time
            lines += sorted(task_differences(self.tasks, baseline.tasks))
        for name in ("product", "record", "event"):
            values, others = getattr(self, f"{name}s"), getattr(baseline, f"{name}s")
            if values != others:
                lines += sorted(value_differences(name, values, others))
        effects, baseline_effects = set(self.ledger), set(baseline.ledger)
        lines += _lines("external effect is missing: ", baseline_effects - effects)
        lines += _lines("external effect is new: ", effects - baseline_effects)
        repeated = (Counter(self.unprotected) - Counter(baseline.unprotected)).keys() & effects
        lines += _lines("external effect outside of a step is repeated: ", repeated)
        return lines


def _lines(prefix: str, texts: Iterable[str]) -> list[str]:
    return [prefix + short(text) for text in sorted(texts)]


def effect_name(text: str) -> str:
    """The name of an external effect, which may have spaces; its value, as JSON, stands behind."""
    for place in (number for number, letter in enumerate(text) if letter == " "):
        with suppress(ValueError):
            json.loads(text[place + 1 :])
            return text[:place]
    return text


def outcome_of(
    observed: WorldObservation,
    state: State,
    violations: tuple[Violation, ...],
    may_repeat: Collection[str] = (),
    looks: tuple[str, ...] = (),
) -> Outcome:
    """The essence of what a world has left; effects named in `may_repeat` may be repeated.

    Left out are the checkpoints whose name begins with one of `looks`.
    """
    registry = state.registry
    replaced = _replaced_windows(registry.ingestion, observed.histories)
    products: tuple[Json, ...] = tuple(
        (path, _without_provenance(state.disk.manifest(path)), sorted(state.disk.below(path)))
        for path in sorted(state.disk.product_paths())
        if not any(f"/{window_id}-" in path for window_id in replaced)
    )
    histories = [each for each in observed.histories if _window_of(each) not in replaced]
    values = _SavedValues(histories)
    ledger = tuple(f"{each.name} {json.dumps(values.steady(each.value))}" for each in state.ledger)
    outside = zip(ledger, state.ledger, strict=True)
    unprotected = tuple(
        text for text, each in outside if not each.in_step and each.name not in may_repeat
    )
    tasks = tuple(_essence(history, values, looks) for history in histories)
    run_ends = tuple(tuple(map(_end, history.runs)) for history in histories)
    records = (*describe_ingestion(registry.ingestion, replaced), *registry.batches.describe())
    events = _events(state, values)
    return Outcome(tasks, products, records, ledger, violations, run_ends, unprotected, events)


def _replaced_windows(
    ingestion: SimulatedIngestion, histories: Iterable[History]
) -> frozenset[str]:
    """The windows that a closed one has replaced, and whose mosaic was rightly begun or not.

    Such a window exists only where its groups were processed before a late group came, which
    depends on how long faults kept the workers and on how many there were. Its mosaic stays if it
    was begun before the late group was there, and is cancelled otherwise (`docs/streaming.md`).
    """
    windows = {window.window_id: window for window in ingestion.windows()}
    replaced: dict[str, float] = {}
    """By window: when the last group was closed that only its successor has."""
    for window in windows.values():
        successor = windows.get(window.superseded_by or "")
        if window.state is WindowState.SUPERSEDED and successor is not None:
            late = {m.group_id for m in successor.members} - {m.group_id for m in window.members}
            if successor.state is WindowState.CLOSED:
                groups = [group for name in late for group in ingestion.groups(group_id=name)]
                replaced[window.window_id] = max((g.closed_at or 0.0 for g in groups), default=0.0)
    for history in histories:
        window_id = _window_of(history)
        if window_id in replaced and not _is_right_until(history, replaced[window_id]):
            del replaced[window_id]
    return frozenset(replaced)


def _is_right_until(history: History, time: float) -> bool:
    """Whether a task was first started before a time, or was cancelled and never started."""
    starts = [run.started_at.timestamp() for run in history.runs if run.started_at is not None]
    return min(starts) < time if starts else history.task.state == "cancelled"


def _window_of(history: History) -> str | None:
    """The window of a mosaic task."""
    params = history.task.params
    if history.task.task_name != mosaic.TASK_NAME or not isinstance(params, Mapping):
        return None
    return str(params.get("window_id"))


def _end(run: Run) -> str:
    reason = run.failure_reason
    return f"{run.state} {reason.get('name', '')}" if isinstance(reason, Mapping) else run.state


def _without_provenance(manifest: Mapping[str, Any] | None) -> Mapping[str, Any]:
    return {name: value for name, value in (manifest or {}).items() if name not in _PROVENANCE}


def _essence(history: History, values: _SavedValues, looks: tuple[str, ...]) -> Json:
    task = history.task
    saved = {
        values.steady(checkpoint.checkpoint_name): values.steady(checkpoint.state)
        for checkpoint in _own_checkpoints(history)
        if not checkpoint.checkpoint_name.startswith(looks)
    }
    return [
        task.task_name,
        values.steady(task.idempotency_key),
        task.state,
        values.steady(task.completed_payload),
        saved,
        values.steady(task.params),
    ]


def _events(state: State, values: _SavedValues) -> tuple[Json, ...]:
    """All that were emitted, in no order of time; a row without a payload is only awaited."""
    events = (
        (values.steady(row.event_name), {"queue": queue, "payload": json.loads(row.payload)})
        for queue, table in state.database.relations.of_queues["e"].items()
        for row in table.rows.values()
        if row.payload is not None
    )
    steady = [(name, values.steady(event)) for name, event in events]
    return tuple(sorted(steady, key=json.dumps))


def _own_checkpoints(history: History) -> list[Checkpoint]:
    return [
        checkpoint
        for checkpoint in history.checkpoints
        if not checkpoint.checkpoint_name.startswith(JOURNAL_PREFIXES)
    ]


class _SavedValues:
    """The ids, times and fractions that differ between equally good runs, by identity.

    Those are the engine's ids, and what a step has made and saved: every later attempt gets that
    from its checkpoint. What a handler has made anywhere else is left as it is, so that two runs
    differ in it.
    """

    def __init__(self, histories: Iterable[History]) -> None:
        self._names: dict[object, str] = {}
        """What stands for a value; of an id its hex digits count."""
        self._reasons: list[Json] = []
        """Why runs failed: by its value a reason is recognised wherever it was copied to."""
        saved: list[Checkpoint] = []
        for number, history in enumerate(histories, 1):
            self._names[history.task.task_id.hex] = f"(id of task {number})"
            for run in history.runs:
                self._names[run.run_id.hex] = f"(id of run {run.attempt} of task {number})"
                if run.failure_reason is not None:
                    self._reasons.append(run.failure_reason)
            saved += sorted(_own_checkpoints(history), key=attrgetter("checkpoint_name"))
        for checkpoint in saved:
            if checkpoint.checkpoint_name == STEPS_CHANGED:  # no step has made the ids in it
                continue
            for number, value in enumerate(_volatile_values(checkpoint.state), 1):
                text = f"(value {number} of {checkpoint.checkpoint_name})"
                self._names.setdefault(value, text)

    def steady(self, value: Json) -> Any:
        """A JSON value with names for these values, without durations.

        Of a failure reason that a worker has recorded, and that a result or checkpoint may have a
        copy of, what says who met the failure is left out; not of another object with such fields.
        """
        match value:
            case str():
                return self._names.get(value) or _UUID.sub(self._name, value)
            case float():
                return self._names.get(value, value)
            case dict():
                volatile = VOLATILE | _RUN_FIELDS if value in self._reasons else VOLATILE
                return {k: self.steady(item) for k, item in value.items() if k not in volatile}
            case list() | tuple():
                return [self.steady(item) for item in value]
        if value is None or isinstance(value, int) or not isinstance(value, Mapping):
            return value
        return self.steady(dict(value))

    def _name(self, match: re.Match[str]) -> str:
        return self._names.get(match[0].replace("-", ""), match[0])


def _volatile_values(value: Json) -> Iterator[object]:
    """The ids, times and fractions in a JSON value."""
    match value:
        case None | int():
            return
        case str() if _is_time(value):
            yield value
        case str():
            yield from (text.replace("-", "") for text in _UUID.findall(value))
        case float() if not value.is_integer():
            yield value
        case dict() | Mapping():
            for item in value.values():
                yield from _volatile_values(item)
        case list() | tuple():
            for item in value:
                yield from _volatile_values(item)


@lru_cache(maxsize=4096)
def _is_time(text: str) -> bool:
    if len(text) < 20 or text[4] != "-":
        return False
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
