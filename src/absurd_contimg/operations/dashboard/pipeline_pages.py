"""Pages of the pipeline by nights, and of what waits."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from absurd_contimg.core.records import TERMINAL_STATES
from absurd_contimg.errors import MissingInputError
from absurd_contimg.history.summary import TaskSummary
from absurd_contimg.operations.dashboard.frame import Frame
from absurd_contimg.operations.dashboard.nights import (
    GROUP_SECONDS,
    Night,
    make_nights,
    read_totals,
)
from absurd_contimg.operations.dashboard.report_pages import Reports
from absurd_contimg.operations.dashboard.snapshots import Snapshot
from absurd_contimg.operations.overview import SiteOverview

_NIGHTS_MAX = 60
_VERDICT_STATES = {
    "clean": "done",
    "degraded": "warning",
    "failed": "failed",
    "under way": "running",
    "no task": "none",
}


def add_pipeline_pages(router: APIRouter, frame: Frame, reports: Reports) -> None:
    """``/`` and ``/nights/DATE``."""

    async def nights_of(snapshot: Snapshot) -> list[Night]:
        database = await frame.database()
        totals = None if database is None else await asyncio.to_thread(read_totals, database)
        return make_nights(
            snapshot.tasks, snapshot.steps, totals, snapshot.now if frame.live else None
        )

    @router.get("/")
    async def pipeline(request: Request) -> HTMLResponse:
        snapshot = await frame.snapshots.snapshot()
        nights = await nights_of(snapshot)
        steps = steps_of(nights, snapshot.steps)
        written = await asyncio.to_thread(reports.newest)
        return await frame.page(
            request,
            "pipeline.html.jinja",
            "pipeline",
            "Pipeline",
            nights=[with_steps(night, steps) for night in nights[:_NIGHTS_MAX]],
            steps=steps,
            verdict_states=_VERDICT_STATES,
            group_seconds=GROUP_SECONDS,
            is_cut=snapshot.is_cut,
            reports={report.night: report for report in written},
            **figures(snapshot.overview),
        )

    @router.get("/nights/{name}")
    async def night(request: Request, name: str) -> HTMLResponse:
        snapshot = await frame.snapshots.snapshot()
        nights = [night for night in await nights_of(snapshot) if night.name == name]
        if not nights:
            raise MissingInputError(f"Nothing is known of a night {name}.")
        (night,) = nights
        written = {report.night for report in await asyncio.to_thread(reports.newest)}
        return await frame.page(
            request,
            "night.html.jinja",
            "pipeline",
            f"Night {name}",
            night=night,
            steps=steps_of(nights, snapshot.steps),
            verdict_states=_VERDICT_STATES,
            activities={task.summary.task_id: activity(task.summary) for task in night.tasks},
            report=f"/reports/{name}" if name in written else None,
        )


def steps_of(nights: list[Night], steps: tuple[str, ...]) -> list[str]:
    """The steps that a task of these nights has begun, in order."""
    begun = {count.step for night in nights for count in night.steps if count.begun}
    return [step for step in steps if step in begun]


def with_steps(night: Night, steps: list[str]) -> Night:
    """A night with these columns alone."""
    return replace(night, steps=tuple(count for count in night.steps if count.step in steps))


def figures(overview: SiteOverview) -> dict[str, Any]:
    """The operations guide's key metrics, over all queues."""
    states: Counter[str] = Counter()
    for queue in overview.queues:
        states.update(queue.tasks_by_state)
    completed = sum(queue.completed_recently for queue in overview.queues)
    ended = completed + sum(queue.failed_recently for queue in overview.queues)
    busiest = max(overview.queues, key=lambda queue: queue.completed_recently, default=None)
    workers = [item for item in overview.services if item.kind == "worker"]
    living = sum(item.state == "running" for item in workers)
    data = overview.data
    return {
        "depth": sum(queue.depth for queue in overview.queues),
        "running": states["running"],
        "success": completed / ended if ended else None,
        "recent_seconds": max((queue.recent_seconds for queue in overview.queues), default=0.0),
        "utilisation": overview.worker_utilisation,
        "workers_note": f"{living} alive of {len(workers)} known",
        "latency": None if busiest is None else busiest.latency_seconds_p50,
        "newest_seconds": None if data is None else data.newest_file_seconds_ago,
        "problems": overview.problems,
    }


def activity(summary: TaskSummary) -> str:
    """What a task does now, or how it ended, in a phrase."""
    if summary.waiting is not None:
        return f"waits for {summary.waiting}"
    failure = summary.last_failure
    if summary.state == "failed" and failure is not None:
        place = f" in {failure.step}" if failure.step else ""
        first_line = failure.message.strip().partition("\n")[0]
        return f"{failure.kind or failure.name}{place}: {first_line}"
    if not summary.starts:
        return ""
    last = summary.starts[-1]
    if summary.state in TERMINAL_STATES and last.outcome == "done":
        return ""
    return f"{last.step}: {last.ending}"
