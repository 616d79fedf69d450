"""The rows of Absurd's tables.

They never change, so that undo log, snapshots and forks share them. Times are integers (see
`times`), UUIDs are 128-bit integers, jsonb is canonical text (see `jsonb`).
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

from absurd_contimg.backends.memory.values.times import Interval

R = TypeVar("R", bound=tuple[Any, ...])


made = tuple.__new__
"""``made(RunRow, (...))`` is ``RunRow(...)`` in half the time, where every statement makes one."""


def quickly_replaced(kind: type[R]) -> type[R]:
    """A named tuple whose `_replace` takes half the time: every write of a procedure is one."""
    positions = {column: position for position, column in enumerate(kind._fields)}  # type: ignore[attr-defined]

    def _replace(row: R, /, **columns: object) -> R:
        values = list(row)
        for column, value in columns.items():
            values[positions[column]] = value
        return made(kind, values)

    kind._replace = _replace  # type: ignore[attr-defined]
    return kind


class QueueRow(NamedTuple):
    """``absurd.queues``."""

    queue_name: str
    created_at: int
    storage_mode: str = "unpartitioned"
    default_partition: str = "enabled"
    partition_lookahead: Interval = Interval(days=28)
    partition_lookback: Interval = Interval(days=1)
    cleanup_ttl: Interval = Interval(days=30)
    cleanup_limit: int = 1000
    detach_mode: str = "none"
    detach_min_age: Interval = Interval(days=30)


@quickly_replaced
class TaskRow(NamedTuple):
    """``t_<queue>``."""

    task_id: int
    task_name: str
    params: str
    headers: str | None
    retry_strategy: str | None
    max_attempts: int | None
    cancellation: str | None
    enqueue_at: int
    first_started_at: int | None
    state: str
    attempts: int
    last_attempt_run: int | None
    completed_payload: str | None
    cancelled_at: int | None
    idempotency_key: str | None


@quickly_replaced
class RunRow(NamedTuple):
    """``r_<queue>``."""

    run_id: int
    task_id: int
    attempt: int
    state: str
    claimed_by: str | None
    claim_expires_at: int | None
    available_at: int
    wake_event: str | None
    event_payload: str | None
    started_at: int | None
    completed_at: int | None
    failed_at: int | None
    result: str | None
    failure_reason: str | None
    created_at: int


class CheckpointRow(NamedTuple):
    """``c_<queue>``."""

    task_id: int
    checkpoint_name: str
    state: str | None
    status: str
    owner_run_id: int | None
    updated_at: int


class EventRow(NamedTuple):
    """``e_<queue>``."""

    event_name: str
    payload: str | None
    emitted_at: int


class WaitRow(NamedTuple):
    """``w_<queue>``."""

    task_id: int
    run_id: int
    step_name: str
    event_name: str
    timeout_at: int | None
    created_at: int


class KeyRow(NamedTuple):
    """``i_<queue>``."""

    idempotency_key: str
    task_id: int
