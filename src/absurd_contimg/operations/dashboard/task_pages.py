"""Pages of tasks: the list with its filter, one task, the log of one start."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse

from absurd_contimg.core.forks import fork_points
from absurd_contimg.core.records import INFINITY, TERMINAL_STATES, History
from absurd_contimg.errors import MissingInputError
from absurd_contimg.history.failures import failed_runs
from absurd_contimg.history.stage_tasks import with_stage_tasks
from absurd_contimg.history.summary import TaskSummary, summarize
from absurd_contimg.history.timeline import StepStart, group_of, step_starts
from absurd_contimg.history.wait_explanation import explain_wait
from absurd_contimg.history.wait_reason import find_wait_reason
from absurd_contimg.operations.dashboard.charts import start_sentence, task_chart
from absurd_contimg.operations.dashboard.files import find_start, read_logs
from absurd_contimg.operations.dashboard.frame import PICTURE_HEADERS, Frame
from absurd_contimg.operations.dashboard.pipeline_pages import activity
from absurd_contimg.operations.dashboard.task_filters import STATES, PageFilter, task_filter
from absurd_contimg.operations.overview import read_context
from absurd_contimg.products.output_warnings import output_warnings
from absurd_contimg.registry.operator_actions import OperatorAction, list_actions

_PAGE_TASKS = 50
_LOST = ("died", "lost", "poison")


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A line of the list."""

    summary: TaskSummary
    activity: str
    age: float
    """Seconds since it was spawned."""
    lease_left: float | None


@dataclass(frozen=True, slots=True)
class StartRow:
    """A line of the table of starts."""

    start: StepStart
    resumed: bool
    """It goes on after a start of the same step that did not finish."""
    log: str
    product: str | None
    picture: str | None


def add_task_pages(router: APIRouter, frame: Frame) -> None:
    """``/tasks`` and what is below it."""

    @router.get("/tasks")
    async def tasks(request: Request) -> HTMLResponse:
        await frame.snapshots.require_answers()
        inspection, query = frame.site.inspection, request.query_params
        queues = await frame.site.queues()
        page = PageFilter.from_query(query)
        page = replace(page, queue=page.queue or next(iter(queues), ""))
        wanted, problems = await asyncio.to_thread(task_filter, page, await frame.database())
        if page.queue and page.queue not in queues:  # another one in its place could be cancelled
            problems = [await queue_problem(frame, page.queue, queues), *problems]
        counts: Mapping[Any, int] = {}
        listed: list[TaskRow] = []
        before = _task_id(query.get("before", ""))
        if page.queue and not problems:
            counts = await inspection.count_tasks(page.queue, wanted)
            tasks_shown = await inspection.find_tasks(
                page.queue, wanted, before=before, limit=_PAGE_TASKS
            )
            histories = await inspection.histories(
                page.queue, [task.task_id for task in tasks_shown]
            )
            histories = await with_stage_tasks(inspection, histories)
            now = await inspection.current_time()
            listed = [_row(summarize(history), now) for history in histories]
        more = len(listed) == _PAGE_TASKS
        last = listed[-1].summary.task_id if more else None
        overview = await frame.snapshots.overview()
        kinds = {kind for queue in overview.queues for kind in queue.failures_by_kind}
        kinds |= {rule for queue in overview.queues for rule in queue.failures_by_rule}
        return await frame.page(
            request,
            "tasks.html.jinja",
            "tasks",
            "Tasks",
            queues=queues,
            states=("live", *STATES),
            kinds=sorted(kinds),
            filter=page,
            filter_items=[(n, v) for n in PageFilter.__slots__ if (v := getattr(page, n))],
            filter_without_state=replace(page, state="").query,
            filter_problems=problems,
            counts={state: counts[state] for state in STATES if counts.get(state)},
            total=sum(counts.values()),
            rows=listed,
            older=f"/tasks?{page.query}&before={last}" if last else None,
            first=f"/tasks?{page.query}" if before else None,
        )

    @router.get("/tasks/{queue}/{task_id}")
    async def task(request: Request, queue: str, task_id: str) -> HTMLResponse:
        history = await read_task(frame, queue, task_id)
        now = await frame.site.inspection.current_time()
        values = await task_values(frame, history, now)
        title = str(values["summary"].group or values["summary"].task_name)[:80]
        return await frame.page(request, "task.html.jinja", "tasks", title, **values)

    @router.get("/tasks/{queue}/{task_id}/log")
    async def log(request: Request, queue: str, task_id: str) -> HTMLResponse:
        history = await read_task(frame, queue, task_id)
        query, settings = request.query_params, frame.site.settings
        start = find_start(history, query.get("step", ""), query.get("start", ""))
        failures = [f for f in failed_runs(history) if f.attempt == start.attempt]
        parts = (
            [] if settings is None else await asyncio.to_thread(read_logs, settings, history, start)
        )
        return await frame.page(
            request,
            "log.html.jinja",
            "tasks",
            f"Log of {start.step}, start {start.start}"[:80],
            start=start,
            group=group_of(history),
            sentence=start_sentence(start),
            evidence=start.noted.evidence if start.noted is not None else {},
            failures=failures,
            parts=parts,
            address=address_of(history.queue_name, history.task.task_id),
        )

    @router.get("/tasks/{queue}/{task_id}/quicklook")
    async def quicklook(request: Request, queue: str, task_id: str) -> FileResponse:
        history = await read_task(frame, queue, task_id)
        state = history.checkpoint_states.get(request.query_params.get("step", ""))
        outputs = state.get("outputs") if isinstance(state, Mapping) else None
        product = state.get("product") if isinstance(state, Mapping) else None
        if not isinstance(outputs, Mapping) or product is None:
            raise MissingInputError("This step has no image.")
        path = await frame.quicklooks.of_product(str(product), outputs)
        return FileResponse(path, media_type="image/png", headers=PICTURE_HEADERS)


