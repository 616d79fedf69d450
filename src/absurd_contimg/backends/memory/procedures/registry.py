"""What the procedures ask about a queue before they work on it."""

from __future__ import annotations

from typing import Any, NamedTuple

from absurd_contimg.backends.memory import catalog
from absurd_contimg.backends.memory.errors import EngineError, raise_exception
from absurd_contimg.backends.memory.transaction import Transaction

QUEUE_NAME_BYTES_MAX = 57


def validate_queue_name(queue: str | None) -> str:
    """``absurd.validate_queue_name``."""
    if queue is None or queue == "":
        raise_exception("Queue name must be provided")
    if len(queue.encode()) > QUEUE_NAME_BYTES_MAX:
        raise_exception(f'Queue name "{queue}" is too long (max 57 bytes).')
    return queue


def require_queue(tx: Transaction, queue: str) -> None:
    """P0001 unless the queue is registered."""
    if catalog.queues(tx).get(tx, queue) is None:
        raise_exception(f'Queue "{queue}" does not exist')


NOT_NULL: dict[str, tuple[str, ...]] = {
    "queues": (
        "queue_name", "created_at", "storage_mode", "default_partition", "partition_lookahead",
        "partition_lookback", "cleanup_ttl", "cleanup_limit", "detach_mode", "detach_min_age",
    ),
    "t": ("task_id", "task_name", "params", "enqueue_at", "state", "attempts"),
    "r": ("run_id", "task_id", "attempt", "state", "available_at", "created_at"),
    "c": ("task_id", "checkpoint_name", "status", "updated_at"),
    "e": ("event_name", "emitted_at"),
    "w": ("task_id", "run_id", "step_name", "event_name", "created_at"),
    "i": ("idempotency_key", "task_id"),
}  # fmt: skip
"""By kind of table, the columns that may not be null, in the table's order."""


def not_null(kind: str, relation: str, row: NamedTuple | tuple[Any, ...]) -> None:
    """23502 for the first column that is null and may not be; `kind` as in `NOT_NULL`."""
    for column in NOT_NULL[kind]:
        if getattr(row, column) is None:
            raise EngineError(
                "23502",
                f'null value in column "{column}" of relation "{relation}" violates '
                "not-null constraint",
                table=relation,
                column=column,
            )
