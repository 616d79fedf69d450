"""pg_cron's functions, as they answer on a server that does not have pg_cron."""

from __future__ import annotations

from typing import NamedTuple

from absurd_contimg.backends.memory.errors import raise_exception
from absurd_contimg.backends.memory.procedures.checks import (
    is_blank,
    require_queue,
    validate_queue_name,
)
from absurd_contimg.backends.memory.procedures.signatures import procedure
from absurd_contimg.backends.memory.schema import Int8, Text
from absurd_contimg.backends.memory.transaction import Transaction

_UNAVAILABLE = "pg_cron is not available (missing cron.job)"


class Job(NamedTuple):
    """A row of ``enable_cron`` and ``disable_cron``."""

    job_name: Text
    job_id: Int8


class DetachJob(NamedTuple):
    """A row of ``schedule_detach_jobs``."""

    job_name: Text
    job_id: Int8
    queue_name: Text
    partition_table: Text
    job_kind: Text


@procedure("6d492dbe1c8a08f8")
def enable_cron(
    tx: Transaction,
    queue_name: Text | None = None,
    partition_schedule: Text | None = "5 * * * *",
    cleanup_schedule: Text | None = "17 * * * *",
    detach_schedule: Text | None = "29 * * * *",
) -> list[Job]:
    require_queue(tx, queue_name)
    if is_blank(partition_schedule):
        raise_exception("Partition schedule must be provided")
    if is_blank(cleanup_schedule):
        raise_exception("Cleanup schedule must be provided")
    if is_blank(detach_schedule):
        raise_exception("Detach schedule must be provided")
    raise_exception(_UNAVAILABLE)


@procedure("efdaed15d94b555f")
def disable_cron(tx: Transaction, queue_name: Text | None = None) -> list[Job]:
    if queue_name is not None:
        validate_queue_name(tx, queue_name)
    raise_exception(_UNAVAILABLE)


@procedure("44b4d0d1d30cafbf")
def schedule_detach_jobs(tx: Transaction, queue_name: Text | None = None) -> list[DetachJob]:
    if queue_name is not None:
        validate_queue_name(tx, queue_name)
    raise_exception(_UNAVAILABLE)
