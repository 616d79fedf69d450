"""A group whose stages are tasks of their own, shown as one task.

The journals and checkpoints of stage tasks have the names that they have in a pipeline task, so
the history of a coordinator with those of its newest stage tasks reads like that of one task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from absurd_contimg.core.backend import Inspection
from absurd_contimg.core.records import LIVE_STATES, History
from absurd_contimg.core.step_names import SPAWN_PREFIX

COORDINATOR = "stages"
"""The task that coordinates the stage tasks of a group."""
STAGE_PREFIX = "stage."
"""The names of stage tasks begin so."""


def stage_task_ids(history: History) -> dict[str, UUID]:
    """The newest task of each stage that a coordinator has spawned, in order of spawning."""
    newest: dict[str, UUID] = {}
    for name, state in history.checkpoint_states.items():
        task_name = name.removeprefix(SPAWN_PREFIX).partition("#")[0]
        if name.startswith(SPAWN_PREFIX + STAGE_PREFIX) and isinstance(state, str):
            newest[task_name] = UUID(state)
    return newest


async def with_stage_tasks(inspection: Inspection, histories: Sequence[History]) -> list[History]:
    """The same histories, coordinators joined with their stage tasks."""
    coordinators = [h for h in histories if h.task.task_name == COORDINATOR]
    if not coordinators:
        return list(histories)
    ids = [task_id for history in coordinators for task_id in stage_task_ids(history).values()]
    prefixes = tuple({f"{history.queue_name}-" for history in coordinators})
    stage_tasks: dict[UUID, History] = {}
    for queue in await inspection.list_queues():
        if queue.startswith(prefixes):
            answer = await inspection.histories(queue, ids)
            stage_tasks |= {history.task.task_id: history for history in answer}
    return [joined(history, stage_tasks) for history in histories]


def joined(coordinator: History, stage_tasks: Mapping[UUID, History]) -> History:
    """The history of a coordinator with the runs and checkpoints of its stage tasks.

    While a stage task goes on, its run and its waits stand for those of the coordinator.
    """
    if coordinator.task.task_name != COORDINATOR:
        return coordinator
    ids = stage_task_ids(coordinator).values()
    children = [stage_tasks[task_id] for task_id in ids if task_id in stage_tasks]
    runs = [run for child in children for run in child.runs]
    is_active = any(run.state in LIVE_STATES for run in runs)
    own = [run for run in coordinator.runs if not (is_active and run.state in LIVE_STATES)]
    checkpoints = [saved for child in children for saved in child.checkpoints]
    return replace(
        coordinator,
        runs=tuple(sorted((*runs, *own), key=lambda run: (run.created_at, run.run_id))),
        checkpoints=(*coordinator.checkpoints, *checkpoints),
        waits=tuple(wait for child in children for wait in child.waits)
        if is_active
        else coordinator.waits,
    )
