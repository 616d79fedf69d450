"""Failed groups: back into the queue; and those whose data are not fit for use: which, and why.

A group is quarantined when its task has failed because of the quality of its data; trying again
with the same data would fail again. A person who has removed the cause releases it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.records import History, SpawnedTask
from absurd_contimg.core.retries import retry_options
from absurd_contimg.errors import SettingError
from absurd_contimg.history.timeline import last_failure
from absurd_contimg.registry import Group, GroupStatus, Registry
from absurd_contimg.workflows.failure_rules import QUARANTINE_RULES


def quarantined(registry: Registry) -> list[Group]:
    """The groups in quarantine, each with its reason, in the order of their names."""
    return registry.groups(GroupStatus.QUARANTINED)


async def retry_failed(backend: Backend, history: History) -> SpawnedTask:
    """Run a failed task again from its last checkpoint, with full budgets for its stages.

    Raises `SettingError` if the task has not failed.
    """
    task = history.task
    if task.state != "failed":
        raise SettingError(
            f"Task {task.task_id} is {task.state}, not failed.",
            "Only a failed task can be retried.",
        )
    return await backend.retry_task(history.queue_name, task.task_id, retry_options(task))


def to_be_retried(histories: Sequence[History], rule: str | None = None) -> list[History]:
    """The failed ones among a queue's tasks (newest first) that "again" is for.

    Of each group only its newest task; not those in quarantine, which are released one by one;
    with `rule`, only those that this rule of the failure table has failed.
    """
    newest: dict[object, History] = {}
    for one in histories:
        newest.setdefault(_group_of(one) or one.task.task_id, one)
    found = []
    for one in newest.values():
        failed_by = (last_failure(one) or {}).get("rule")
        wanted = failed_by not in QUARANTINE_RULES if rule is None else failed_by == rule
        if one.task.state == "failed" and wanted:
            found.append(one)
    return found


async def release(
    backend: Backend, registry: Registry, group_id: str, history: History
) -> SpawnedTask:
    """End a group's quarantine: run its task again, and reset its status.

    `history` is that of the group's task. Raises `SettingError` if the group is not in
    quarantine. The task goes first: killed in between, the group is still listed, and its status
    is set by the task when that ends.
    """
    group = await asyncio.to_thread(registry.group, group_id)
    if group.status is not GroupStatus.QUARANTINED:
        raise SettingError(
            f"Group {group_id} is {group.status.value}, not quarantined.",
            "contimg quarantine list shows those that are.",
        )
    if _group_of(history) != group_id:
        raise SettingError(f"Task {history.task.task_id} is not that of group {group_id}.")
    spawned = await retry_failed(backend, history)
    await asyncio.to_thread(registry.set_group_status, group_id, GroupStatus.DISCOVERED)
    return spawned


def _group_of(history: History) -> object:
    params = history.task.params
    return params.get("group_id") if isinstance(params, Mapping) else None
