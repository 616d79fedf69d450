"""The tasks of a night: which they are, what each waits for or died of, and what they cost."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from absurd_contimg.core.backend import Inspection
from absurd_contimg.core.records import History
from absurd_contimg.history.durations import duration_text
from absurd_contimg.history.metrics import loss_cause, measure
from absurd_contimg.history.stage_tasks import STAGE_PREFIX, with_stage_tasks
from absurd_contimg.history.summary import (
    TaskSummary,
    command_after_cancellation,
    summarize,
    superseded,
)
from absurd_contimg.history.timeline import SECONDARY_TASKS, StepStart, group_in, step_starts
from absurd_contimg.history.wait_explanation import WaitContext, explain_wait
from absurd_contimg.operations.night_report.facts import OperationsFacts, TaskFacts
from absurd_contimg.operations.overview import DiskOverview
from absurd_contimg.registry.outages import Outage
from absurd_contimg.workflows.failure_rules import NO_SPACE_RULES

_TASKS_MAX = 100_000
_CALIBRATION_STEP = "select_calibration"


async def night_histories(
    inspection: Inspection, queue_name: str, names: Collection[str], keys: Collection[str]
) -> list[History]:
    """The tasks about these groups, windows and products, in the queue and those beside it.

    Stage tasks are joined with the task that coordinates them.
    """
    histories: list[History] = []
    for queue in await inspection.list_queues():
        if queue != queue_name and not queue.startswith(f"{queue_name}-"):
            continue
        tasks = await inspection.list_tasks(queue, limit=_TASKS_MAX)
        ids = [
            task.task_id for task in tasks
            if not task.task_name.startswith(STAGE_PREFIX)
            and (group_in(task.params) in names or product_key_in(task.params) in keys)
        ]  # fmt: skip
        if ids:
            histories += await inspection.histories(queue, ids)
    return await with_stage_tasks(inspection, histories)


def product_key_in(params: object) -> str | None:
    """The product in the parameters of a publication."""
    key = params.get("product_key") if isinstance(params, Mapping) else None
    return None if key is None else str(key)


def task_facts(history: History, context: WaitContext) -> TaskFacts:
    """A task with why it waits or what it does, or why it failed."""
    summary = summarize(history)
    about = summary.group or product_key_in(history.task.params) or ""
    explanation, advice = _explain(history, summary, context)
    return TaskFacts(
        str(summary.task_id), summary.task_name, about, summary.state, summary.ended_at,
        explanation, advice,
    )  # fmt: skip


def _explain(history: History, summary: TaskSummary, context: WaitContext) -> tuple[str, str]:
    if summary.state == "completed":
        return "", ""
    wait = explain_wait(history, context)
    if wait is not None:
        return wait.sentence, wait.advice or ""
    if summary.state == "cancelled":
        text = f"its task was cancelled; by whom: contimg actions {summary.task_id}"
        return text, command_after_cancellation(history.task)
    failure = summary.last_failure
    if failure is None:
        return summary.state, ""
    place = "" if failure.step is None else f" in {failure.step}"
    text = f"{summary.state}{place}: {failure.message or failure.name}"
    return text, failure.advice or ""


def primary_tasks(histories: Sequence[History]) -> dict[str, History]:
    """The task of each group or window: the newest that is not about what it has made."""
    newest: dict[str, History] = {}
    for history in sorted(histories, key=lambda h: (h.task.enqueue_at, h.task.task_id)):
        name = group_in(history.task.params)
        if name is not None and history.task.task_name not in SECONDARY_TASKS:
            newest[name] = history
    return newest


def selected_calibration(history: History) -> Mapping[str, Any] | None:
    """The outputs of the stage that selects a set, which make no product."""
    state = history.checkpoint_states.get(_CALIBRATION_STEP)
    outputs = state.get("outputs") if isinstance(state, Mapping) else None
    return outputs if isinstance(outputs, Mapping) and "calibration" in outputs else None


def operations_facts(
    histories: Sequence[History], disks: Sequence[DiskOverview], outages: Sequence[Outage] = ()
) -> OperationsFacts:
    """Counts and durations over all tasks of the night, and how fast the disks fill."""
    metrics = measure(histories)
    longest = {step: max(values) for step, values in metrics.step_seconds.items()}
    starts = wasted = 0
    seconds = 0.0
    for history in histories:
        steps = step_starts(history)
        starts += len(steps)
        for number, start in enumerate(steps):
            if loss_cause(start.outcome) is None:
                continue
            wasted += 1
            seconds += _lost_seconds(start, steps[number + 1 :], longest.get(start.step, 0.0))
    interruptions = [
        text for history in histories for start in step_starts(history)
        if (text := interruption(history, start))
    ]  # fmt: skip
    interruptions += map(outage_text, outages)
    filling = [disk for disk in disks if disk.hours_to_full is not None]
    fullest = min(filling, key=lambda disk: disk.hours_to_full or 0.0, default=None)
    judged = [disk for health in ("failure", "warning") for disk in disks if disk.health == health]
    return OperationsFacts(
        tasks_by_state=metrics.tasks_by_state,
        stage_seconds={
            step: tuple(sorted(values)) for step, values in metrics.step_seconds.items()
        },
        superseded_failures=len(superseded(history.task for history in histories)),
        failures_by_kind=metrics.failures_by_kind,
        starts=starts,
        wasted_seconds=seconds,
        wasted_starts=wasted,
        hours_to_full=None if fullest is None else fullest.hours_to_full,
        fullest_disk="" if fullest is None else f"{fullest.folder} on {fullest.host}",
        disk_health=judged[0].health if judged else "ok",
        disk_problem=judged[0].problem if judged else "",
        interruptions=tuple(sorted(interruptions)),
        n_disks=sum(disk.free_bytes is not None for disk in disks),
    )


def outage_text(outage: Outage) -> str:
    """When the database was away, for how long and why."""
    seconds = (outage.ended_at - outage.began_at).total_seconds()
    return (
        f"{outage.began_at:%Y-%m-%d %H:%M:%S} UTC, {outage.service}: the database was away for "
        f"{duration_text(seconds)}: {outage.reason}"
    )


def interruption(history: History, start: StepStart) -> str:
    """When and how a start was ended from outside; empty if it was not."""
    about = f"{start.step} of {group_in(history.task.params) or history.task.task_id}"
    rule = None if start.noted is None else start.noted.rule
    at, what = start.ended_at or start.started_at, ""
    match loss_cause(start.outcome):
        case "died":
            what = f"died in {about}, which began then"
        case "lost":
            what = f"lost its lease in {about}"
        case "waiting" if rule in NO_SPACE_RULES:
            what = f"{about} lacked disk space"
    return f"{at:%Y-%m-%d %H:%M:%S} UTC, {start.worker}: {what}" if what else ""


def _lost_seconds(start: StepStart, later: Sequence[StepStart], seconds_max: float) -> float:
    """What a start took that did not finish; what came after it, until the next one, is no work.

    Where nobody knows its end, at most `seconds_max`: what the longest that finished took.
    """
    if start.seconds is not None:
        return max(0.0, start.seconds)
    again = next((other for other in later if other.step == start.step), None)
    if again is None:
        return 0.0
    return min(max(0.0, (again.started_at - start.started_at).total_seconds()), seconds_max)
