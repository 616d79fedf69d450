"""What an operator can do to tasks, queues, events and groups, each time with a record of who did.

The command line, the API and the dashboard do it through here, so that all do the same and leave
the same record. Works on any backend; without a registry the log alone has the record.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Self
from uuid import UUID

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.forks import Fork, fork_options
from absurd_contimg.core.jsonb_sanitizer import require_name
from absurd_contimg.core.records import (
    LIVE_STATES,
    History,
    Json,
    SpawnedTask,
    SpawnOptions,
    Task,
)
from absurd_contimg.errors import AwayError, InputError, MissingInputError, SettingError
from absurd_contimg.history.timeline import kind_of
from absurd_contimg.operations.services.action_records import (
    ActionRecords,
    Source,
    reopen_group,
)
from absurd_contimg.operations.services.cancellation import cancel
from absurd_contimg.operations.services.quarantine import release, retry_all_failed, retry_failed
from absurd_contimg.operations.services.queue_absence import absent_queue
from absurd_contimg.operations.services.registry_tables import Tables
from absurd_contimg.operations.services.repeated_requests import TaskRequest, require_same_task
from absurd_contimg.operations.services.site_clock import SiteClock
from absurd_contimg.registry import Registry
from absurd_contimg.registry.groups import note_retried
from absurd_contimg.registry.queue_pauses import QueuePause, QueuePauses
from absurd_contimg.workflows.task_versions import headers_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Actions:
    """The actions of one operator.

    Each raises `MissingInputError` for what is not there, `SettingError` for what cannot be done
    now, `InputError` for names that no database holds, and what backend and registry raise.
    """

    backend: Backend
    tables: Tables
    """Of the registry."""
    by: str
    """User and host, or what the token is called."""
    source: Source
    unrecorded: list[str] | None = None
    """See `ActionRecords`."""

    def by_way_of(self, source: Source, by: str) -> Self:
        """The same actions of somebody else."""
        return replace(self, source=source, by=by)

    async def history(self, queue: str, task_id: UUID) -> History:
        """A task, or `MissingInputError`."""
        history = await self.backend.history(queue, task_id)
        if history is None:
            raise MissingInputError(
                f"There is no task {task_id} on queue {queue}.", "contimg status lists them."
            )
        return history

    async def cancel(self, queue: str, task_id: UUID, reason: str = "") -> str:
        """Cancel a task, with its stage tasks; a sentence that says what was done.

        A running stage is ended when its worker renews the lease. One that has ended stays as it
        is.
        """
        async with self.records.recorded("cancel", str(task_id), reason):
            return await cancel(self.backend, await self.history(queue, task_id))

    async def retry(self, queue: str, task_id: UUID, reason: str = "") -> SpawnedTask:
        """Run a failed task again from its last checkpoint, with full budgets."""
        async with (
            self.records.recorded("retry", str(task_id), reason),
            self.backend.operator_lock(),
        ):
            history = await self.history(queue, task_id)
            await self._require_alone(history)
            retried = await retry_failed(self.backend, history)
        await self._note_retried([retried])
        return retried

    async def retry_all_failed(
        self, queue: str, rule: str | None = None, reason: str = ""
    ) -> tuple[list[SpawnedTask], list[str]]:
        """Retry all failed tasks outside quarantine, or those of one rule; also what was refused.

        Recorded once for each task.
        """
        async with self.backend.operator_lock():
            retried, refusals = await retry_all_failed(self.backend, queue, rule)
        tasks = [str(task.task_id) for task in retried]
        await self.records.record_each("retry", tasks, reason, "done")
        await self._note_retried(retried)
        return retried, refusals

    async def _note_retried(self, tasks: Sequence[SpawnedTask]) -> None:
        """Their groups have not failed any more; without the registry their tasks set it."""

        def note() -> None:
            database = self.tables.existing()
            if database is not None and tasks:
                note_retried(database, [str(task.task_id) for task in tasks])

        try:
            await asyncio.to_thread(note)
        except AwayError as error:
            _log.warning("the registry still calls the groups of retried tasks failed: %s", error)

    async def release(
        self, registry: Registry, group_id: str, history: History, reason: str = ""
    ) -> SpawnedTask:
        """Run the task of a group in quarantine again."""
        async with (
            self.records.recorded("release", group_id, reason),
            self.backend.operator_lock(),
        ):
            await self._require_alone(history)
            return await release(self.backend, registry, group_id, history)

    async def fork(
        self,
        queue: str,
        task_id: UUID,
        step: str,
        reason: str = "",
        idempotency_key: str | None = None,
    ) -> SpawnedTask:
        """A new task that begins at a step of one that has ended, with the results before it.

        Products are made again only where their key is another one: other settings, versions or
        inputs, or a product that was moved away. Raises `SettingError` while the task is live, and
        `InputError` if another request has had the key.
        """
        async with (
            self.records.recorded("fork", str(task_id), f"{reason} (at {step})".strip()),
            self.backend.operator_lock(),
        ):
            history = await self.history(queue, task_id)
            _require_ended(history.task)
            await self._require_alone(history)
            options = fork_options(history, step, _checked_key(idempotency_key))
            name, params = history.task.task_name, history.task.params
            request = TaskRequest(queue, name, params, Fork(queue, task_id, step))
            return await self._spawn(request, options)

    async def _require_alone(self, history: History) -> None:
        """Raise `SettingError` while another task processes the same group or window."""
        params = history.task.params
        names = params if isinstance(params, Mapping) else {}
        own = {name: names[name] for name in ("group_id", "window_id") if name in names}
        if own and not kind_of(history.task.task_name):
            queue, name = history.queue_name, history.task.task_name
            for task in await self.backend.list_tasks(
                queue, states=sorted(LIVE_STATES), task_name=name, params=own
            ):
                if task.task_id != history.task.task_id:
                    _require_ended(task)

    async def spawn(
        self,
        queue: str,
        task_name: str,
        params: Json,
        *,
        idempotency_key: str | None = None,
        reason: str = "",
    ) -> SpawnedTask:
        """Spawn a task of the newest version of its workflow, or find the one of that key.

        Raises `InputError` if another request has had the key.
        """
        async with self.records.recorded("spawn", task_name, reason):
            _require_name("task", task_name)
            await self.require_queue(queue)
            options = SpawnOptions(
                headers=headers_of(task_name) or None,
                idempotency_key=_checked_key(idempotency_key),
            )
            return await self._spawn(TaskRequest(queue, task_name, params), options)

    async def _spawn(self, request: TaskRequest, options: SpawnOptions) -> SpawnedTask:
        spawned = await self.backend.spawn_task(
            request.queue, request.task_name, request.params, options
        )
        await require_same_task(self.backend, options.idempotency_key, request, spawned)
        return spawned

    async def emit_event(
        self, queue: str, event_name: str, payload: Json = None, reason: str = ""
    ) -> None:
        """Emit an event; the first payload of a name stays."""
        async with self.records.recorded("emit event", event_name, reason):
            _require_name("event", event_name)
            await self.require_queue(queue)
            await self.backend.emit_event(queue, event_name, payload)

    async def pause_queue(self, queue: str, reason: str) -> QueuePause:
        """Let workers claim nothing more from a queue; what is running goes on."""
        async with self.records.recorded("pause", queue, reason):
            if not reason.strip():
                raise SettingError("A pause needs a reason.", "Say why.")
            await self.require_queue(queue)
            pauses = QueuePauses(await asyncio.to_thread(self.tables.made))
            since = datetime.now(UTC).isoformat(timespec="seconds")
            wanted = QueuePause(queue, reason.strip(), since, self.by)
            (pause,) = await asyncio.to_thread(pauses.pause, wanted)
            if pause != wanted:
                raise SettingError(
                    f"Nothing to do: {pause}.", f"To go on: contimg queue resume {queue}"
                )
            return pause

    async def resume_queue(self, queue: str, reason: str = "") -> QueuePause:
        """Let workers claim from a queue again; the pause that has ended."""
        async with self.records.recorded("resume", queue, reason):
            await self.require_queue(queue)
            database = await asyncio.to_thread(self.tables.existing)
            ended = list[QueuePause]()
            if database is not None:
                ended = await asyncio.to_thread(QueuePauses(database).resume, queue)
            if not ended:
                raise SettingError(
                    f"Queue {queue} is not paused.", "contimg queue list shows the queues."
                )
            return ended[0]

    async def reopen_group(self, group_id: str, reason: str = "") -> int:
        """Collect the files of a closed group again; the new version of its files."""
        clock = SiteClock(self.backend.current_time)
        await clock.read()
        return await reopen_group(self.records, group_id, clock.now(), reason)

    async def require_queue(self, queue: str) -> None:
        """Raise `MissingInputError` if there is no such queue."""
        known = await self.backend.list_queues()
        if queue not in known:
            raise MissingInputError(
                *absent_queue(queue, known, "Correct its name: contimg queue list.")
            )

    @property
    def records(self) -> ActionRecords:
        """Where it is entered what this operator does."""
        return ActionRecords(self.tables, self.by, self.source, unrecorded=self.unrecorded)


def _require_ended(task: Task) -> None:
    if task.state in LIVE_STATES:
        raise SettingError(
            f"Task {task.task_id} is {task.state}: two tasks would do the same work.",
            "Cancel it first, or wait for its end.",
        )


def _checked_key(key: str | None) -> str | None:
    if key is not None:
        _require_name("idempotency key", key)
    return key


def _require_name(kind: str, name: str) -> None:
    try:
        require_name(kind, name)
    except ValueError as error:
        raise InputError(str(error)) from None
