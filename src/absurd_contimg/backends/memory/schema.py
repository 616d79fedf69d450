"""Absurd's tables: columns, SQL types, defaults, checks and keys.

The one declaration from which rows, catalogue, refusals and the drift report derive. A row is a
named tuple whose annotations are the SQL types: a UUID is a 128-bit integer, a time an integer of
microseconds (see `values.times`), jsonb its canonical text (see `jsonb`). Rows never change, so
undo log, snapshots and forks share them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, Final, NamedTuple, TypeVar, get_args, get_type_hints

from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.values.times import Interval

R = TypeVar("R", bound=tuple[Any, ...])
STATES = ("pending", "running", "sleeping", "completed", "failed", "cancelled")
NOW: Final = object()
"""The default ``absurd.current_time()``."""


class Default(NamedTuple):
    """A column's default: `NOW` or a value."""

    value: Any


Check = tuple[str, ...] | int
"""The words of which a value is one, or the least that a number or an interval's length is."""

Bool = Annotated[bool, "bool"]
Int4 = Annotated[int, "int4"]
Int8 = Annotated[int, "int8"]
Float8 = Annotated[float, "float8"]
Text = Annotated[str, "text"]
Jsonb = Annotated[str, "jsonb"]
Uuid = Annotated[int, "uuid"]
Timestamptz = Annotated[int, "timestamptz"]
Span = Annotated[Interval, "interval"]
State = Annotated[Text, STATES]
NowByDefault = Annotated[Timestamptz, Default(NOW)]


class QueueRow(NamedTuple):
    """``absurd.queues``."""

    queue_name: Text
    created_at: NowByDefault
    storage_mode: Annotated[Text, Default("unpartitioned"), ("unpartitioned", "partitioned")]
    default_partition: Annotated[Text, Default("enabled"), ("enabled", "disabled")]
    partition_lookahead: Annotated[Span, Default(Interval(days=28)), 0]
    partition_lookback: Annotated[Span, Default(Interval(days=1)), 0]
    cleanup_ttl: Annotated[Span, Default(Interval(days=30)), 0]
    cleanup_limit: Annotated[Int4, Default(1000), 1]
    detach_mode: Annotated[Text, Default("none"), ("none", "empty")]
    detach_min_age: Annotated[Span, Default(Interval(days=30)), 0]


class TaskRow(NamedTuple):
    """``t_<queue>``."""

    task_id: Uuid
    task_name: Text
    params: Jsonb
    headers: Jsonb | None
    retry_strategy: Jsonb | None
    max_attempts: Int4 | None
    cancellation: Jsonb | None
    enqueue_at: NowByDefault
    first_started_at: Timestamptz | None
    state: State
    attempts: Annotated[Int4, Default(0)]
    last_attempt_run: Uuid | None
    completed_payload: Jsonb | None
    cancelled_at: Timestamptz | None
    idempotency_key: Text | None


class RunRow(NamedTuple):
    """``r_<queue>``."""

    run_id: Uuid
    task_id: Uuid
    attempt: Int4
    state: State
    claimed_by: Text | None
    claim_expires_at: Timestamptz | None
    available_at: Timestamptz
    wake_event: Text | None
    event_payload: Jsonb | None
    started_at: Timestamptz | None
    completed_at: Timestamptz | None
    failed_at: Timestamptz | None
    result: Jsonb | None
    failure_reason: Jsonb | None
    created_at: NowByDefault


class CheckpointRow(NamedTuple):
    """``c_<queue>``."""

    task_id: Uuid
    checkpoint_name: Text
    state: Jsonb | None
    status: Annotated[Text, Default("committed")]
    owner_run_id: Uuid | None
    updated_at: NowByDefault


class EventRow(NamedTuple):
    """``e_<queue>``."""

    event_name: Text
    payload: Jsonb | None
    emitted_at: NowByDefault


class WaitRow(NamedTuple):
    """``w_<queue>``."""

    task_id: Uuid
    run_id: Uuid
    step_name: Text
    event_name: Text
    timeout_at: Timestamptz | None
    created_at: NowByDefault


class KeyRow(NamedTuple):
    """``i_<queue>``."""

    idempotency_key: Text
    task_id: Uuid