async def queue_problem(frame: Frame, queue: str, queues: Sequence[str]) -> str:
    """Why the tasks of a queue are not shown, which is none of the site's."""
    of_site = ", ".join(queues) or "none"
    if queue in await frame.site.inspection.list_queues():
        shown_by = f"contimg --queue {shlex.quote(queue)} status"
        return f"The queue {queue} is none of this site's ({of_site}). It is shown by: {shown_by}"
    return f"There is no queue {queue}; there is {of_site}."


def _task_id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


async def read_task(frame: Frame, queue: str, task_id: str) -> History:
    """The history of a task with those of its stage tasks; `MissingInputError` if there is none."""
    await frame.snapshots.require_answers()
    inspection = frame.site.inspection
    number = _task_id(task_id)
    history = None
    if number is not None and queue in await inspection.list_queues():
        history = await inspection.history(queue, number)
    if history is None:
        raise MissingInputError(f"There is no task {task_id} on queue {queue}.")
    (joined,) = await with_stage_tasks(inspection, [history])
    return joined


async def wait_of(frame: Frame, history: History, now: datetime) -> dict[str, Any] | None:
    """Why a task waits, or what it does; None if it has ended."""
    if history.task.state in TERMINAL_STATES:
        return None
    explanation = explain_wait(history, await read_context(frame.site))
    if explanation is None:
        return None
    reason = find_wait_reason(history)
    until = None if explanation.until == INFINITY else explanation.until
    return {
        "sentence": f"It {explanation.sentence.rstrip('.')}.",
        "fact": "" if reason is None else reason.message,
        "is_running": explanation.fact == "running",
        "until": until,
        "seconds_left": None if until is None else seconds_between(now, until),
        "advice": explanation.advice,
    }


def _row(summary: TaskSummary, now: datetime) -> TaskRow:
    ends = summary.lease_ends_at
    return TaskRow(
        summary,
        activity(summary),
        seconds_between(summary.enqueued_at, now),
        None if ends is None else seconds_between(now, ends),
    )


def seconds_between(begin: datetime, end: datetime) -> float:
    """From one time to another; negative if it is the other way round."""
    return (end - begin).total_seconds()


def address_of(queue: str, task_id: UUID) -> str:
    """The address of a task's page."""
    return f"/tasks/{quote(queue.encode('utf-8', 'replace'), safe='')}/{task_id}"


async def task_values(frame: Frame, history: History, now: datetime) -> dict[str, Any]:
    """What the page of a task shows."""
    summary = summarize(history)
    result = summary.result if isinstance(summary.result, Mapping) else {}
    outputs = result.get("outputs")
    ended = summary.state in TERMINAL_STATES
    address = address_of(history.queue_name, summary.task_id)
    lease_ends = summary.lease_ends_at
    return {
        "queue": history.queue_name,
        "summary": summary,
        "address": address,
        "verdict": str(result.get("verdict", "")),
        "warnings": output_warnings(outputs) if isinstance(outputs, Mapping) else (),
        "wait": await wait_of(frame, history, now),
        "spawned_seconds": seconds_between(summary.enqueued_at, now),
        "took_seconds": None
        if summary.ended_at is None
        else seconds_between(summary.enqueued_at, summary.ended_at),
        "lease_left": None if lease_ends is None else seconds_between(now, lease_ends),
        "lost": sum(start.outcome in _LOST for start in summary.starts),
        "chart": task_chart(history, now, frame.faults),
        "rows": start_rows(history, address),
        "ended": ended,
        "fork_steps": fork_points(history),
        "past_actions": await _past_actions(frame, summary.task_id),
        "params": history.task.params,
        "waits": history.waits,
        "checkpoints": history.checkpoints,
    }


async def _past_actions(frame: Frame, task_id: UUID) -> list[OperatorAction]:
    database = await frame.database()
    if database is None:
        return []
    return await asyncio.to_thread(list_actions, database, target=str(task_id))


def start_rows(history: History, address: str) -> list[StartRow]:
    """The starts in order of time, with links to their logs, products and pictures."""
    rows = []
    last_outcome: dict[str, str] = {}
    states = history.checkpoint_states
    for start in step_starts(history):
        before = last_outcome.get(start.step)
        last_outcome[start.step] = start.outcome
        state = states.get(start.step) if start.outcome == "done" else None
        product = state.get("product") if isinstance(state, Mapping) else None
        outputs = state.get("outputs") if isinstance(state, Mapping) else None
        pictured = isinstance(outputs, Mapping) and bool({"image", "mosaic"} & set(outputs))
        place = urlencode({"step": start.step, "start": start.start}, errors="replace")
        rows.append(
            StartRow(
                start,
                before not in (None, "done"),
                f"{address}/log?{place}",
                None if product is None else str(product).rpartition("/")[2],
                f"{address}/quicklook?{place}" if product is not None and pictured else None,
            )
        )
    return rows
