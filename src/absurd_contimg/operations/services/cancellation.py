"""Cancelling a task: its stage tasks with it, and word to the coordinator of a stage task."""

from __future__ import annotations

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.records import TERMINAL_STATES, History
from absurd_contimg.history.stage_tasks import COORDINATOR, STAGE_PREFIX, stage_task_ids
from absurd_contimg.history.timeline import task_label
from absurd_contimg.workflows.stage_tasks import announce_cancelled, cancel_stage_tasks


async def cancel(backend: Backend, history: History) -> str:
    """Cancel a task unless it has ended; a sentence that says what was done.

    A coordinator comes before its stage tasks, so that it spawns no more of them; the same command
    again cancels what a death in between has left.
    """
    task, queue = history.task, history.queue_name
    name = f"Task {task.task_id} ({task_label(task)})"
    if task.state in TERMINAL_STATES:
        text = f"{name} has already ended: it is {task.state}."
    else:
        await backend.cancel_task(queue, task.task_id)
        text = f"{name} is cancelled."
        if task.task_name.startswith(STAGE_PREFIX):
            await announce_cancelled(backend, task)
    if task.task_name != COORDINATOR:
        return text
    latest = await backend.history(queue, task.task_id) or history
    if latest.task.state != "cancelled":
        return text
    count = await cancel_stage_tasks(backend, queue, list(stage_task_ids(latest).values()))
    return f"{text} {count} of its stage tasks were cancelled too." if count else text
