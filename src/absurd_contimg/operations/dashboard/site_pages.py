"""Pages about the site: what waits and why, workers, queues, failures."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from absurd_contimg.operations.dashboard.charts import worker_chart
from absurd_contimg.operations.dashboard.frame import Frame
from absurd_contimg.operations.dashboard.task_pages import seconds_between
from absurd_contimg.operations.overview import SiteOverview, WaitingTask
from absurd_contimg.registry.operator_actions import OperatorAction, list_actions
from absurd_contimg.workflows.failure_rules import RULES_BY_ID

_CHART_HOURS = 6.0
_ACTIONS_SHOWN = 50
_DURATION = re.compile(r"\d+(?:\.\d+)? (?:s|min|h|d)\b|until [\d :-]+(?:UTC)?")


@dataclass(frozen=True, slots=True)
class WaitingGroup:
    """Tasks that wait for the same."""

    why: str
    advice: str | None
    tasks: tuple[WaitingTask, ...]
    longest_seconds: float | None


@dataclass(frozen=True, slots=True)
class FailureRow:
    """A kind or a rule of failures, and what to do about it."""

    name: str
    number: int
    """Failed attempts, recently."""
    kind: str
    advice: str
    address: str
    """The tasks."""


def add_site_pages(router: APIRouter, frame: Frame) -> None:
    """``/waiting``, ``/workers``, ``/queues``, ``/failures``."""

    @router.get("/waiting")
    async def waiting(request: Request) -> HTMLResponse:
        overview = await frame.snapshots.overview()
        return await frame.page(
            request,
            "waiting.html.jinja",
            "waiting",
            "Why is it not running?",
            obstacles=obstacles(overview),
            groups=waiting_groups(overview.waiting, overview.at),
            number=sum(queue.depth for queue in overview.queues),
            observed=[group for group in overview.groups if group.waits_for],
        )

    @router.get("/workers")
    async def workers(request: Request) -> HTMLResponse:
        snapshot = await frame.snapshots.snapshot()
        hours, until = chart_span(request.query_params, snapshot.now)
        begin = until - timedelta(hours=hours)
        summaries = [task.summary for task in snapshot.tasks]
        return await frame.page(
            request,
            "workers.html.jinja",
            "workers",
            "Workers",
            services=snapshot.overview.services,
            chart=worker_chart(summaries, begin, until, frame.faults),
            begin=begin,
            until=until,
            earlier=chart_address(hours, begin),
            later=chart_address(hours, until + (until - begin)) if until < snapshot.now else None,
            fault_number=len(frame.faults),
        )

    @router.get("/queues")
    async def queues(request: Request) -> HTMLResponse:
        overview = await frame.snapshots.overview()
        return await frame.page(
            request,
            "queues.html.jinja",
            "queues",
            "Queues",
            queues=overview.queues,
            disks=overview.disks,
            past_actions=await _past_actions(frame),
        )

    @router.get("/failures")
    async def failures(request: Request) -> HTMLResponse:
        snapshot = await frame.snapshots.snapshot()
        overview = snapshot.overview
        failed = [task for task in snapshot.tasks if task.summary.state == "failed"]
        return await frame.page(
            request,
            "failures.html.jinja",
            "failures",
            "Failures",
            kinds=failure_rows([q.failures_by_kind for q in overview.queues], overview),
            rules=failure_rows([q.failures_by_rule for q in overview.queues], overview),
            recent_seconds=max((q.recent_seconds for q in overview.queues), default=0.0),
            failed=failed[:100],
            failed_number=len(failed),
            is_cut=snapshot.is_cut,
        )


async def _past_actions(frame: Frame) -> list[OperatorAction]:
    database = await frame.database()
    if database is None:
        return []
    return await asyncio.to_thread(list_actions, database, limit=_ACTIONS_SHOWN)


def obstacles(overview: SiteOverview) -> list[tuple[str, str]]:
    """What keeps everything from running: what, and what to do."""
    rows = [(problem, "") for problem in overview.problems]
    for queue in overview.queues:
        if queue.pause is not None:
            pause = str(queue.pause)
            resume = f"The page of the queues, or: contimg queue resume {queue.queue_name}"
            rows.append((f"{pause[:1].upper()}{pause[1:]}.", resume))
        rows += [(problem, "") for problem in queue.problems]
    for service in overview.services:
        if service.problem:
            rows.append((f"{service.kind} {service.name}: {service.problem}", ""))
    disks = [disk for disk in overview.disks if disk.problem]
    rows += [(f"{disk.role} on {disk.host}: {disk.problem}", "") for disk in disks]
    return list(dict.fromkeys(rows))


def waiting_groups(tasks: Sequence[WaitingTask], now: datetime) -> list[WaitingGroup]:
    """Tasks that wait for the same, whatever the durations, the most numerous first."""
    by_why: dict[str, list[WaitingTask]] = {}
    for task in tasks:
        by_why.setdefault(_DURATION.sub("…", task.why), []).append(task)
    groups = []
    for members in by_why.values():
        since = min((task.since for task in members if task.since is not None), default=None)
        longest = None if since is None else seconds_between(since, now)
        why = f"{members[0].why[:1].upper()}{members[0].why[1:]}"
        groups.append(WaitingGroup(why, members[0].advice, tuple(members), longest))
    return sorted(groups, key=lambda group: -len(group.tasks))


def chart_address(hours: float, until: datetime) -> str:
    """The page of the workers with the chart of another span."""
    values = {"until": until.isoformat(timespec="seconds"), "hours": f"{hours:g}"}
    return f"/workers?{urlencode(values)}"


def chart_span(query: Mapping[str, str], now: datetime) -> tuple[float, datetime]:
    """Hours and end of the chart in the address; the last hours if it says nothing that counts."""
    try:
        hours = max(0.1, min(48.0, float(query.get("hours", _CHART_HOURS))))  # 48 for no number
        until = datetime.fromisoformat(query["until"]) if "until" in query else now
        if until.tzinfo is None or not 2000 < until.year < 2200:
            until = now
    except (ValueError, OverflowError):
        return _CHART_HOURS, now
    return hours, until


def failure_rows(counts: Sequence[Mapping[str, int]], overview: SiteOverview) -> list[FailureRow]:
    """The sums over all queues, the most frequent first."""
    totals: dict[str, int] = {}
    for of_queue in counts:
        for name, number in of_queue.items():
            totals[name] = totals.get(name, 0) + number
    rows = []
    queue = next((q.queue_name for q in overview.queues if q.failures_by_kind), "")
    for name, number in sorted(totals.items(), key=lambda item: (-item[1], item[0])):
        rule = RULES_BY_ID.get(name)
        rows.append(
            FailureRow(
                name,
                number,
                "" if rule is None else rule.kind.value,
                "" if rule is None else rule.advice,
                "/tasks?" + urlencode({"queue": queue, "kind": name}, errors="replace"),
            )
        )
    return rows
