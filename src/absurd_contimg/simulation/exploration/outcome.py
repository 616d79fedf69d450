"""What a future leaves, without what may differ between futures that are equally good.

Kept: every task with its state, its result and its checkpoints, every product, every entry in
the ledger. Left out: times, how long a stage took, who ran it, how often it was started.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
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
"""Fields of a stage's checkpoint that tell how it was done, not what was made."""

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The essence of a future, and what is wrong with it by itself."""

    tasks: tuple[Json, ...]
    products: tuple[Json, ...]
    ledger: tuple[str, ...]
    violations: tuple[Violation, ...]
    runs: tuple[tuple[str, ...], ...] = ()
    """How each run of each task ended. Equally good futures differ in it."""

    def compared_with(self, base: Outcome) -> tuple[Violation, ...]:
        """The violations, and how it differs from the baseline run."""
        found = list(self.violations)
        for what in ("tasks", "products"):
            here, there = getattr(self, what), getattr(base, what)
            if here == there:
                continue  # nearly always, and text is dear
            mine, theirs = Counter(map(_text, here)), Counter(map(_text, there))
            for text in sorted((theirs - mine).elements()):
                found.append(Violation("same_end_as_baseline", f"{what}: missing {text[:300]}"))
            for text in sorted((mine - theirs).elements()):
                found.append(Violation("same_end_as_baseline", f"{what}: instead {text[:300]}"))
        for text in sorted(set(base.ledger) - set(self.ledger)):
            found.append(Violation("same_end_as_baseline", f"never happened outside: {text}"))
        for text in sorted(set(self.ledger) - set(base.ledger)):
            found.append(Violation("same_end_as_baseline", f"only now happened outside: {text}"))
        return tuple(found)


def outcome_of(
    observed: WorldObservation, state: State, violations: tuple[Violation, ...]
) -> Outcome:
    """The essence of what a world has left."""
    products: tuple[Json, ...] = tuple(
        (path, _made(product.manifest), sorted(product.files))
        for path, product in sorted(state.disk.products().items())
    )
    ledger = tuple(f"{name} {json.dumps(steady(value))}" for name, value in state.ledger.entries)
    tasks = tuple(map(_essence, observed.histories))
    runs = tuple(tuple(map(_end, history.runs)) for history in observed.histories)
    return Outcome(tasks, products, ledger, violations, runs)


def _end(run: Run) -> str:
    reason = run.failure_reason
    return f"{run.state} {reason.get('name', '')}" if isinstance(reason, Mapping) else run.state


def _made(manifest: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """What a manifest says of the product, without who made it and when."""
    who = ("attempt", "host", "created_at")
    return {name: one for name, one in (manifest or {}).items() if name not in who}


def _text(value: Json) -> str:
    return json.dumps(value, sort_keys=True)


def _essence(history: History) -> Json:
    task = history.task
    saved = {
        steady(one.checkpoint_name): steady(one.state)
        for one in history.checkpoints
        if not one.checkpoint_name.startswith(JOURNAL_PREFIXES)
    }
    result = steady(task.completed_payload)
    return [task.task_name, task.idempotency_key, task.state, result, saved]


def steady(value: Json) -> Any:
    """A JSON value without what is volatile: times, durations, attempts."""
    if isinstance(value, str):
        return _steady_text(value)
    if isinstance(value, dict | Mapping):
        return {key: steady(one) for key, one in value.items() if key not in VOLATILE}
    if isinstance(value, list | tuple):
        return [steady(one) for one in value]
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
