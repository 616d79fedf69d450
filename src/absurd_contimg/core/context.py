"""`TaskContext`: the API of a handler.

It is that of absurd-sdk's asynchronous context, with its types, checkpoint names and JSON, so
that a handler runs on our worker and on the SDK's unchanged. Behind it three things differ: all
checkpoints are read once at the start, waiting is computed from the database's clock, and
``except Exception`` cannot swallow control flow. `TaskContext.spawn` (the SDK spawns through its
application object) and `TaskContext.tracked_step` are ours.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast
from uuid import UUID

from absurd_sdk import StepHandle, TaskResultSnapshot
from absurd_sdk import TimeoutError as EventTimeout

from absurd_contimg.core.errors import RunReleased, RunSuspended
from absurd_contimg.core.failures import StepsChanged
from absurd_contimg.core.records import TERMINAL_STATES, Json, SpawnOptions
from absurd_contimg.core.run_session import RunSession
from absurd_contimg.core.step_journal import StepJournal
from absurd_contimg.core.step_order_check import StepOrderCheck

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

STEPS_CHANGED = "$stepsChanged"
"""The checkpoint that says how the steps of a task differ from those of earlier attempts."""

_POLL_FIRST_SECONDS = 0.05
_POLL_LIMIT_SECONDS = 1.0


class TaskContext:
    """The durable context of one run, for its handler."""

    def __init__(
        self,
        session: RunSession,
        journal: StepJournal,
        stopping: Callable[[], bool],
        *,
        strict_steps: bool = False,
    ) -> None:
        """`stopping` tells whether the worker is about to stop: nothing long begins then."""
        claimed = session.claimed
        self.task_id = str(claimed.task_id)
        self.run_id = claimed.run_id
        self.attempt = claimed.attempt
        """The number of this run among the task's, from 1."""
        self.queue_name = session.queue_name
        self.headers: Mapping[str, Any] = (
            claimed.headers if isinstance(claimed.headers, Mapping) else {}
        )
        self.current_step: str | None = None
        """The step that has begun and is not yet completed."""
        self.fence = session.lease
        """``await ctx.fence()`` extends the lease, and raises if it is lost. Call it just before
        an effect that must not happen twice, such as the renaming of a finished product into
        place. ``ctx.fence.deadline`` is the event loop's time by which all work on the run must
        have stopped unless the lease is extended again."""
        self.journal = journal
        self._session = session
        self._step_order = StepOrderCheck(())
        self._stopping = stopping
        self._strict_steps = strict_steps
        self._calls_by_step: dict[str, int] = {}
        self._wake_event = claimed.wake_event

    async def load(self) -> None:
        """Read the checkpoints, before the handler starts."""
        self._step_order = StepOrderCheck(await self._session.load())

    async def step(self, name: str, fn: Callable[[], Awaitable[_T]]) -> _T:
        """Run `fn` once in a task; later attempts get its saved result."""
        handle = await self.begin_step(name)
        if handle.done:
            return cast(_T, handle.state)
        return await self.complete_step(handle, await fn())

    async def begin_step(self, name: str) -> StepHandle:
        """Take the next checkpoint of this name; `done` tells whether it is saved already."""
        checkpoint_name = self._next_name(name)
        await self._compare(self._step_order.asked(checkpoint_name))
        done = checkpoint_name in self._session.checkpoints
        if not done:
            self.current_step = checkpoint_name
        state = cast(Any, self._session.checkpoints.get(checkpoint_name))
        return StepHandle(name=name, checkpoint_name=checkpoint_name, done=done, state=state)

    async def complete_step(self, handle: StepHandle, value: _T) -> _T:
        """Save the step's result; it must be JSON. Returns the result."""
        if handle.done:
            return cast(_T, handle.state)
        await self._session.save(handle.checkpoint_name, cast(Json, value))
        self.current_step = None
        return value

    async def spawn(
        self,
        task_name: str,
        params: Json,
        *,
        queue: str | None = None,
        options: SpawnOptions | None = None,
    ) -> str:
        """Spawn a child task once; its id, for `await_task_result`.

        The child gets an idempotency key of this task and step if `options` has none, so that a
        death before the checkpoint makes no second child. `queue` defaults to this task's own,
        where `await_task_result` refuses to wait.
        """
        handle = await self.begin_step(f"$spawn:{task_name}")
        if handle.done:
            return cast(str, handle.state)
        chosen = options or SpawnOptions()
        if chosen.idempotency_key is None:
            chosen = replace(chosen, idempotency_key=f"{self.task_id}:{handle.checkpoint_name}")
        backend, where = self._session.backend, queue or self.queue_name
        spawned = await self.fence.retry_until_deadline(
            lambda: backend.spawn_task(where, task_name, params, chosen)
        )
        return await self.complete_step(handle, str(spawned.task_id))

    async def tracked_step(self, name: str, fn: Callable[[int], Awaitable[_T]]) -> _T:
        """A step whose every start is recorded before `fn` runs; for long or dangerous work.

        `fn` gets the number of the start, from 1, for the names of logs and scratch folders.
        Raises `PoisonStep` when earlier starts ended too many workers without a word, and
        `RunReleased` instead of starting when the worker is about to stop.
        """
        handle = await self.begin_step(name)
        if handle.done:
            return cast(_T, handle.state)
        if self._stopping():
            raise RunReleased
        start = await self.journal.begin(handle.checkpoint_name)
        result = await self.complete_step(handle, await fn(start))
        self.journal.completed()
        return result

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """What this start of the tracked step does differently than its first one."""
        return self.journal.fallbacks

    async def sleep_for(self, step_name: str, duration: float) -> None:
        """Suspend for `duration` seconds, counted from the first time this is reached."""
        now = await self._session.now()
        await self._sleep_until(step_name, now + timedelta(seconds=duration), now)

    async def sleep_until(self, step_name: str, wake_at: datetime | int | float) -> None:
        """Suspend until a time, given as an aware datetime or in seconds of the Unix epoch."""
        if isinstance(wake_at, int | float):
            wake_at = datetime.fromtimestamp(wake_at, UTC)
        await self._sleep_until(step_name, wake_at, await self._session.now())

    async def _sleep_until(self, step_name: str, wake_at: datetime, now: datetime) -> None:
        checkpoint_name = self._next_name(step_name)
        await self._compare(self._step_order.asked(checkpoint_name))
        saved = self._session.checkpoints.get(checkpoint_name)
        if isinstance(saved, str):
            wake_at = datetime.fromisoformat(saved)
        else:
            await self._session.save(checkpoint_name, wake_at.isoformat())
        if wake_at > now:
            backend = self._session.backend
            await self._session.suspending(
                lambda: backend.schedule_run(self.queue_name, self.run_id, wake_at)
            )
            raise RunSuspended(f"until {wake_at.isoformat()}")

    async def await_event(
        self, event_name: str, step_name: str | None = None, timeout: int | None = None
    ) -> Any:
        """The event's payload; suspends until it is emitted.

        Raises absurd-sdk's `TimeoutError` after `timeout` seconds without it.
        """
        checkpoint_name = self._next_name(step_name or f"$awaitEvent:{event_name}")
        if checkpoint_name in self._session.checkpoints:
            return self._session.checkpoints[checkpoint_name]
        if self._wake_event == event_name and self._session.claimed.event_payload is None:
            self._wake_event = None
            raise EventTimeout(f'Timed out waiting for event "{event_name}"')
        claim = (self.queue_name, self._session.claimed.task_id, self.run_id)
        answer = await self._session.suspending(
            lambda: self._session.backend.await_event(*claim, checkpoint_name, event_name, timeout)
        )
        if answer.should_suspend:
            raise RunSuspended(f"until event {event_name}")
        self._session.checkpoints[checkpoint_name] = answer.payload
        return answer.payload

    async def await_task_result(
        self,
        task_id: str,
        queue_name: str | None = None,
        timeout: float | None = None,
        step_name: str | None = None,
    ) -> TaskResultSnapshot:
        """Wait, in this slot, until a task on another queue has ended; its outcome.

        Raises `ValueError` for a task on this queue, where workers could all wait for each other,
        and absurd-sdk's `TimeoutError` after `timeout` seconds.
        """
        queue = queue_name or self.queue_name
        if queue == self.queue_name:
            raise ValueError(
                f"task {task_id} is on this task's own queue {queue!r}: waiting for it there can "
                "block every worker. Spawn it on another queue and pass queue_name."
            )
        name = step_name or f"$awaitTaskResult:{task_id}"
        saved = await self.step(name, lambda: self._poll_result(queue, task_id, timeout))
        return TaskResultSnapshot(**cast(dict[str, Any], saved))

    async def _poll_result(
        self, queue: str, task_id: str, timeout: float | None
    ) -> dict[str, Json]:
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + max(timeout, 0.0)
        delay = _POLL_FIRST_SECONDS
        backend, child = self._session.backend, UUID(task_id)
        while True:
            outcome = await self.fence.retry_until_deadline(
                lambda: backend.get_task_result(queue, child)
            )
            if outcome is None:
                raise LookupError(f'Task "{task_id}" not found on queue "{queue}"')
            if outcome.state in TERMINAL_STATES:
                snapshot: dict[str, Json] = {"state": outcome.state}
                if outcome.state == "completed":
                    snapshot["result"] = outcome.result
                elif outcome.state == "failed":
                    snapshot["failure"] = outcome.failure_reason
                return snapshot
            if deadline is not None:
                if loop.time() >= deadline:
                    raise EventTimeout(f'Timed out waiting for task "{task_id}"')
                delay = min(delay, deadline - loop.time())
            await asyncio.sleep(delay)
            delay = min(delay * 2, _POLL_LIMIT_SECONDS)

    async def emit_event(self, event_name: str, payload: Json = None) -> None:
        """Emit an event on this task's queue; the first payload of a name stays."""
        if not event_name:
            raise ValueError("event_name must be a non-empty string")
        await self.fence.retry_until_deadline(
            lambda: self._session.backend.emit_event(self.queue_name, event_name, payload)
        )

    async def heartbeat(self, seconds: int | None = None) -> None:
        """Extend the lease, as the worker does by itself; this also notices a cancelled task."""
        seconds = self.fence.seconds if seconds is None else seconds
        await self._session.backend.extend_claim(self.queue_name, self.run_id, seconds)

    async def handler_ended(self) -> None:
        """Compare the steps with those of earlier attempts once the handler has returned."""
        await self._compare(self._step_order.ended())

    async def _compare(self, difference: str | None) -> None:
        """Report a difference between the steps of this attempt and of earlier ones."""
        if difference is None:
            return
        text = f"The steps of task {self.task_id} have changed between attempts: {difference}."
        if self._strict_steps:
            raise StepsChanged(text)
        _log.warning("%s", text)
        report = {"difference": difference, "run_id": str(self.run_id)}
        await self._session.save(STEPS_CHANGED, report)

    def _next_name(self, name: str) -> str:
        count = self._calls_by_step.get(name, 0) + 1
        self._calls_by_step[name] = count
        return name if count == 1 else f"{name}#{count}"
