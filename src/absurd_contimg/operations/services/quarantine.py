"""Retries of failed tasks, and the quarantine of groups with data that would fail again."""

from __future__ import annotations

import asyncio
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from uuid import UUID

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.errors import BackendError, BackendUnavailable
from absurd_contimg.core.forks import fork_points
from absurd_contimg.core.records import LIVE_STATES, History, Run, SpawnedTask
from absurd_contimg.core.retries import ATTEMPTS_MAX, retry_options
from absurd_contimg.errors import SettingError
from absurd_contimg.history.summary import summarize
from absurd_contimg.history.timeline import kind_of
from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.workflows.failure_rules import QUARANTINE_RULES

_ROWS_MAX = 10_000_000


async def retry_failed(backend: Backend, history: History) -> SpawnedTask:
    """Run a failed task again from its last checkpoint, with full budgets, or `SettingError`."""
    task = history.task
    if task.state != "failed":
        raise SettingError(
            f"Task {task.task_id} is {task.state}, not failed.",
            _advice_on_cancelled(history)
            if task.state == "cancelled"
            else "Only a failed task can be retried.",
        )
    if task.attempts >= ATTEMPTS_MAX:
        raise SettingError(
            f"Task {task.task_id} has had {task.attempts} attempts, the most that can be counted.",
            "Give its group a new task: contimg spawn --group GROUP --respawn",
        )
    return await backend.retry_task(history.queue_name, task.task_id, retry_options(task))


def _advice_on_cancelled(history: History) -> str:
    """What does the work of a cancelled task, which itself never runs again."""
    params = history.task.params
    if isinstance(params, Mapping) and "group_id" in params:
        return "Give its group a new task: contimg spawn --group GROUP --respawn"
    if points := fork_points(history):
        step = shlex.quote(points[-1])
        return f"A new task goes on from its last step: contimg fork {history.task.task_id} {step}"
    return "It has no step to go on from: spawn a new one as this one was spawned."


async def retry_all_failed(
    backend: Backend, queue_name: str, rule: str | None = None
) -> tuple[list[SpawnedTask], list[str]]:
    """Retry the tasks of `to_be_retried`; also why some of them cannot be retried.

    With a few statements however many they are, unless the database refuses one of them.
    """
    tasks = await backend.list_tasks(queue_name, limit=_ROWS_MAX)
    runs: dict[UUID, list[Run]] = defaultdict(list)
    for run in await backend.list_runs(queue_name, states=["failed"], limit=_ROWS_MAX):
        runs[run.task_id].append(run)
    histories = [History(queue_name, task, tuple(runs[task.task_id])) for task in tasks]
    selected = to_be_retried(histories, rule)
    if not selected:
        return [], []
    options = {history.task.task_id: retry_options(history.task) for history in selected}
    try:
        return await backend.retry_tasks(queue_name, options), []
    except BackendUnavailable:
        raise
    except BackendError:
        return await _retry_each(backend, selected)


async def _retry_each(
    backend: Backend, histories: Sequence[History]
) -> tuple[list[SpawnedTask], list[str]]:
    retried, refusals = [], []
    for history in histories:
        try:
            retried.append(await retry_failed(backend, history))
        except BackendUnavailable:
            raise
        except SettingError as error:
            refusals.append(str(error))
        except BackendError as error:
            refusals.append(f"Task {history.task.task_id} cannot be retried: {error}")
    return retried, refusals


def to_be_retried(histories: Sequence[History], rule: str | None = None) -> list[History]:
    """Failed newest tasks of groups, by kind: without those in quarantine, or of one `rule`."""
    newest: dict[object, History] = {}
    live = set()
    for history in histories:
        name = summarize(history).group or history.task.task_id
        work = name, kind_of(history.task.task_name)
        newest.setdefault(work, history)
        if history.task.state in LIVE_STATES:  # also an older one that was retried by itself
            live.add(work)
    selected = []
    for history in (history for work, history in newest.items() if work not in live):
        failure = summarize(history).last_failure
        failed_by = None if failure is None else failure.rule
        wanted = failed_by not in QUARANTINE_RULES if rule is None else failed_by == rule
        if history.task.state == "failed" and wanted:
            selected.append(history)
    return selected


async def release(
    backend: Backend, registry: Registry, group_id: str, history: History
) -> SpawnedTask:
    """Run the task of a group in quarantine again, or raise `SettingError`.

    The task comes before the status: if this process dies in between, the group is still
    listed, and the task sets its status at its end.
    """
    group = await asyncio.to_thread(registry.group, group_id)
    if group.status is not GroupStatus.QUARANTINED:
        raise SettingError(
            f"Group {group_id} is {group.status.value}, not quarantined.",
            "contimg quarantine list shows the groups in quarantine.",
        )
    if summarize(history).group != group_id:
        raise SettingError(f"Task {history.task.task_id} belongs to another group than {group_id}.")
    spawned = await retry_failed(backend, history)
    await asyncio.to_thread(registry.set_group_status, group_id, GroupStatus.DISCOVERED)
    return spawned
