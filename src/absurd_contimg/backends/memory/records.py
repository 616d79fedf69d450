"""Between core's records and the engine's rows: values, ids, times and errors, both ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, cast
from uuid import UUID, SafeUUID

from absurd_contimg.backends.memory import jsonb, schema
from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.procedures import checkpoints, runs, tasks
from absurd_contimg.backends.memory.rows import RunRow, TaskRow
from absurd_contimg.backends.memory.values import times
from absurd_contimg.backends.memory.values.text import uuid_in
from absurd_contimg.core.errors import (
    BackendError,
    InvalidRetryStrategy,
    QueueNotFound,
    RunAlreadyFailed,
    TaskCancelled,
)
from absurd_contimg.core.records import (
    Checkpoint,
    ClaimedTask,
    Json,
    Run,
    SpawnedTask,
    State,
    Task,
)


def translated(error: EngineError) -> BaseException:
    """Core's exception for an engine's error."""
    kind = {
        "AB001": TaskCancelled,
        "AB002": RunAlreadyFailed,
    }.get(error.sqlstate)
    if kind is not None:
        return kind(error.message)
    refused = {"AB003": InvalidRetryStrategy, "42P01": QueueNotFound}.get(
        error.sqlstate, BackendError
    )
    return refused(error.message, error.sqlstate)


def dumped(value: object) -> str:
    """A Python value as jsonb; `BackendError` for what jsonb does not take."""
    try:
        return jsonb.dumps(value)
    except EngineError as error:
        raise translated(error) from None


def loaded(text: str | None) -> Json:
    """A jsonb value as a fresh Python value; SQL NULL as None."""
    if text is None:
        return None
    value: Json = jsonb.loads(text)
    return value


def uuid_int(value: UUID | str) -> int:
    """A UUID's number; text is read as Postgres reads it."""
    if type(value) is UUID:
        return value.int
    try:
        return uuid_in(str(value))
    except EngineError as error:
        raise translated(error) from None


def time_us(value: datetime) -> int:
    """Microseconds; Python's last moment stands for infinity."""
    if value.tzinfo is None:
        raise ValueError(f"{value!r} has no time zone; give an aware datetime")
    return times.INFINITY if value.year == 9999 else times.from_datetime(value)


def time_of(value: int | None) -> datetime | None:
    """Microseconds as an aware datetime."""
    return None if value is None else times.to_datetime(value)


@lru_cache(maxsize=1024)
def uuid(value: int) -> UUID:
    """A UUID of its number; the same ones are asked for again and again.

    Made as unpickling makes one, in a third of the time of ``UUID(int=...)``.
    """
    made = _new(UUID)
    _set_number(made, value)
    _set_safety(made, _UNKNOWN)
    return made


_new = object.__new__
_set_number = UUID.int.__set__  # type: ignore[attr-defined, misc]
_set_safety = UUID.is_safe.__set__  # type: ignore[attr-defined, misc]
_UNKNOWN = SafeUUID.unknown


def uuid_of(value: int | None) -> UUID | None:
    """The same where there may be none."""
    return None if value is None else uuid(value)


def delta_of(span: times.Interval) -> timedelta:
    """As psycopg loads intervals: months of 30 days, years of 365."""
    years, months = divmod(abs(span.months), 12)
    days = (years * 365 + months * 30) * (1 if span.months >= 0 else -1)
    return timedelta(days=days + span.days, microseconds=span.us)


_LOADERS: dict[str, Callable[[Any], object]] = {
    "uuid": uuid,
    "timestamptz": times.to_datetime,
    "jsonb": jsonb.loads,
    "interval": delta_of,
}


def row_dict(columns: Sequence[schema.Column], row: tuple[Any, ...]) -> dict[str, object]:
    """A row by column name, in Python values."""
    return {
        column.name: _LOADERS[column.type_name](value)
        if value is not None and column.type_name in _LOADERS
        else value
        for column, value in zip(columns, row, strict=True)
    }


def spawned_task(row: tasks.Spawned) -> SpawnedTask:
    """The answer of ``spawn_task``."""
    task_id, run_id, attempt, created = row
    assert task_id is not None
    assert run_id is not None
    assert attempt is not None
    return SpawnedTask(uuid(task_id), uuid(run_id), attempt, created)


def claimed_task(row: runs.Claimed) -> ClaimedTask:
    """One row of ``claim_task``."""
    run_id, task_id, attempt, name, params, strategy, attempts_max, headers, event, payload = row
    return ClaimedTask(
        uuid(run_id),
        uuid(task_id),
        attempt,
        name,
        loaded(params),
        None if strategy is None else loaded(strategy),
        attempts_max,
        None if headers is None else loaded(headers),
        event,
        None if payload is None else loaded(payload),
    )


def checkpoint_of(row: checkpoints.Shown | tuple[Any, ...]) -> Checkpoint:
    """A checkpoint of the columns that Absurd shows."""
    name, state, status, owner, updated_at = row
    return Checkpoint(name, loaded(state), status, uuid_of(owner), times.to_datetime(updated_at))


def task_of(row: TaskRow) -> Task:
    """A row of ``t_<queue>``."""
    return Task(
        task_id=uuid(row.task_id),
        task_name=row.task_name,
        params=loaded(row.params),
        headers=loaded(row.headers),
        retry_strategy=loaded(row.retry_strategy),
        max_attempts=row.max_attempts,
        cancellation=loaded(row.cancellation),
        enqueue_at=times.to_datetime(row.enqueue_at),
        first_started_at=time_of(row.first_started_at),
        state=cast(State, row.state),
        attempts=row.attempts,
        last_attempt_run=uuid_of(row.last_attempt_run),
        completed_payload=loaded(row.completed_payload),
        cancelled_at=time_of(row.cancelled_at),
        idempotency_key=row.idempotency_key,
    )


def run_of(row: RunRow) -> Run:
    """A row of ``r_<queue>``."""
    return Run(
        run_id=uuid(row.run_id),
        task_id=uuid(row.task_id),
        attempt=row.attempt,
        state=cast(State, row.state),
        claimed_by=row.claimed_by,
        claim_expires_at=time_of(row.claim_expires_at),
        available_at=times.to_datetime(row.available_at),
        wake_event=row.wake_event,
        event_payload=loaded(row.event_payload),
        started_at=time_of(row.started_at),
        completed_at=time_of(row.completed_at),
        failed_at=time_of(row.failed_at),
        result=loaded(row.result),
        failure_reason=loaded(row.failure_reason),
        created_at=times.to_datetime(row.created_at),
    )
