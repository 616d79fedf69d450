"""`TaskContext`: the API of a handler.

It is that of absurd-sdk's asynchronous context, with its types, checkpoint names and JSON, so
that a handler runs on our worker and on the SDK's unchanged. Behind it three things differ: all
checkpoints are read once at the start, waiting is computed from the database's clock, and
``except Exception`` cannot swallow control flow. `TaskContext.spawn` (the SDK spawns through its
application object), `TaskContext.tracked_step` and `TaskContext.task_result` are ours.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar, cast

from absurd_sdk import StepHandle, TaskResultSnapshot
from absurd_sdk import TimeoutError as EventTimeout

from absurd_contimg.core.errors import QueueNotFound, RunReleased, UnknownQueue
from absurd_contimg.core.evidence import chain_of
from absurd_contimg.core.failures import StepsChanged, SuspensionSwallowed
from absurd_contimg.core.foreign_objects import require_awaitable
from absurd_contimg.core.forks import load_steps
from absurd_contimg.core.jsonb_sanitizer import require_name, shortened
from absurd_contimg.core.records import Json, SpawnOptions, TaskResult
from absurd_contimg.core.row_values import require_readable
from absurd_contimg.core.run_session import RunSession
from absurd_contimg.core.step_journal import StepJournal
from absurd_contimg.core.step_names import (
    EVENT_PREFIX,
    RESULT_PREFIX,
    SPAWN_PREFIX,
    TIMEOUT_PREFIX,
    require_step_name,
)
from absurd_contimg.core.step_order_check import STEPS_CHANGED, StepOrderCheck
from absurd_contimg.core.task_waits import TaskWait, task_uuid
from absurd_contimg.core.wake_times import (
    SECONDS_MAX,
    TIME_FORMS,
    extension_seconds,
    no_time_error,
    saved_time,
)

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_FAILURES_KEPT = 100
_in_step: ContextVar[bool] = ContextVar("in_step", default=False)
"""Steps that run at the same time are asyncio tasks, each of which has its own value."""
_step_function: ContextVar[tuple[TaskContext, str] | None] = ContextVar("function", default=None)
"""The step whose function runs here, and whose: a step of one task may run another one's."""


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
        self.headers = cast(Mapping[str, Any], claimed.headers or {})
        self.current_step: str | None = None
        """The step that has begun last and is not yet completed."""
        self._failures: deque[tuple[Exception, str]] = deque(maxlen=_FAILURES_KEPT)
        """What the functions of steps have raised, each with its step."""
        self.steps_running = 0
        """How many functions of steps run now."""
        self.task_waits: list[TaskWait] = []
        """The tasks whose outcome is awaited now."""
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
        self._taken_names: set[str] = set()
        self._timed_out_event = claimed.wake_event if claimed.event_payload is None else None
        """The event whose wait has ended without it just before this claim."""

    async def load(self) -> None:
        """Read the checkpoints, before the handler starts."""
        self._step_order = StepOrderCheck(await load_steps(self._session))

    async def step(self, name: str, fn: Callable[[], Awaitable[_T]]) -> _T:
        """Run `fn` once in a task; later attempts get its saved result."""
        handle = await self.begin_step(name)
        if handle.done:
            return cast(_T, handle.state)
        return await self.complete_step(handle, await self._counted(handle, fn()))

    @property
    def in_step(self) -> bool:
        """Whether who asks runs inside of a step."""
        return _in_step.get()

    def step_of(self, error: BaseException) -> str | None:
        """The step that has raised this or what led to it, else `current_step`: the last one."""
        steps = {id(raised): step for raised, step in self._failures}
        failed = (steps[id(link)] for link in chain_of(error) if id(link) in steps)
        return next(failed, self.current_step)

    async def _counted(self, handle: StepHandle, work: Awaitable[_T]) -> _T:
        self.steps_running += 1
        outer = _step_function.get()
        _step_function.set((self, handle.name))
        try:
            require_awaitable(work, f"the function of step {handle.name!r}")
            return await work
        except Exception as error:
            self._failures.append((error, handle.checkpoint_name))
            raise
        finally:
            self.steps_running -= 1
            _in_step.set(False)
            _step_function.set(outer)

    async def begin_step(self, name: str) -> StepHandle:
        """Take the next checkpoint of this name; `done` tells whether it is saved already."""
        require_step_name(name)
        handle = await self._begin(name)
        if not handle.done:
            _in_step.set(True)
        return handle

    async def _begin(self, name: str) -> StepHandle:
        checkpoint_name = await self._ask(name)
        done = checkpoint_name in self._session.checkpoints
        if not done:
            self.current_step = checkpoint_name
        state = cast(Any, self._session.saved(checkpoint_name))
        return StepHandle(name=name, checkpoint_name=checkpoint_name, done=done, state=state)

    async def complete_step(self, handle: StepHandle, value: _T) -> _T:
        """Save the step's result; it must be JSON. Returns the result."""
        if handle.done:
            return cast(_T, handle.state)
        await self._session.save(handle.checkpoint_name, cast(Json, value))
        if self.current_step == handle.checkpoint_name:  # no other one has begun or failed since
            self.current_step = None
        _in_step.set(False)
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
        require_name("task", task_name)
        chosen = options or SpawnOptions()
        if chosen.idempotency_key is not None:
            require_name("idempotency key", chosen.idempotency_key)
        handle = await self._begin(f"{SPAWN_PREFIX}{task_name}")
        if handle.done:
            return cast(str, handle.state)
        if chosen.idempotency_key is None:
            chosen = replace(chosen, idempotency_key=f"{self.task_id}:{handle.checkpoint_name}")
        backend, where = self._session.backend, queue or self.queue_name
        spawned = await self._in_queue(
            where, lambda: backend.spawn_task(where, task_name, params, chosen)
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
        result = await self.complete_step(handle, await self._counted(handle, fn(start)))
        self.journal.completed()
        return result

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """What this start of the tracked step does differently than its first one."""
        return self.journal.fallbacks

    async def sleep_for(self, step_name: str, duration: float) -> None:
        """Suspend for `duration` seconds, counted from the first time this is reached."""
        now = await self._session.now()
        try:
            wake_at = now + timedelta(seconds=duration)
        except (TypeError, ValueError, OverflowError):
            raise no_time_error(step_name, duration, "a number of seconds") from None
        await self._sleep_until(step_name, wake_at, now)

    async def sleep_until(self, step_name: str, wake_at: datetime | int | float) -> None:
        """Suspend until a time, given as an aware datetime or in seconds of the Unix epoch."""
        if isinstance(wake_at, int | float):
            try:
                wake_at = datetime.fromtimestamp(wake_at, UTC)
            except (ValueError, OverflowError, OSError):
                raise no_time_error(step_name, wake_at, TIME_FORMS) from None
        await self._sleep_until(step_name, wake_at, await self._session.now())

    async def _sleep_until(self, step_name: str, wake_at: datetime, now: datetime) -> None:
        if not isinstance(wake_at, datetime) or wake_at.utcoffset() is None:
            raise no_time_error(step_name, wake_at, TIME_FORMS)
        require_step_name(step_name)
        checkpoint_name = await self._ask(step_name)
        saved = self._session.saved(checkpoint_name)
        if isinstance(saved, str):
            wake_at = saved_time(checkpoint_name, saved)
        else:
            self._require_outside_steps(f"sleep {step_name!r}")
            await self._session.save(checkpoint_name, wake_at.isoformat())
        if wake_at > now:
            backend = self._session.backend
            await self._session.suspending(
                lambda: backend.schedule_run(self.queue_name, self.run_id, wake_at)
            )
            self._session.suspend(f"until {wake_at.isoformat()}")

    async def await_event(
        self, event_name: str, step_name: str | None = None, timeout: int | None = None
    ) -> Any:
        """The event's payload; suspends until it is emitted.

        Raises absurd-sdk's `TimeoutError` after `timeout` seconds without it, a whole number; it
        does so again in every later attempt, whether or not the event has come since.
        """
        require_name("event", event_name)
        if timeout is not None and (
            not isinstance(timeout, int)
            or isinstance(timeout, bool)
            or not 0 <= timeout <= SECONDS_MAX
        ):
            raise ValueError(
                f"event {event_name!r}: timeout {timeout!r} is no whole number of seconds "
                f"from 0 to {SECONDS_MAX}. Give one, or None to wait without end."
            )
        if step_name:
            require_step_name(step_name)
        checkpoint_name = await self._ask(step_name or f"{EVENT_PREFIX}{event_name}")
        checkpoints = self._session.checkpoints
        if checkpoint_name in checkpoints:
            return self._session.saved(checkpoint_name)
        late = EventTimeout(f'Timed out waiting for event "{event_name}"')
        if TIMEOUT_PREFIX + checkpoint_name in checkpoints:
            raise late
        if self._timed_out_event == event_name:
            self._timed_out_event = None
            await self._save_timeout(checkpoint_name, timeout)
            raise late
        self._require_outside_steps(f"wait for event {event_name!r}")
        checkpoints[checkpoint_name] = await self._payload(checkpoint_name, event_name, timeout)
        return self._session.saved(checkpoint_name)

    async def _payload(self, checkpoint_name: str, event_name: str, timeout: int | None) -> Any:
        """Absurd's answer to a wait that is not decided yet.

        Once after the wait of an earlier step for the same event has timed out, Absurd answers
        null, as for an event with the payload null; only the latter has a checkpoint.
        """
        session = self._session
        wait = (self.queue_name, session.claimed.task_id, self.run_id, checkpoint_name)
        for _ in range(2):
            answer = await session.suspending(
                lambda: session.backend.await_event(*wait, event_name, timeout)
            )
            if answer.should_suspend:
                session.suspend(f"until event {event_name}")
            if answer.payload is not None or await session.has_checkpoint(checkpoint_name):
                break
        return answer.payload

    async def _save_timeout(self, checkpoint_name: str, timeout: float | None) -> None:
        """Keep the outcome of a wait, for the later attempts."""
        await self._session.save(TIMEOUT_PREFIX + checkpoint_name, {"timeout_seconds": timeout})

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
        task_uuid(task_id)
        queue = queue_name or self.queue_name
        if queue == self.queue_name:
            raise ValueError(
                f"task {task_id} is on this task's own queue {queue!r}: waiting for it there can "
                "block every worker. Spawn it on another queue and pass queue_name."
            )
        if step_name:
            require_step_name(step_name)
        handle = await self._begin(step_name or f"{RESULT_PREFIX}{task_id}")
        saved = cast(dict[str, Any], handle.state)
        if not handle.done:
            saved = await self._task_outcome(handle.checkpoint_name, queue, task_id, timeout)
            await self.complete_step(handle, saved)
        return TaskResultSnapshot(**saved)

    async def _task_outcome(
        self, checkpoint_name: str, queue: str, task_id: str, timeout: float | None
    ) -> dict[str, Any]:
        late = EventTimeout(f'Timed out waiting for task "{task_id}"')
        if TIMEOUT_PREFIX + checkpoint_name in self._session.checkpoints:
            raise late
        wait = TaskWait(task_uuid(task_id), queue)
        self.task_waits.append(wait)
        try:
            outcome = await wait.outcome(lambda: self.task_result(task_id, queue), timeout)
        finally:
            self.task_waits.remove(wait)
        if outcome is None:
            await self._save_timeout(checkpoint_name, timeout)
            raise late
        snapshot: dict[str, Any] = {"state": outcome.state}
        owner = f"the outcome of task {task_id}"
        if outcome.state == "completed":
            snapshot["result"] = require_readable(outcome.result, owner)
        elif outcome.state == "failed":
            snapshot["failure"] = require_readable(outcome.failure_reason, owner)
        return snapshot

    async def task_result(self, task_id: str, queue_name: str) -> TaskResult | None:
        """The state and outcome of a task now, None if there is none; leaves no checkpoint."""
        ask = partial(self._session.backend.get_task_result, queue_name, task_uuid(task_id))
        return await self._in_queue(queue_name, ask)

    async def _in_queue(self, queue: str, call: Callable[[], Awaitable[_T]]) -> _T:
        """Repeat a call about a queue under the lease, unless there is no such queue."""

        async def attempt() -> _T:
            try:
                return await call()
            except QueueNotFound as error:
                backend = self._session.backend
                if queue == self.queue_name or queue in await backend.list_queues():
                    raise
                raise UnknownQueue(queue) from error

        return await self.fence.retry_until_deadline(attempt)

    async def emit_event(
        self, event_name: str, payload: Json = None, queue_name: str | None = None
    ) -> None:
        """Emit an event, by default on this task's queue; the first payload of a name stays."""
        require_name("event", event_name)
        queue, emit = queue_name or self.queue_name, self._session.backend.emit_event
        await self._in_queue(queue, partial(emit, queue, event_name, payload))

    async def heartbeat(self, seconds: float | None = None) -> None:
        """Extend the lease to end `seconds` from now or later, as the worker does by itself.

        For a handler that is about to block the event loop; this also notices a cancelled task.
        """
        await self.fence.extend(0 if seconds is None else extension_seconds(seconds))

    async def handler_ended(self) -> None:
        """Once the handler has returned: compare the steps with those of earlier attempts.

        Raises `SuspensionSwallowed` if it has returned although its run sleeps or waits.
        """
        self._require_awake()
        await self._compare(self._step_order.ended())

    def _require_awake(self, act: str = "went on") -> None:
        if self._session.suspended is not None:
            raise SuspensionSwallowed(
                f"The handler of task {self.task_id} {act} although its run is suspended "
                f"{self._session.suspended}: it caught what ends it, or awaited in `finally`."
            )

    def _require_outside_steps(self, wait: str) -> None:
        """Refuse a wait after which a step's function would begin again from its start."""
        step = _step_function.get()
        if step is not None and step[0] is self:
            raise ValueError(
                f"the {wait} is inside the function of step {step[1]!r}, which would run again "
                "from its start after it. Let the handler await it itself, between its steps."
            )

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

    async def _ask(self, name: str) -> str:
        """The checkpoint of the next step or wait of this name, which is asked for now."""
        require_name("step", name)
        self._require_awake(f"asked for {shortened(ascii(name), 200)}")
        checkpoint_name = self._next_name(name)
        await self._compare(await self._step_order.asked(checkpoint_name))
        return checkpoint_name

    def _next_name(self, name: str) -> str:
        count = self._calls_by_step.get(name, 0) + 1
        self._calls_by_step[name] = count
        checkpoint_name = name if count == 1 else f"{name}#{count}"
        if checkpoint_name in self._taken_names:
            raise ValueError(
                f"step name {shortened(ascii(name), 200)}, used for the {count}. time, stands for "
                f"the checkpoint {shortened(ascii(checkpoint_name), 200)}, which another step of "
                "this task has: a repeated step appends # and its number. Use another name."
            )
        self._taken_names.add(checkpoint_name)
        return checkpoint_name
