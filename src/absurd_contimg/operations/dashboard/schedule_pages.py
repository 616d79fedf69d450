"""The page of the schedules: last and next run of each, and a run now."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass
from datetime import datetime

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from absurd_contimg.core.errors import BackendError
from absurd_contimg.errors import MissingInputError, SettingError, UserError
from absurd_contimg.ingest.schedule_actions import TaskAction, parse_action
from absurd_contimg.ingest.schedule_times import parse_times
from absurd_contimg.operations.dashboard.frame import Frame
from absurd_contimg.operations.dashboard.task_pages import address_of
from absurd_contimg.registry.schedules import Schedule, Schedules


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """A schedule with its times."""

    schedule: Schedule
    last_at: datetime | None
    next_at: datetime | None
    next_seconds: float | None
    links: tuple[tuple[str, str], ...]
    """Queue and id of the tasks that its last slot started."""
    problem: str = ""


def add_schedule_pages(router: APIRouter, frame: Frame) -> None:
    """``/schedules``."""

    @router.get("/schedules")
    async def listing(request: Request) -> HTMLResponse:
        overview = await frame.snapshots.overview()
        database, rows = await frame.database(), []
        if database is not None:
            schedules = await asyncio.to_thread(Schedules(database).schedules)
            rows = [schedule_row(each, overview.at, frame.longitude_deg) for each in schedules]
        return await frame.page(
            request,
            "schedules.html.jinja",
            "schedules",
            "Schedules",
            rows=rows,
            has_registry=database is not None,
        )

    @router.post("/schedules/{name:path}/run")
    async def run(request: Request, name: str) -> Response:
        actions, database = frame.require_actions(request), await frame.database()
        schedules = [] if database is None else Schedules(database).schedules()
        schedule = next((each for each in schedules if each.name == name), None)
        if schedule is None:
            raise MissingInputError(f"There is no schedule {name}.")
        try:
            action = parse_action(schedule.action)
            if not isinstance(action, TaskAction):
                raise SettingError("Only schedules that start a task can be run from here.")
            queue = action.queue or next(iter(await frame.site.queues()), "")
            overview = await frame.snapshots.overview()
            key = manual_key(schedule, overview.at, frame.longitude_deg)
            task = await actions.spawn(
                *(queue, action.task, action.params),
                idempotency_key=key,
                reason=f"schedule {name}, by hand",
            )
        except (UserError, BackendError, ValueError) as error:
            return frame.done("/schedules", f"Nothing was done: {error}", "failure")
        text = f"Started by schedule {name}."
        if not task.created:
            text = (
                f"Schedule {name} was started by hand before, since it was last due: this is its "
                "task. Retry or fork it to do its work again."
            )
        return frame.done(address_of(queue, task.task_id), text)


def manual_key(schedule: Schedule, now: datetime, longitude_deg: float | None) -> str:
    """The idempotency key of a run by hand: one for each slot and action.

    Two clicks start one task, also of two readers; after a change of the schedule another one.
    Raises `SettingError` for a schedule whose times cannot be read.
    """
    slot = parse_times(schedule.kind.value, schedule.spec, longitude_deg or 0.0).latest(now)
    text = json.dumps(schedule.action, sort_keys=True, default=str)
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    slot_name = "before the first" if slot is None else slot.name
    return f"by hand:{schedule.name}:{slot_name}:{digest}"


def schedule_row(schedule: Schedule, now: datetime, longitude_deg: float | None) -> ScheduleRow:
    """When a schedule last ran and when it runs next."""
    kind, *names = (schedule.last_run or "none").split()
    links = tuple((names[0], name) for name in names[1:]) if kind == "task" and names else ()
    try:
        times = parse_times(schedule.kind.value, schedule.spec, longitude_deg or 0.0)
        latest = times.latest(now)
        following = None if latest is None else times.following(latest.number)
        last = None if schedule.last_slot is None else times.time_of(schedule.last_slot)
    except (UserError, ValueError, OverflowError) as error:
        return ScheduleRow(schedule, None, None, None, links, str(error))
    at = None if following is None else following.at
    seconds = None if at is None else (at - now).total_seconds()
    return ScheduleRow(schedule, last, at, seconds, links)
