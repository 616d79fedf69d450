"""The clock, the version, and what several procedures ask and refuse."""

from __future__ import annotations

from typing import NoReturn

from absurd_contimg.backends.memory import catalog
from absurd_contimg.backends.memory.errors import (
    EngineError,
    raise_exception,
    shown,
    task_cancelled,
)
from absurd_contimg.backends.memory.procedures.signatures import SCHEMA_VERSION, procedure
from absurd_contimg.backends.memory.schema import RunRow, TaskRow, Text, Timestamptz
from absurd_contimg.backends.memory.transaction import Transaction
from absurd_contimg.backends.memory.values.text import uuid_out

INTEGER_MAX = 2**31 - 1
QUEUE_NAME_BYTES_MAX = 57


@procedure("5111ee42aa49434c")
def get_schema_version(_: Transaction) -> Text:
    return SCHEMA_VERSION


@procedure("3e590dd5e0aeff8b")
def current_time(tx: Transaction) -> Timestamptz:
    return tx.session.current_time()


@procedure("74a5e631f9ea35a9")
def validate_queue_name(_: Transaction, queue_name: Text | None) -> Text:
    if queue_name is None or queue_name == "":
        raise_exception("Queue name must be provided")
    if len(queue_name.encode()) > QUEUE_NAME_BYTES_MAX:
        raise_exception(f'Queue name "{queue_name}" is too long (max 57 bytes).')
    return queue_name


def require_queue(tx: Transaction, queue_name: str | None) -> None:
    """P0001 unless the queue is registered; null stands for all queues."""
    if queue_name is None:
        return
    validate_queue_name(tx, queue_name)
    if catalog.queues(tx).get(tx, queue_name) is None:
        raise_exception(f'Queue "{queue_name}" does not exist')


def is_partitioned(tx: Transaction, queue_name: str | None) -> bool:
    """Whether the queue is registered as partitioned."""
    row = catalog.queues(tx).get(tx, queue_name)
    return row is not None and row.storage_mode == "partitioned"


def require_text(text: str | None, name: str) -> str:
    """The text; P0001 if it is null or blank."""
    if text is None or not text.strip(" "):
        raise_exception(f"{name} must be provided")
    return text


def shown_id(value: int | None) -> str:
    """A UUID as messages show it."""
    return shown(None if value is None else uuid_out(value))


def refuse_run(run_id: int | None, why: str, queue_name: str | None) -> NoReturn:
    """P0001: the run, why it is refused, its queue."""
    raise_exception(f'Run "{shown_id(run_id)}" {why} in queue "{queue_name}"')


def refuse_ended_run(run: RunRow, queue_name: str | None, task: TaskRow | None = None) -> None:
    """AB001 if the run is cancelled, or the task where one is given; AB002 for a failed run."""
    state = run.state if task is None else task.state
    if state == "cancelled":
        raise task_cancelled()
    if run.state == "failed":
        named = uuid_out(run.run_id)
        raise EngineError("AB002", f'Run "{named}" has already failed in queue "{queue_name}"')


def checked_integer(value: int) -> int:
    """Integer arithmetic's result; 22003 if it does not fit."""
    if not -INTEGER_MAX - 1 <= value <= INTEGER_MAX:
        raise EngineError("22003", "integer out of range")
    return value
