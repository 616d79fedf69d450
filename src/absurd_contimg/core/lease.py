"""The lease of a run: extended while its handler works, with a deadline for when it cannot be.

Self-fencing: if the claim cannot be extended, the handler is stopped a margin *before* the lease
ends, so that no other worker starts the run while this one still works on it. Times count from
the sending of an extension, by the event loop's clock: never later than the database counts.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.call_bounds import wait_under
from absurd_contimg.core.errors import (
    BackendError,
    BackendUnavailable,
    LeaseLost,
    RunAlreadyFailed,
    RunReleased,
    TaskCancelled,
)
from absurd_contimg.core.refusals import Refusal, meaning_of

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_EXTENSIONS_PER_LEASE = 3
"""Two extensions in a row may fail without harm."""
_MARGIN_SHARE = 1 / 6
"""The share of the lease between the deadline and its end: time to stop the handler."""
_ATTEMPT_SHARE = 1 / 3
"""The share of the lease that a call may take at first, before a new connection is tried; each
repetition may take twice as long, up to the whole rest of the lease."""
_RETRY_SECONDS = 0.25
_REFUSALS_SECONDS = {Refusal.PASSING: 600.0, Refusal.FOREIGN: 60.0}
"""How long a call is repeated that a database refuses while it extends the claim: a failover or a
full disk takes minutes; a rule that is not Absurd's goes with the change that brought it, or stays.
"""
_END_SECONDS = 30.0
"""How long a handler may take to end once it is cancelled."""


@dataclass(frozen=True, slots=True)
class RunControl:
    """How soon a run learns that its task was cancelled, or that it has to end."""

    seconds: float = math.inf
    """Between two extensions of the claim, which tell it; a third of the lease if that is less."""
    may_run: Callable[[], Awaitable[bool]] | None = None
    """Asked as often; when it answers False, the run goes back to the queue at once."""


class Lease:
    """One run's claim."""

    def __init__(
        self,
        backend: Backend,
        queue_name: str,
        run_id: UUID,
        seconds: int,
        claimed_at: float,
        control: RunControl | None = None,
    ) -> None:
        self._backend = backend
        self._queue_name = queue_name
        self._run_id = run_id
        self.seconds = seconds
        self._control = control or RunControl()
        self.attempt_seconds = seconds * _ATTEMPT_SHARE
        self._ends_at = claimed_at + seconds
        self._extensions = 0
        self._unanswered = 0
        self.has_work = True
        """False once nothing works on the run any more: the margin is for noting its end."""
        self.abandoned = False
        """The handler did not end when it was cancelled: nothing of it counts any more."""

    @property
    def deadline(self) -> float:
        """The event loop's time by which all work on the run must have stopped."""
        margin = self.seconds * _MARGIN_SHARE if self.has_work else 0.0
        return -math.inf if self.abandoned else self._ends_at - margin

    async def __call__(self) -> None:
        """The same as `extend`: a lease is the fence that the runner of a stage calls."""
        await self.extend()

    def renewed(self, sent_at: float, seconds: int | None = None) -> None:
        """Note that a call sent at `sent_at` has extended the claim, by default by its length."""
        self._ends_at = max(self._ends_at, sent_at + (seconds or self.seconds))

    async def extending(self, call: Callable[[int], Awaitable[None]], seconds: int = 0) -> None:
        """Make a call that extends the claim by the number of seconds that it is given.

        At least by `seconds` and by the full length; never to an earlier end, which would leave
        the deadline too late. Of calls that overlap, the database may take the longer one first:
        then only the full length is certain.
        """
        sent_at = asyncio.get_running_loop().time()
        length, left = self.seconds, self._ends_at - sent_at
        if left > length or seconds > length:
            length = math.ceil(max(left, seconds))
        self._extensions += 1
        number, overlaps = self._extensions, self._unanswered > 0
        self._unanswered += 1  # and stays so without an answer: it may be carried out later
        try:
            await call(length)
        except (BackendUnavailable, asyncio.CancelledError):
            raise
        except BaseException:
            self._unanswered -= 1
            raise
        self._unanswered -= 1
        is_certain = not overlaps and number == self._extensions
        self.renewed(sent_at, length if is_certain else self.seconds)

    async def extend(self, seconds: int = 0) -> None:
        """Extend the claim now, by `seconds` if that is more than its length.

        Repeated until the deadline, whatever the database says or does not say, except that the
        run is not ours: raises `LeaseLost`, `TaskCancelled` or `RunAlreadyFailed`.
        """

        async def extend(length: int) -> None:
            await self._backend.extend_claim(self._queue_name, self._run_id, length)

        await self._repeat(lambda: self.extending(extend, seconds), until_lost=True)

    async def retry_until_deadline(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Repeat a call while it is not answered, or refused for a reason that may pass.

        The call must be safe to repeat: it may have taken effect although it raised. Raises
        `LeaseLost` at the deadline, and every other refusal.
        """
        return await self._repeat(call, until_lost=False)

    async def _repeat(self, call: Callable[[], Awaitable[_T]], *, until_lost: bool) -> _T:
        clock = asyncio.get_running_loop().time
        begun = clock()
        refused_since: float | None = None
        problem: Exception | None = None
        bound = self.attempt_seconds
        while (now := clock()) < (deadline := self.deadline):
            attempt = asyncio.timeout_at(min(deadline, now + bound))
            try:
                answer = await wait_under(attempt, call)
            except TimeoutError as error:
                if not attempt.expired():
                    raise
                if problem is None:
                    self._log_repetition("the database does not answer")
                problem = error
                bound *= 2  # what is cut for its size would be cut again
            except BackendError as error:
                is_refused = refused_since is None and not isinstance(error, BackendUnavailable)
                if problem is None or is_refused:
                    self._log_repetition(error)
                if is_refused:
                    refused_since = now
                meaning = meaning_of(error)
                if until_lost and meaning is Refusal.NOT_OURS:
                    # "not currently running": swept and claimed again, released, or completed
                    raise LeaseLost(f"run {self._run_id}: the claim is gone: {error}") from error
                refused = 0.0 if refused_since is None else now - refused_since
                is_patient = meaning.may_pass and refused < _REFUSALS_SECONDS[meaning]
                if not until_lost and not is_patient:
                    raise
                problem = error
                await asyncio.sleep(min(_RETRY_SECONDS, max(self.deadline - clock(), 0.0)))
            else:
                if problem is not None:
                    _log.info(
                        "run %s: the database took it after %.0f s", self._run_id, clock() - begun
                    )
                return answer
        lost = LeaseLost(self._reason(problem))
        lost.stalled = problem is None and not self.abandoned
        if isinstance(problem, BackendError) and meaning_of(problem) is not Refusal.PASSING:
            lost.refusal = problem
        raise lost from problem

    def _log_repetition(self, problem: object) -> None:
        _log.warning("run %s: %s; repeated under the lease", self._run_id, problem)

    def _reason(self, problem: Exception | None) -> str:
        """Why the lease ended by our own clock."""
        if self.abandoned:
            return f"run {self._run_id}: its handler did not end when it was cancelled"
        late = asyncio.get_running_loop().time() - self.deadline
        if problem is None:
            return (
                f"run {self._run_id}: when the lease was to be extended, its time was over by "
                f"{late:.1f} s: a handler blocked the event loop, or the process was stopped"
            )
        answer = "it did not answer" if isinstance(problem, TimeoutError) else problem
        return (
            f"run {self._run_id}: the database did not extend the claim until shortly before the "
            f"lease ended: {answer}"
        )

    async def heartbeat_loop(self) -> None:
        """Extend the claim a third of its length after the last extension, or as `RunControl` says;
        ends only by raising, `RunReleased` if the run may not go on.

        A worker that was stopped in between finds out at once that its lease is over.
        """
        clock = asyncio.get_running_loop().time
        while True:
            due = self._ends_at - self.seconds * (1 - 1 / _EXTENSIONS_PER_LEASE)
            wait, control_seconds = due - clock(), self._control.seconds
            if wait > 0:
                await asyncio.sleep(min(wait, control_seconds))
            if wait <= 0 or control_seconds < wait:  # else a checkpoint may have extended the claim
                await self._extend_if_permitted()

    async def _extend_if_permitted(self) -> None:
        """Extend the claim, and raise `RunReleased` if the run may not go on.

        A database that does not answer delays no stop.
        """
        if self._control.may_run is None:
            await self.extend()
            return
        extension = asyncio.ensure_future(self.extend())
        try:
            while not (await asyncio.wait({extension}, timeout=self._control.seconds))[0]:
                await self._require_permission()
            await extension
        finally:
            extension.cancel()
            await asyncio.wait({extension})
        await self._require_permission()

    async def _require_permission(self) -> None:
        """Raise `RunReleased` if the run may not go on; no answer in time is no refusal."""
        may_run = self._control.may_run
        if may_run is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self.attempt_seconds):
                if not await may_run():
                    raise RunReleased(f"run {self._run_id} has to end now")


async def while_leased(lease: Lease, work: asyncio.Task[_T]) -> _T:
    """The result of the work, done under its lease; if the lease is lost, stop it and raise.

    On return or raise the work has ended: a cancelled task is also waited for. If it does not
    end, `Lease.abandoned` is set.
    """
    heartbeat = asyncio.create_task(lease.heartbeat_loop(), name="heartbeat")
    try:
        await asyncio.wait({work, heartbeat}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        await _end(work, lease)
        await heartbeat  # raises what ended it
        raise AssertionError("the heartbeat loop ends only by raising")
    except (LeaseLost, TaskCancelled, RunAlreadyFailed) as reason:
        _log.warning("%s: %s", type(reason).__name__, reason)
        raise
    finally:
        await _end(heartbeat, lease)
        await _end(work, lease)


async def _end(task: asyncio.Task[_T], lease: Lease) -> None:
    """Cancel a task and wait until it has ended, whatever it ends with."""
    if lease.abandoned:
        return
    task.cancel()
    _, pending = await asyncio.wait({task}, timeout=_END_SECONDS)
    if pending:
        lease.abandoned = True
        _log.error("%s ignores its cancellation: left behind, what it still does is refused", task)
    elif not task.cancelled():
        task.exception()  # retrieved: the outcome was handled, or no longer matters
