"""pg_cron's functions, as they answer on a server that does not have pg_cron."""

from __future__ import annotations

from typing import NoReturn

from absurd_contimg.backends.memory.errors import raise_exception
from absurd_contimg.backends.memory.procedures.registry import require_queue, validate_queue_name
from absurd_contimg.backends.memory.transaction import Transaction


def _not_available() -> NoReturn:
    raise_exception("pg_cron is not available (missing cron.job)")


def enable_cron(
    tx: Transaction,
    queue: str | None = None,
    partition_schedule: str | None = "5 * * * *",
    cleanup_schedule: str | None = "17 * * * *",
    detach_schedule: str | None = "29 * * * *",
) -> NoReturn:
    """``absurd.enable_cron``."""
    if queue is not None:
        require_queue(tx, validate_queue_name(queue))
    for name, schedule in (
        ("Partition", partition_schedule),
        ("Cleanup", cleanup_schedule),
        ("Detach", detach_schedule),
    ):
        if schedule is None or not schedule.strip(" "):
            raise_exception(f"{name} schedule must be provided")
    _not_available()


def disable_cron(_: Transaction, queue: str | None = None) -> NoReturn:
    """``absurd.disable_cron``."""
    if queue is not None:
        validate_queue_name(queue)
    _not_available()


def schedule_detach_jobs(_: Transaction, queue: str | None = None) -> NoReturn:
    """``absurd.schedule_detach_jobs``."""
    if queue is not None:
        validate_queue_name(queue)
    _not_available()
