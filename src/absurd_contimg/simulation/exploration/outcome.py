"""What a run leaves, without what may differ between runs that are equally good.

Kept: every task with its state, its result and its checkpoints, every product, every external
effect. Left out: times, how long a stage took, which worker ran it, how often it was started.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from absurd_contimg.core.records import History, Json, Run
from absurd_contimg.core.step_journal import JOURNAL_PREFIXES
from absurd_contimg.history.invariants.check import Violation
from absurd_contimg.history.invariants.world import WorldObservation
from absurd_contimg.simulation.model.world import State

VOLATILE = frozenset({"adopted", "seconds", "logs"})
"""Fields of a stage's checkpoint that say how it was made, not what."""

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PROVENANCE = ("attempt", "host", "created_at")
"""Fields of a manifest that say who made the product, and when."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The essence of what a run leaves, and its violations."""

    tasks: tuple[Json, ...]
    products: tuple[Json, ...]
    ledger: tuple[str, ...]
    violations: tuple[Violation, ...]
    run_ends: tuple[tuple[str, ...], ...] = ()
    """How each run of each task ended. Equally good outcomes differ in it."""

    def differences(self, baseline: Outcome) -> list[str]:
        """How it differs from the baseline, one line each."""
        lines: list[str] = []
        pairs = (self.tasks, baseline.tasks), (self.products, baseline.products)
        for name, (values, baseline_values) in zip(("tasks", "products"), pairs, strict=True):
            if values != baseline_values:  # hardly ever, and text costs time
                texts, baseline_texts = (
                    Counter(json.dumps(value, sort_keys=True) for value in each)
                    for each in (values, baseline_values)
                )
                lines += _lines(f"{name}: missing ", (baseline_texts - texts).elements())
                lines += _lines(f"{name}: instead ", (texts - baseline_texts).elements())
        effects, baseline_effects = set(self.ledger), set(baseline.ledger)
        lines += _lines("external effect is missing: ", baseline_effects - effects)
        lines += _lines("external effect is new: ", effects - baseline_effects)
        return lines


def _lines(prefix: str, texts: Iterable[str]) -> list[str]:
    return [prefix + text[:300] for text in sorted(texts)]


def outcome_of(
    observed: WorldObservation, state: State, violations: tuple[Violation, ...]
) -> Outcome:
    """The essence of what a world has left."""
    products: tuple[Json, ...] = tuple(
        (path, _without_provenance(state.disk.manifest(path)), sorted(state.disk.below(path)))
        for path in sorted(state.disk.product_paths())
    )
    ledger = tuple(f"{name} {json.dumps(steady(value))}" for name, value in state.ledger)
    tasks = tuple(map(_essence, observed.histories))
    run_ends = tuple(tuple(map(_end, history.runs)) for history in observed.histories)
    return Outcome(tasks, products, ledger, violations, run_ends)


def _end(run: Run) -> str:
    reason = run.failure_reason
    return f"{run.state} {reason.get('name', '')}" if isinstance(reason, Mapping) else run.state


def _without_provenance(manifest: Mapping[str, Any] | None) -> Mapping[str, Any]:
    return {name: value for name, value in (manifest or {}).items() if name not in _PROVENANCE}


def _essence(history: History) -> Json:
    task = history.task
    saved = {
        steady(checkpoint.checkpoint_name): steady(checkpoint.state)
        for checkpoint in history.checkpoints
        if not checkpoint.checkpoint_name.startswith(JOURNAL_PREFIXES)
    }
    result = steady(task.completed_payload)
    return [task.task_name, task.idempotency_key, task.state, result, saved]


def steady(value: Json) -> Any:
    """A JSON value without what is volatile: times, durations, ids."""
    match value:
        case str():
            return _steady_text(value)
        case dict():
            return {key: steady(item) for key, item in value.items() if key not in VOLATILE}
        case list() | tuple():
            return [steady(item) for item in value]
        case Mapping():
            return steady(dict(value))
    return value


@lru_cache(maxsize=4096)
def _steady_text(text: str) -> str:
    return "(a time)" if _is_time(text) else _UUID.sub("(an id)", text)


def _is_time(text: str) -> bool:
    if len(text) < 20 or text[4] != "-":
        return False
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
