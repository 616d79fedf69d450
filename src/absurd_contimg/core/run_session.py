"""`RunSession`: the checkpoints of one claimed run, and its calls under its lease.

Calls are repeated while the lease holds, if the database is away or refuses them for a reason that
may pass. A call that took effect although its reply was lost is recognised by what it left, and not
made twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import NoReturn, TypeVar, cast

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.errors import (
    BackendError,
    BackendUnavailable,
    CheckpointRefused,
    LeaseLost,
    RunSuspended,
    ValueRefused,
)
from absurd_contimg.core.lease import Lease
from absurd_contimg.core.records import Checkpoint, ClaimedTask, Json, State
from absurd_contimg.core.refusals import Refusal, meaning_of
from absurd_contimg.core.row_values import require_readable

_T = TypeVar("_T")


class RunSession:
    """The worker's side of one run."""

    def __init__(
        self, backend: Backend, queue_name: str, claimed: ClaimedTask, lease: Lease
    ) -> None:
        self.backend = backend
        self.queue_name = queue_name
        self.claimed = claimed
        self.lease = lease
        self.checkpoints: dict[str, Json] = {}
        """The state of every checkpoint that the run may see, by name."""
        self.suspended: str | None = None
        """Until when, once the run sleeps or waits: the handler must end here."""

    async def load(self) -> list[Checkpoint]:
        """Read all checkpoints, once at the start of the run.

        Whatever a database refuses here blames no task: then the run is lost, and tried again.
        """
        try:
            saved = await self.lease.retry_until_deadline(
                lambda: self.backend.get_task_checkpoint_states(
                    self.queue_name, self.claimed.task_id, self.claimed.run_id
                )
            )
        except LeaseLost as lost:
            lost.refusal = None
            raise
        except BackendError as error:
            if not meaning_of(error).may_pass:
                raise
            raise LeaseLost(f"run {self.claimed.run_id}: {error}") from error
        self.checkpoints = {checkpoint.checkpoint_name: checkpoint.state for checkpoint in saved}
        return saved

    def saved(self, checkpoint_name: str) -> Json:
        """The state of a checkpoint, None if there is none; `UnreadableValueError`."""
        state = self.checkpoints.get(checkpoint_name)
        return cast(Json, require_readable(state, f"checkpoint {checkpoint_name!r}"))

    async def now(self) -> datetime:
        """The database's time."""
        return await self.lease.retry_until_deadline(self.backend.current_time)

    async def save(self, checkpoint_name: str, state: Json) -> None:
        """Write a checkpoint; this extends the lease."""
        began = asyncio.get_running_loop().time()
        claimed = self.claimed
        written = (self.queue_name, claimed.task_id, checkpoint_name, state, claimed.run_id)
        set_state = self.backend.set_task_checkpoint_state
        unanswered = False

        async def write() -> None:
            nonlocal unanswered
            if unanswered and await self._is_saved(checkpoint_name, state):
                self.lease.renewed(began)
                return
            try:
                await self.lease.extending(lambda length: set_state(*written, length))
            except (BackendUnavailable, asyncio.CancelledError):
                unanswered = True
                raise

        try:
            await self.lease.retry_until_deadline(write)
        except TypeError as error:
            raise TypeError(f"the result of {checkpoint_name!r} must be JSON: {error}") from error
        except ValueRefused as error:
            text = f"the result of {checkpoint_name!r} cannot be saved: {error}"
            raise ValueRefused(text, error.sqlstate) from error
        except BackendError as error:
            if not meaning_of(error).may_pass:
                raise
            text = f"checkpoint {checkpoint_name!r} is still refused by the database: {error}"
            raise CheckpointRefused(text, error.sqlstate) from error
        self.checkpoints[checkpoint_name] = state

    async def has_checkpoint(self, checkpoint_name: str) -> bool:
        """Whether the database has the checkpoint now: others write it too, as with an event."""
        saved = await self.lease.retry_until_deadline(
            lambda: self.backend.get_task_checkpoint_state(
                self.queue_name, self.claimed.task_id, checkpoint_name
            )
        )
        return saved is not None

    async def _is_saved(self, checkpoint_name: str, state: Json) -> bool:
        saved = await self.backend.get_task_checkpoint_state(
            self.queue_name, self.claimed.task_id, checkpoint_name, include_pending=True
        )
        written = (self.claimed.run_id, state)
        return saved is not None and (saved.owner_run_id, saved.state) == written

    def suspend(self, reason: str) -> NoReturn:
        """End the handler, whose run sleeps or waits now."""
        self.suspended = reason
        raise RunSuspended(reason)

    async def suspending(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Make a call that may put the run to sleep.

        A repeated call is refused when the first has put the run to sleep: then it has worked.
        """
        unanswered = False

        async def attempt() -> _T:
            nonlocal unanswered
            try:
                return await call()
            except (BackendUnavailable, asyncio.CancelledError):
                unanswered = True
                raise
            except BackendError as error:
                run = (self.backend, self.queue_name, self.claimed)
                is_repeated = unanswered and meaning_of(error) is Refusal.NOT_OURS
                if is_repeated and await run_state(*run) == "sleeping":
                    self.suspend("by a call whose reply was lost")
                raise

        return await self.lease.retry_until_deadline(attempt)


async def run_state(backend: Backend, queue_name: str, claimed: ClaimedTask) -> State | None:
    """The state of a claimed run now; None if it is gone."""
    history = await backend.history(queue_name, claimed.task_id)
    runs = history.runs if history else ()
    return next((run.state for run in runs if run.run_id == claimed.run_id), None)
