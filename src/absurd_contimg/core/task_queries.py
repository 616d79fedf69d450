"""Which tasks are asked for, and what ended lately: questions, and their answers over histories.

The functions say what the reads of `Inspection` promise; a database answers the same in SQL.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from absurd_contimg.core.records import INFINITY, History, Json, State

LEASE_EXPIRED = "$ClaimTimeout"
"""The name of the reason that Absurd gives a run whose worker did not extend its lease."""
KINDS_MAX = 100
"""So many kinds of failures are told apart, the most frequent."""
FAILED_MAX = 1000
"""So many of the tasks that failed lately are named."""
_REASON_MEMBERS = ("name", "kind", "rule")


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks are meant: those for which everything that is set here holds."""

    states: Sequence[State] | None = None
    task_name: str | None = None
    id_suffix: str | None = None
    """The end of the id as text."""
    params: Mapping[str, Json] | None = None
    """Members that the parameters have, as ``@>`` of jsonb."""
    task_ids: Sequence[UUID] | None = None
    failure: str | None = None
    """The kind or the rule of a failed run of the task, or the name of its reason."""
    enqueued_from: datetime | None = None
    enqueued_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class FailureCount:
    """How many runs failed for reasons with the same name, kind and rule."""

    reason: Json
    """The three, as far as the reason has them; a text where it is no object."""
    runs: int


@dataclass(frozen=True, slots=True)
class RecentActivity:
    """What ended on a queue since a moment."""

    completed: int
    """Tasks."""
    failed: int
    """Tasks."""
    latency_seconds_p50: float | None
    """From spawn to completion, of the completed tasks (nearest rank); None without any."""
    latency_seconds_p95: float | None
    failures: Sequence[FailureCount] = field(default=())
    """Failed runs, the most frequent first."""
    failed_tasks: Sequence[UUID] = field(default=())
    """The newest of the failed tasks, the one whose last run failed last first."""


def select_tasks(histories: Iterable[History], wanted: TaskFilter) -> list[History]:
    """The histories that are meant, the newest task (by id) first."""
    ids = None if wanted.task_ids is None else set(wanted.task_ids)

    def is_wanted(history: History) -> bool:
        task = history.task
        return (
            (wanted.states is None or task.state in wanted.states)
            and wanted.task_name in (None, task.task_name)
            and str(task.task_id).endswith(wanted.id_suffix or "")
            and (wanted.params is None or contains(task.params, wanted.params))
            and (ids is None or task.task_id in ids)
            and (wanted.enqueued_from is None or task.enqueue_at >= wanted.enqueued_from)
            and (wanted.enqueued_before is None or task.enqueue_at < wanted.enqueued_before)
            and (wanted.failure is None or _has_failure(history, wanted.failure))
        )

    return sorted(
        filter(is_wanted, histories), key=lambda history: history.task.task_id, reverse=True
    )


def _has_failure(history: History, failure: str) -> bool:
    return any(names_failure(run.failure_reason, failure) for run in history.runs)


def names_failure(reason: Json, failure: str) -> bool:
    """Whether a run's reason has this kind, rule or name."""
    return isinstance(reason, Mapping) and failure in (reason.get(key) for key in _REASON_MEMBERS)


def activity_of(histories: Iterable[History], since: datetime) -> RecentActivity:
    """What ended since a moment, over all tasks of a queue."""
    latencies = []
    completed = 0
    failed: list[tuple[datetime, UUID]] = []
    reasons: Counter[str] = Counter()
    examples: dict[str, Json] = {}
    for history in histories:
        task = history.task
        for run in history.runs:
            is_last = run.run_id == task.last_attempt_run and run.state == task.state
            if is_last and run.completed_at is not None and since <= run.completed_at:
                completed += 1
                if _is_finite(task.enqueue_at) and _is_finite(run.completed_at):
                    latencies.append((run.completed_at - task.enqueue_at).total_seconds())
            if run.state != "failed" or run.failed_at is None or run.failed_at < since:
                continue
            if is_last:
                failed.append((run.failed_at, task.task_id))
            if run.failure_reason is not None:
                reason = _reason_members(run.failure_reason)
                examples[repr(reason)] = reason
                reasons[repr(reason)] += 1
    latencies.sort()
    return RecentActivity(
        completed,
        len(failed),
        _percentile(latencies, 0.5),
        _percentile(latencies, 0.95),
        tuple(
            FailureCount(examples[key], runs)
            for key, runs in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
        )[:KINDS_MAX],
        tuple(task_id for _, task_id in sorted(failed, reverse=True))[:FAILED_MAX],
    )


def _reason_members(reason: Any) -> Json:
    if not isinstance(reason, Mapping):
        return "?"
    return {name: reason[name] for name in _REASON_MEMBERS if reason.get(name) is not None}


def _percentile(ascending: Sequence[float], share: float) -> float | None:
    return ascending[max(math.ceil(share * len(ascending)) - 1, 0)] if ascending else None


def _is_finite(time: datetime) -> bool:
    return datetime.min.replace(tzinfo=UTC) < time < INFINITY


def contains(whole: Any, part: Any) -> bool:
    """``whole @> part`` of jsonb, for an object as the part."""
    if isinstance(whole, Mapping) and isinstance(part, Mapping):
        return all(name in whole and contains(whole[name], part[name]) for name in part)
    if _is_list(whole) and _is_list(part):
        return all(any(contains(item, wanted) for item in whole) for wanted in part)
    return bool(isinstance(whole, bool) == isinstance(part, bool) and whole == part)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