new_row = tuple.__new__
"""Makes a row of its class and of all its values, in half the time of the class."""


def replacement(row: type[R], columns: str) -> Callable[..., R]:
    """What gives a row with new values, by name, for all of these columns.

    Like the constructor of a named tuple it is made from text: a third of the time of `_replace`.
    """
    names, known = columns.split(), list(get_type_hints(row))
    values = [name if name in names else f"row[{place}]" for place, name in enumerate(known)]
    code = f"lambda row, *, {', '.join(names)}: new(made, ({', '.join(values)}))"
    change: Callable[..., R] = eval(code, {"new": new_row, "made": row})
    return change


class Column(NamedTuple):
    """A column as its annotation declares it."""

    name: str
    type_name: str
    nullable: bool
    default: Any = None
    """`NOW`, a value, or None for a column without a default."""
    check: Check | None = None

    def accepts(self, value: Any) -> bool:
        """Whether the check passes; null always does."""
        if value is None or self.check is None:
            return True
        if isinstance(self.check, tuple):
            return value in self.check
        number: int = value.span() if isinstance(value, Interval) else value
        return number >= self.check


def column(name: str, annotation: Any) -> Column:
    """The column that an annotation declares, of a row or of a procedure's answer."""
    nullable = type(None) in get_args(annotation)
    declared = get_args(annotation)[0] if nullable else annotation
    type_name, *rest = declared.__metadata__
    values = [item.value for item in rest if isinstance(item, Default)]
    checks = [item for item in rest if not isinstance(item, Default)]
    return Column(name, type_name, nullable, *(values or [None]), *checks)


@lru_cache
def columns_of(row: type) -> tuple[Column, ...]:
    """The columns of a named tuple: the fields whose annotations are SQL types."""
    hints = get_type_hints(row, include_extras=True).items()
    declared = [(name, annotation) for name, annotation in hints if _is_sql(annotation)]
    return tuple(column(name, annotation) for name, annotation in declared)


def _is_sql(annotation: Any) -> bool:
    return any(hasattr(item, "__metadata__") for item in (annotation, *get_args(annotation)))


class TableSchema:
    """A kind of table: its row and keys."""

    def __init__(self, row: Any, primary_key: str, partition_key: str = "") -> None:
        self.row = row
        self.columns = columns_of(row)
        self.primary_key = tuple(primary_key.split())
        self.partition_key = partition_key
        """The column by which the table of a partitioned queue is partitioned; "" if it is not."""

    def position(self, name: str) -> int:
        """Where the column stands."""
        return [known.name for known in self.columns].index(name)

    def check_row(self, relation: str, row: tuple[Any, ...], table: str = "") -> None:
        """23502 for a null in a column that takes none, 23514 for a value that a check refuses.

        `relation` is the table or partition of the row; a check bears the name of its `table`.
        """
        for known, value in zip(self.columns, row, strict=True):
            if value is None and not known.nullable:
                raise not_null_violation(known.name, relation)
        for known, value in zip(self.columns, row, strict=True):
            if not known.accepts(value):
                constraint = f"{table or relation}_{known.name}_check"
                raise EngineError(
                    "23514",
                    f'new row for relation "{relation}" violates check constraint "{constraint}"',
                    table=relation,
                    constraint=constraint,
                )


def not_null_violation(name: str, relation: str) -> EngineError:
    """23502."""
    return EngineError(
        "23502",
        f'null value in column "{name}" of relation "{relation}" violates not-null constraint',
        table=relation,
        column=name,
    )


TABLES: dict[str, TableSchema] = {
    "t": TableSchema(TaskRow, "task_id", "task_id"),
    "r": TableSchema(RunRow, "run_id", "run_id"),
    "c": TableSchema(CheckpointRow, "task_id checkpoint_name", "task_id"),
    "e": TableSchema(EventRow, "event_name"),
    "w": TableSchema(WaitRow, "run_id step_name", "run_id"),
    "i": TableSchema(KeyRow, "idempotency_key"),
    "queues": TableSchema(QueueRow, "queue_name"),
}
"""By the letter before the queue's name; ``queues`` for the table of queues."""
