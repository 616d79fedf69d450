"""Figures over many tasks: how many, how fast, how much was lost, and to which failures."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from absurd_contimg.core.records import History
from absurd_contimg.history.failures import failed_runs
from absurd_contimg.history.summary import ended_at
from absurd_contimg.history.timeline import step_starts


@dataclass(frozen=True, slots=True)
class Metrics:
    """Figures of a set of tasks."""

    tasks_by_state: Mapping[str, int]
    latency_seconds: Sequence[float]
    """From spawn to completion, of each completed task, ascending."""
    step_seconds: Mapping[str, Sequence[float]]
    """Of each step, how long its finished starts took; adopted ones did no work."""
    lost_starts: Mapping[str, int]
    """Starts that have ended without a result, by `loss_cause`."""
    failures_by_kind: Mapping[str, int]
    """Failed runs; by name where the kind is not known."""
    failures_by_rule: Mapping[str, int]


def measure(histories: Iterable[History]) -> Metrics:
    """The figures of these tasks."""
    states: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    rules: Counter[str] = Counter()
    latencies = []
    seconds: dict[str, list[float]] = defaultdict(list)
    lost: Counter[str] = Counter()
    for history in histories:
        task, end = history.task, ended_at(history)
        states[task.state] += 1
        if task.state == "completed" and end is not None:
            latencies.append((end - task.enqueue_at).total_seconds())
        for failure in failed_runs(history):
            kinds[failure.kind or failure.name] += 1
            rules[failure.rule or failure.name] += 1
        for start in step_starts(history):
            if (cause := loss_cause(start.outcome)) is not None:
                lost[cause] += 1
            if start.outcome == "done" and not start.adopted and start.seconds is not None:
                seconds[start.step].append(start.seconds)
    return Metrics(
        dict(states), sorted(latencies), dict(seconds), dict(lost), dict(kinds), dict(rules)
    )


_LOSS_CAUSES = {"poison": "died", "retry": "failed", "fallback": "failed"}
"""Of outcomes; others are their own."""
_NOT_LOST = ("done", "running")


def loss_cause(outcome: str) -> str | None:
    """Why a start with this outcome has no result; None if it has one, or goes on.

    ``died`` (its worker), ``lost`` (the lease, by a worker that lives), ``failed`` (tried again or
    not), ``waiting`` (for a resource), ``released`` (by a worker that is stopped), ``cancelled``.
    """
    return None if outcome in _NOT_LOST else _LOSS_CAUSES.get(outcome, outcome)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of the ascending values that a share of them does not exceed, else NaN."""
    return values[max(math.ceil(share * len(values)) - 1, 0)] if values else math.nan
