"""The lease of a run: extended while its handler works, with a deadline for when it cannot be.

Self-fencing: if the claim cannot be extended, the handler is stopped a margin *before* the lease
ends, so that no other worker starts the run while this one still works on it. Times count from
the sending of an extension, by the event loop's clock: never later than the database counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar
from uuid import UUID

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.errors import (
    BackendError,
    BackendUnavailable,
    LeaseLost,
    RunAlreadyFailed,
    TaskCancelled,
)

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_EXTENSIONS_PER_LEASE = 3
"""Two extensions in a row may fail without harm."""
_MARGIN_SHARE = 1 / 6
"""The share of the lease between the deadline and its end: time to stop the handler."""
_RETRY_SECONDS = 0.25


class Lease:
    """One run's claim."""

    def __init__(
        self, backend: Backend, queue_name: str, run_id: UUID, seconds: int, claimed_at: float
    ) -> None:
        self._backend = backend
        self._queue_name = queue_name
        self._run_id = run_id
        self.seconds = seconds
        self._ends_at = claimed_at + seconds

    @property
    def deadline(self) -> float:
        """The event loop's time by which all work on the run must have stopped."""
        return self._ends_at - self.seconds * _MARGIN_SHARE

    async def __call__(self) -> None:
        """The same as `extend`: a lease is the fence that the runner of a stage calls."""
        await self.extend()

    def renewed(self, sent_at: float) -> None:
        """Note that a call sent at `sent_at` has extended the claim by its full length."""
        self._ends_at = max(self._ends_at, sent_at + self.seconds)

    async def extend(self) -> None:
        """Extend the claim now; raise `LeaseLost`, `TaskCancelled` or `RunAlreadyFailed`.

        Repeated until the deadline while the database does not answer, then `LeaseLost`.
        """

        async def extend() -> None:
            sent_at = asyncio.get_running_loop().time()
            await self._backend.extend_claim(self._queue_name, self._run_id, self.seconds)
            self.renewed(sent_at)

        try:
            await self.retry_until_deadline(extend)
        except BackendUnavailable as error:
            raise LeaseLost(
                f"run {self._run_id}: the database was unreachable until shortly before the "
                f"lease ended: {error}"
            ) from error
        except BackendError as error:
            # "not currently running": swept and claimed again, released, or completed
            raise LeaseLost(f"run {self._run_id}: the claim is gone: {error}") from error

    async def retry_until_deadline(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Repeat a call while the database is unreachable.

        The call must be safe to repeat: it may have taken effect although it raised. Raises
        `BackendUnavailable` at the deadline.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout_at(self.deadline) as timeout:
                    return await call()
            except TimeoutError as error:
                if timeout.expired() and loop.time() < self.deadline:
                    continue  # the claim was extended while we waited
                raise BackendUnavailable("no answer before the end of the lease") from error
            except BackendUnavailable:
                if loop.time() + _RETRY_SECONDS >= self.deadline:
                    raise
                await asyncio.sleep(_RETRY_SECONDS)

    async def heartbeat_loop(self) -> None:
        """Extend the claim a third of its length after the last extension; ends only by raising.

        A worker that was stopped in between finds out at once that its lease is over.
        """
        clock = asyncio.get_running_loop().time
        while True:
            due = self._ends_at - self.seconds * (1 - 1 / _EXTENSIONS_PER_LEASE)
            if (wait := due - clock()) > 0:
                await asyncio.sleep(wait)  # a checkpoint may extend the claim in the meantime
            else:
                await self.extend()


async def while_leased(lease: Lease, work: asyncio.Task[_T]) -> _T:
    """The result of the work, done under its lease; if the lease is lost, stop it and raise.

    On return or raise the work has ended: a cancelled task is also waited for.
    """
    heartbeat = asyncio.create_task(lease.heartbeat_loop(), name="heartbeat")
    try:
        await asyncio.wait({work, heartbeat}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        await _end(work)
        await heartbeat  # raises what ended it
        raise AssertionError("the heartbeat loop ends only by raising")
    except (LeaseLost, TaskCancelled, RunAlreadyFailed) as reason:
        _log.warning("%s: %s", type(reason).__name__, reason)
        raise
    finally:
        await _end(heartbeat)
        await _end(work)


async def _end(task: asyncio.Task[_T]) -> None:
    """Cancel a task and wait until it has ended, whatever it ends with."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # retrieved: the outcome was handled, or no longer matters
