"""Waits of a run for tasks of other queues: what it waits for, and whether anything can go on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.jsonb_sanitizer import shortened
from absurd_contimg.core.records import TERMINAL_STATES, State, TaskResult

if TYPE_CHECKING:
    from absurd_contimg.core.worker_activity import ActiveRun

_log = logging.getLogger(__name__)

_POLL_FIRST_SECONDS = 0.05
_POLL_LIMIT_SECONDS = 1.0
_PATIENCE_SECONDS = 5.0
"""How long an awaited task may stay where it is before nobody is taken to serve its queue: some
polls of a worker."""
_WARNING_SECONDS = 60.0
"""The same, before a worker that goes on for ever says so."""


class Standstill(RuntimeError):
    """Nothing can go on: every run waits for a task that no worker takes up."""


def task_uuid(task_id: str) -> UUID:
    """The id of an awaited task, or `ValueError`."""
    try:
        return UUID(str(task_id))
    except ValueError:
        raise ValueError(
            f"task_id {shortened(ascii(task_id), 200)} is no task's id. Give the id that ctx.spawn "
            "has returned, or task_id of what spawn_task of a backend has."
        ) from None


@dataclass(slots=True, eq=False)
class TaskWait:
    """A wait for the outcome of one task."""

    task_id: UUID
    queue: str
    state: State | None = None
    """As it was seen last."""
    since: float = 0.0
    """When that state was seen first, by the event loop's clock."""
    _warned: bool = False

    def _note(self, state: State) -> None:
        now = asyncio.get_running_loop().time()
        if state != self.state:
            self.state, self.since = state, now
        elif state == "pending" and now - self.since > _WARNING_SECONDS and not self._warned:
            self._warned = True
            _log.warning(
                "a run waits for task %s of queue %s, which no worker has taken up for %g s",
                self.task_id,
                self.queue,
                _WARNING_SECONDS,
            )

    async def outcome(
        self,
        read: Callable[[], Awaitable[TaskResult | None]],
        timeout: float | None,
    ) -> TaskResult | None:
        """The task in its final state, None after `timeout` seconds; polls less and less often."""
        clock = asyncio.get_running_loop().time
        deadline = None if timeout is None else clock() + max(timeout, 0.0)
        delay = _POLL_FIRST_SECONDS
        while True:
            task = await read()
            if task is None:
                raise LookupError(f'Task "{self.task_id}" not found on queue "{self.queue}"')
            if task.state in TERMINAL_STATES:
                return task
            self._note(task.state)
            if deadline is not None:
                if clock() >= deadline:
                    return None
                delay = min(delay, deadline - clock())
            await asyncio.sleep(delay)
            delay = min(delay * 2, _POLL_LIMIT_SECONDS)


async def require_progress(
    backend: Backend, runs: Mapping[str, Sequence[ActiveRun]], poll_seconds: float
) -> None:
    """Raise `Standstill` if all of these runs, by queue, wait for tasks that nobody takes up.

    To be asked when these workers find nothing to claim. A task that runs elsewhere is work that
    goes on, and so is a queue in which another worker has a run.
    """
    active = [run for of_queue in runs.values() for run in of_queue]
    now = asyncio.get_running_loop().time()
    limit = now - _PATIENCE_SECONDS - 2 * poll_seconds
    waits: list[tuple[ActiveRun, TaskWait]] = []
    for run in active:
        if run.context.steps_running or not run.context.task_waits:
            return
        waits += ((run, wait) for wait in run.context.task_waits)
    own_tasks = {run.claimed.task_id for run in active}
    for _, wait in waits:
        if wait.state is None or wait.since > limit:
            return
        if wait.state == "running" and wait.task_id not in own_tasks:
            return
    own_runs = {run.claimed.run_id for run in active}
    stuck = [(run, wait) for run, wait in waits if wait.state != "running"]
    for queue in {wait.queue for _, wait in stuck}:
        running = await backend.list_runs(queue, states=["running"])
        if any(each.run_id not in own_runs for each in running):
            return
    if stuck:
        raise Standstill(await _sentence(backend, stuck[0], runs))


async def _sentence(
    backend: Backend, stuck: tuple[ActiveRun, TaskWait], queues: Collection[str]
) -> str:
    run, wait = stuck
    history = await backend.history(wait.queue, wait.task_id)
    name = "" if history is None else f" {history.task.task_name!r}"
    if wait.queue not in queues:
        why = (
            "no worker takes it up. Run one for that queue beside this one: run_workers([...], "
            "until_idle=True), of absurd_contimg.core.worker_group"
        )
    elif wait.state == "pending":
        why = (
            "the tasks that hold its worker's slots wait too. Give that worker more concurrency, "
            "or the tasks that are waited for a queue of their own"
        )
    else:
        why = "it goes on later, or its worker has no handler of that name"
    return (
        f"Nothing can go on: task {run.claimed.task_name!r} ({run.claimed.task_id}) waits for task"
        f"{name} ({wait.task_id}) of queue {wait.queue!r}, which is {wait.state}, and {why}."
    )
