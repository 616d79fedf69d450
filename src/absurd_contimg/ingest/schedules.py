"""Schedules: what is started at which times, once for each slot, whatever dies in between.

A slot is started under an idempotency key of schedule and slot, and noted afterwards: a daemon
that dies in between starts the same thing again, which is then found and not made.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from absurd_contimg.core.errors import BackendError, ValueRefused
from absurd_contimg.errors import AwayError, UserError
from absurd_contimg.ingest.schedule_times import Slot, cursor_at, due_slot, parse_times
from absurd_contimg.registry.schedules import Schedule

_log = logging.getLogger(__name__)


class ScheduleStore(Protocol):
    """The part of the registry that schedules use; called in a thread."""

    def schedules(self) -> Sequence[Schedule]:
        """All schedules by name."""

    def advance(
        self, schedule: Schedule, last_slot: int | None, last_run: str | None, outcome: str
    ) -> bool:
        """Note the last slot, what it started and its outcome; False if it was changed since."""


class Starter(Protocol):
    """Starts what schedules are for."""

    async def start(self, action: Mapping[str, Any], key: str, slot: Slot) -> str:
        """Start an action once for each key; what was started, for `is_running`.

        Raises `UserError` if there is nothing to do or the action is not valid.
        """

    async def is_running(self, run: str) -> bool:
        """Whether what was started has not ended."""


@dataclass(frozen=True, slots=True)
class ScheduledRun:
    """A slot that was dealt with."""

    schedule: str
    slot: Slot
    run: str | None
    """What was started; None where nothing was."""
    outcome: str


async def run_due_schedules(
    store: ScheduleStore, starter: Starter, now: datetime, longitude_deg: float
) -> list[ScheduledRun]:
    """Start what is due at `now`, at most one slot of each schedule.

    While the last run of a schedule goes on, none of its slots is started; what becomes of those
    is for its catch-up policy. Called at each poll of the daemon. Raises what the registry and
    the database raise; the next call goes on. What the database refuses of one schedule is raised
    after the others have had their turn.
    """
    runs = []
    refusals: list[BackendError] = []
    for schedule in await asyncio.to_thread(store.schedules):
        try:
            run = await _run_schedule(store, starter, schedule, now, longitude_deg)
        except BackendError as error:
            if error.sqlstate is None:  # it does not answer, and would not for the others
                raise
            refusals.append(BackendError(f"schedule {schedule.name}: {error}", error.sqlstate))
            continue
        if run is not None:
            runs.append(run)
    if refusals:
        raise refusals[0]
    return runs


async def _run_schedule(
    store: ScheduleStore, starter: Starter, schedule: Schedule, now: datetime, longitude_deg: float
) -> ScheduledRun | None:
    try:
        times = parse_times(schedule.kind.value, schedule.spec, longitude_deg)
    except UserError as error:
        _log.error("schedule %s cannot be read: %s", schedule.name, error)
        return None
    cursor = cursor_at(times, schedule.last_slot, now)
    if cursor != schedule.last_slot:
        _log.warning("schedule %s: the clock was put back; it goes on from now", schedule.name)
        await asyncio.to_thread(
            store.advance, schedule, cursor, schedule.last_run, "the clock was put back"
        )
        return None
    slot = due_slot(times, cursor, now, schedule.catch_up.value)
    if slot is None:
        return None
    if schedule.last_run is not None and await starter.is_running(schedule.last_run):
        return None
    run: str | None = None
    try:
        run = await starter.start(schedule.action, slot_key(schedule.name, slot), slot)
        outcome = "started"
    except AwayError:
        raise
    except (UserError, ValueRefused) as error:
        outcome = f"nothing started: {error}"
    _log.info("schedule %s, slot %s: %s", schedule.name, slot.name, outcome)
    await asyncio.to_thread(store.advance, schedule, slot.number, run, outcome)
    return ScheduledRun(schedule.name, slot, run, outcome)


def slot_key(schedule: str, slot: Slot) -> str:
    """The idempotency key of a slot."""
    return f"schedule:{schedule}:{slot.name}"
