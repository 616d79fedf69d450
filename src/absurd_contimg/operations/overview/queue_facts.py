"""What the database knows of one queue, in a bounded number of queries, and what follows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import cast
from uuid import UUID

from absurd_contimg.core.backend import Inspection
from absurd_contimg.core.records import INFINITY, History, QueueStats, Run, State
from absurd_contimg.core.task_queries import RecentActivity
from absurd_contimg.history.durations import duration_text
from absurd_contimg.history.failures import reason_members
from absurd_contimg.history.queue_health import QueueProblem, find_problems
from absurd_contimg.history.stage_tasks import COORDINATOR
from absurd_contimg.history.summary import superseded_failures
from absurd_contimg.history.timeline import group_in
from absurd_contimg.history.wait_explanation import WaitContext, explain_wait
from absurd_contimg.operations.console import counted
from absurd_contimg.operations.overview.records import QueueOverview, WaitingTask
from absurd_contimg.operations.overview.services import RunningTask
from absurd_contimg.registry.queue_pauses import QueuePause

_RUNNING_MAX = 200
_PROBLEMS_MAX = 100


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """What is read of one queue."""

    queue_name: str
    stats: QueueStats
    activity: RecentActivity
    problems: Sequence[QueueProblem]
    running: Sequence[RunningTask]
    waiting: Sequence[History]
    """The oldest of those that sleep and of those that are pending."""
    superseded: frozenset[UUID] = frozenset()
    """The failed tasks of the activity whose group or window has a later one."""

    @property
    def blocked(self) -> str | None:
        """The task that makes every claim fail, and what to do."""
        return next((str(each) for each in self.problems if each.blocks_the_queue), None)


async def read_queue(
    inspection: Inspection, queue_name: str, since: datetime | None, waiting_max: int
) -> QueueFacts:
    """The facts; of tasks that wait, `waiting_max` of each kind, and what has ended since then."""

    async def activity_since() -> RecentActivity:
        if since is None:
            return RecentActivity(0, 0, None, None)
        return await inspection.recent_activity(queue_name, since)

    stats, activity, problems, running, sleeping, pending = await asyncio.gather(
        inspection.queue_stats(queue_name),
        activity_since(),
        find_problems(inspection, queue_name, _PROBLEMS_MAX),
        inspection.list_runs(queue_name, states=["running"], limit=_RUNNING_MAX),
        inspection.list_runs(queue_name, states=["sleeping"], limit=waiting_max),
        inspection.list_runs(queue_name, states=["pending"], limit=waiting_max),
    )
    ids = list(dict.fromkeys(run.task_id for run in (*running, *sleeping, *pending)))
    histories = {
        history.task.task_id: history for history in await inspection.histories(queue_name, ids)
    }
    # A run may have moved between the queries: the histories are of one moment, and later.
    runs = [
        RunningTask(run, history)
        for history in histories.values()
        for run in history.runs
        if run.state == "running"
    ]
    failed = activity.failed_tasks
    superseded = (await superseded_failures(inspection, queue_name)) if failed else frozenset()
    superseded &= frozenset(failed)
    held = {each.run.task_id for each in runs}
    waiting = [
        history
        for history in histories.values()
        if history.task.task_id not in held and explainable(history)
    ]
    return QueueFacts(queue_name, stats, activity, problems, runs, waiting, superseded)


def explainable(history: History) -> bool:
    """Whether the task has not ended."""
    return history.task.state in ("pending", "running", "sleeping")


def queue_overview(
    facts: QueueFacts, pause: QueuePause | None, recent_seconds: float
) -> QueueOverview:
    """The facts as they are shown."""
    kinds: dict[str, int] = {}
    rules: dict[str, int] = {}
    for failure in facts.activity.failures:
        name, kind, rule = reason_members(failure.reason)
        kinds[kind or name] = kinds.get(kind or name, 0) + failure.runs
        rules[rule or name] = rules.get(rule or name, 0) + failure.runs
    stats, activity, superseded = facts.stats, facts.activity, facts.superseded
    failed = [task_id for task_id in activity.failed_tasks if task_id not in superseded]
    return QueueOverview(
        queue_name=facts.queue_name,
        tasks_by_state=cast(Mapping[State, int], stats.tasks_by_state),
        claimable=stats.claimable,
        oldest_claimable_seconds=stats.oldest_claimable_seconds,
        expired_leases=stats.expired_leases,
        pause=pause,
        recent_seconds=recent_seconds,
        completed_recently=activity.completed,
        failed_recently=activity.failed - len(superseded),
        latency_seconds_p50=activity.latency_seconds_p50,
        latency_seconds_p95=activity.latency_seconds_p95,
        failures_by_kind=kinds,
        failures_by_rule=rules,
        problems=tuple(map(str, facts.problems)),
        last_failed=failed[0] if failed else None,
        superseded_recently=len(superseded),
    )


def forgotten_pauses(
    queues: Sequence[QueueOverview], now: datetime, seconds_max: float
) -> list[str]:
    """The pauses behind which work has waited for so long, each with the command that ends it."""
    return [
        f"{counted(queue.claimable, 'task')} waiting for {duration_text(seconds)} behind a pause: "
        f"{queue.pause}. To go on: contimg queue resume {queue.queue_name}"
        for queue in queues
        if (seconds := queue.seconds_behind_pause(now)) >= seconds_max
    ]


def waiting_tasks(queues: Sequence[QueueFacts], context: WaitContext) -> list[WaitingTask]:
    """All tasks that wait, and why, the longest waiting first."""
    waiting = []
    for history in (history for facts in queues for history in facts.waiting):
        explanation = explain_wait(history, context)
        if explanation is None:
            continue
        task = history.task
        waiting.append(
            WaitingTask(
                task_id=task.task_id,
                queue_name=history.queue_name,
                task_name=task.task_name,
                group=group_in(task.params),
                since=waiting_since(history),
                until=explanation.until,
                why=explanation.sentence,
                advice=explanation.advice,
            )
        )
    return sorted(waiting, key=lambda task: (task.since or context.now, task.task_id))


def stage_task_states(queues: Sequence[QueueFacts], context: WaitContext) -> Mapping[UUID, str]:
    """What the tasks do that others may wait for."""
    waiting = [history for facts in queues for history in facts.waiting]
    running = [task.history for facts in queues for task in facts.running]
    histories = (*waiting, *running)
    return {
        history.task.task_id: explanation.sentence
        for history in histories
        if history.task.task_name != COORDINATOR
        and (explanation := explain_wait(history, context)) is not None
    }


def waiting_since(history: History) -> datetime | None:
    """When the task was last worked on, or else spawned."""
    times: list[datetime] = [saved.updated_at for saved in history.checkpoints]
    for run in history.runs:
        times += [each for each in _moments(run) if each is not None]
    times.append(history.task.enqueue_at)
    finite = [time for time in times if time < INFINITY]
    return max(finite, default=None)


def _moments(run: Run) -> tuple[datetime | None, ...]:
    return run.created_at, run.failed_at, run.started_at
