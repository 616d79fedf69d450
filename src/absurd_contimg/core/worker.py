"""The worker: claims runs, runs their handlers under a lease, and completes or fails them.

It reaches the database through `Backend` and the clock through the event loop: the same code runs
in production and in virtual time. The owner of the process handles signals, and calls `stop`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from absurd_contimg.core.arguments import integer_problem, queue_problem, text_problem
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.call_bounds import CallBounds
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.due_signal import DueSignal
from absurd_contimg.core.errors import (
    BackendError,
    ControlFlow,
    LeaseLost,
    RunReleased,
    ValueRefused,
)
from absurd_contimg.core.evidence import described, reason_of
from absurd_contimg.core.failure_handling import FailureHandler, OnFailure
from absurd_contimg.core.failures import POISON_RULE, Classifier, RetryHook
from absurd_contimg.core.generic_rules import GENERIC_RULES
from absurd_contimg.core.lease import Lease, RunControl, while_leased
from absurd_contimg.core.lost_leases import LostLeases
from absurd_contimg.core.records import ClaimedTask, Json, created_at
from absurd_contimg.core.refusals import Refusal, meaning_of
from absurd_contimg.core.refused_claims import Explain, log_refusal, unblock
from absurd_contimg.core.repeated_lines import RepeatedLines
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.run_session import RunSession
from absurd_contimg.core.step_journal import StepJournal, StepOutcome
from absurd_contimg.core.task_waits import require_progress
from absurd_contimg.core.tasks import TaskRegistry, call, require_task
from absurd_contimg.core.worker_activity import ActiveRun, WorkerActivity
from absurd_contimg.core.worker_deaths import note_death, require_survivors

_log = logging.getLogger(__name__)

_UNREACHABLE_PAUSE_SECONDS = 1.0
_REFUSED_PAUSE_LIMIT_SECONDS = 30.0
_RIGHT_SECONDS = 20.0
"""How long a worker that ends when it is idle waits for a right that its user lacks: who renews
grants takes them away first."""
_RELEASE_SECONDS = 5.0
"""How long a stopping worker tries to release a run while the database is away."""
_UNKNOWN_TASK_SECONDS = 15.0
"""How long a task without a handler here is left for other workers (absurd-sdk: 15 to 30 s)."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How a worker works, with the defaults of the operations guide.

    `claim_timeout_seconds` is the length of the lease: the runs of a dead worker wait so long,
    unless it restarts under the same `worker_id`. `grace_seconds` is how long runs may go on
    after `Worker.stop`.
    """

    queue_name: str
    worker_id: str
    concurrency: int = 1
    claim_timeout_seconds: int = 60
    poll_interval_seconds: float = 1.0
    grace_seconds: float = 10.0
    strict_steps: bool = False
    """Fail a task whose steps differ from those of its earlier attempts, instead of logging it:
    for handlers whose steps never run concurrently."""

    def __post_init__(self) -> None:
        if self.claim_timeout_seconds < 1:
            raise ValueError("claim_timeout_seconds must be at least 1: 0 is a lease without end")
        if self.concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        checks = {
            "claim_timeout_seconds": integer_problem(self.claim_timeout_seconds),
            "concurrency": integer_problem(self.concurrency),
            "queue_name": queue_problem(self.queue_name),
            "worker_id": text_problem(self.worker_id),
        }
        for name, problem in checks.items():
            if problem:
                raise ValueError(f"{name} {problem}")


@dataclass(slots=True)
class Worker:
    """Runs the tasks of one queue until `stop` is called."""

    backend: Backend
    registry: TaskRegistry
    settings: WorkerSettings
    classifier: Classifier = field(
        default_factory=lambda: Classifier((POISON_RULE, *GENERIC_RULES))
    )
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    ready_to_claim: Callable[[], Awaitable[bool]] | None = None
    """Called before each claim; False leaves the queue to others (with a full disk, say)."""
    polls_ahead: Callable[[float], int] | None = None
    """Called with the poll interval when nothing was claimed: after how many intervals the next
    claim can find something, at least 1. None: always the next one."""
    due_signal: DueSignal | None = None
    """Ends the pause between two polls early; None: it only polls."""
    retry_hook: RetryHook | None = None
    on_failure: OnFailure | None = None
    explain_refusal: Explain | None = None
    """Called for the log when the queue refuses a claim."""
    control: RunControl | None = None
    _stopping: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _runs: dict[asyncio.Task[None], UUID] = field(default_factory=dict, init=False)
    _to_release: set[asyncio.Task[None]] = field(default_factory=set, init=False)
    """Others are cancelled by a handler that stops the loop, say: left to be found dead."""
    left_behind: bool = field(default=False, init=False)
    """A handler did not end when it was cancelled, and goes on after `run`."""
    runs_begun: int = field(default=0, init=False)
    """How many runs it has claimed so far."""
    activity: WorkerActivity = field(default_factory=WorkerActivity, init=False)
    _lines: RepeatedLines = field(default_factory=RepeatedLines, init=False)
    _lost: LostLeases = field(init=False)
    _bounded: CallBounds = field(init=False)
    _claim_sent_at: float = field(default=0.0, init=False)
    _has_recovered: bool = field(default=False, init=False)
    """Later orphans are of claims whose reply was lost, not of a process that died."""
    _claims_refused: int = field(default=0, init=False)
    """In a row, by a database that answers."""
    _outage: str = field(default="", init=False)
    """Why nothing can be claimed, as it was logged last."""

    def __post_init__(self) -> None:
        self._lost = LostLeases(self.settings.worker_id)
        self._bounded = CallBounds(self.settings.claim_timeout_seconds)

    def stop(self) -> None:
        """Claim no more; let runs go on for the grace period, then release them."""
        self._stopping.set()
        self._bounded.stop()

    def problem(self) -> str:
        """Why it can claim nothing now; empty if it can."""
        queue = self.settings.queue_name
        return f"cannot claim from queue {queue}: {self._outage}" if self._outage else ""

    async def run(self, until_idle: bool = False, beside: Sequence[Worker] = ()) -> None:
        """Work until `stop` is called or, with `until_idle`, until nothing can be claimed.

        A task that sleeps or waits for an event cannot be claimed, and is left as it is.
        A queue that refuses claims is polled less and less often while the runs go on; with
        `until_idle` the refusal is raised then, and that for a missing right when it lasts.
        Returns when every run has ended or is released. With `until_idle` raises `Standstill`,
        and releases its runs, when they and those of the workers `beside` it in this process all
        wait for tasks that nobody takes up.
        """
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await self._recover_orphans(stop, until_idle)
            while not self._stopping.is_set():
                if self.due_signal is not None:
                    self.due_signal.before_claim()
                self.activity.claim_begins()
                try:
                    claimed = await self._claim(until_idle)
                finally:
                    self.activity.claim_ends()
                self.runs_begun += len(claimed)
                for task in claimed:
                    run = asyncio.create_task(
                        self._execute(task, self._claim_sent_at), name=f"run {task.run_id}"
                    )
                    self._runs[run] = task.run_id
                    run.add_done_callback(self._runs.pop)
                if until_idle and not claimed and not self._bounded.unanswered:
                    if not self._runs:
                        return
                    group = (self, *beside)
                    await self._bounded(partial(self._require_progress, group), calls=4)
                await self._pause(stop, idle=not claimed, until_idle=until_idle)
            await self._drain(self.settings.grace_seconds)
        finally:
            stop.cancel()
            await self._drain(0.0)
            with suppress(BackendError):  # then the next start takes this one for a death
                await self._bounded(self._note_losses)

    async def _recover_orphans(self, stop: asyncio.Task[bool], until_idle: bool = False) -> None:
        """Release the runs that a dead process of our id has left, when the database answers."""
        while not self._stopping.is_set():
            try:
                await self._release_orphans()
            except BackendError as error:
                if meaning_of(error) is not Refusal.PASSING:
                    raise
                self._note_outage(error, until_idle)
                await asyncio.wait({stop}, timeout=_UNREACHABLE_PAUSE_SECONDS)
            else:
                self._bounded.note_answer()
                self._has_recovered = True
                return

    def _note_outage(self, error: BackendError, until_idle: bool) -> None:
        """Note that a claim was not answered; a warning only where that is news.

        Raises it with `until_idle` if the user has lacked a right for too long.
        """
        text = str(error)
        _log.log(
            logging.DEBUG if text == self._outage else logging.WARNING, "cannot claim: %s", text
        )
        self._outage = text
        self._bounded.note(error)
        if until_idle and not self._runs and self._bounded.seconds_without_right() > _RIGHT_SECONDS:
            raise error

    async def _release_orphans(self) -> None:
        """Release runs claimed under our id but not here: by a dead process, or an unheard claim.

        Only the owner of the id may do so: the caller guards it by an operating-system lock.
        """
        settings = self.settings
        orphans = await self._bounded(
            lambda: self.backend.list_runs(
                settings.queue_name, states=["running"], claimed_by=settings.worker_id
            )
        )
        ours = set(self._runs.values())
        for orphan in (run for run in orphans if run.run_id not in ours):
            try:
                if not self._has_recovered:
                    death = partial(note_death, self.backend, settings.queue_name, orphan)
                    await self._bounded(death, calls=2)
                await self._bounded(partial(self._give_back, orphan.run_id), calls=2)
            except BackendError as error:
                if meaning_of(error) is Refusal.PASSING:
                    raise
                # swept by another worker in the meantime; else its lease expires
                _log.info("orphan run %s was not released: %s", orphan.run_id, error)
            else:
                _log.warning("released orphan run %s", orphan.run_id)

    async def _claim(self, until_idle: bool) -> list[ClaimedTask]:
        settings = self.settings
        free = settings.concurrency - len(self._runs)
        try:
            if self._lost:
                await self._bounded(self._note_losses, calls=2)
            ready = self.ready_to_claim
            if free <= 0 or (ready is not None and not await self._bounded(ready, calls=2)):
                return []
            if self._bounded.may_have_claimed():
                await self._release_orphans()
            self._claim_sent_at = asyncio.get_running_loop().time()
            claimed = await self._bounded(
                lambda: self.backend.claim_task(
                    settings.queue_name, settings.worker_id, settings.claim_timeout_seconds, free
                )
            )
        except BackendError as error:
            if meaning_of(error) is Refusal.PASSING:
                self._note_outage(error, until_idle)
                return []
            queue = (self.backend, settings.queue_name, self._bounded)
            if isinstance(error, ValueRefused) and await unblock(*queue):
                return await self._claim(until_idle)
            self._outage = str(error)
            self._claims_refused += 1  # the growing pause between claims keeps the log short
            await log_refusal(*queue, error, self.explain_refusal)
            if until_idle and not self._runs:
                raise
            return []
        self._bounded.note_answer()
        self._outage = ""
        if self._claims_refused:
            _log.info("queue %s takes claims again", settings.queue_name)
        self._claims_refused = 0
        return claimed

    async def _note_losses(self) -> None:
        await self._lost.note(self.backend, self.settings.queue_name)

    async def _require_progress(self, group: Sequence[Worker]) -> None:
        runs = {each.settings.queue_name: list(each.activity.runs.values()) for each in group}
        await require_progress(self.backend, runs, self.settings.poll_interval_seconds)

    async def _pause(self, stop: asyncio.Task[bool], idle: bool, until_idle: bool) -> None:
        """Wait for a free slot, the next poll, a signal that a run may be due, or `stop`."""
        full = len(self._runs) >= self.settings.concurrency
        waits: set[asyncio.Future[Any]] = {stop, *self._runs}
        if self.due_signal is not None and not idle:
            self.due_signal.has_claimed()
        if not idle and not full:
            return
        if self.due_signal is not None and not full and not self._claims_refused:
            waits.add(self.due_signal.due)
        polls = not full or bool(self._lost) or until_idle
        timeout = self._poll_seconds() if polls else None
        if timeout is not None and self.polls_ahead is not None and not self._lost:
            timeout *= self.polls_ahead(timeout)
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)

    def _poll_seconds(self) -> float:
        """Until the next claim: doubled by every refusal, so that a blocked queue costs little."""
        poll = self.settings.poll_interval_seconds
        doublings = min(self._claims_refused, 16)
        return min(poll * float(2**doublings), max(poll, _REFUSED_PAUSE_LIMIT_SECONDS))

    async def _drain(self, grace_seconds: float) -> None:
        """Wait for the runs for the grace period, then release those that go on."""
        if self._runs and grace_seconds > 0:
            await asyncio.wait(self._runs, timeout=grace_seconds)
        for run in list(self._runs):
            if not run.cancelling():
                self._to_release.add(run)
            run.cancel()
        if self._runs:
            await asyncio.wait(self._runs)

    async def _execute(self, claimed: ClaimedTask, claimed_at: float) -> None:
        """Run one claimed run to its end; raises nothing but cancellation."""
        if (handler := self.registry.find(claimed.task_name)) is None:
            await self._leave_to_others(claimed)
            return
        session = self._session(claimed, claimed_at)
        ctx, lease = self._context(session), session.lease
        self.activity.runs[claimed.run_id] = ActiveRun(claimed, ctx)
        try:
            require_task(claimed)
            await ctx.load()
            await require_survivors(session, self.policy.poison_limit)
            work = asyncio.create_task(call(handler, claimed, ctx), name=claimed.task_name)
            result = await while_leased(lease, work)
            await ctx.handler_ended()
            await lease.retry_until_deadline(lambda: self._complete(claimed, result))
        except ControlFlow as reason:
            self._lost.add(claimed, ctx, reason)
            _log.info("run %s %s: %s", claimed.run_id, reason.meaning, reason_of(reason))
            if isinstance(reason, LeaseLost) and reason.refusal is not None:
                lease.has_work = False
                await self._handle_failure(claimed, ctx, reason.refusal)
        except RunReleased:
            await self._release_run(claimed, ctx)
        except asyncio.CancelledError:
            run = asyncio.current_task()
            if run is not None and run.cancelling():
                if run in self._to_release:
                    await self._release_run(claimed, ctx)
                else:
                    _log.error("run %s: somebody cancelled all tasks of this loop", claimed.run_id)
                raise
            error = RuntimeError("the handler cancelled itself")
            await self._handle_failure(claimed, ctx, error)
        except Exception as error:  # noqa: BLE001 - the boundary: every failure is handled here
            await self._handle_failure(claimed, ctx, error)
        finally:
            self.left_behind |= lease.abandoned
            self.activity.runs.pop(claimed.run_id, None)

    def _session(self, claimed: ClaimedTask, claimed_at: float) -> RunSession:
        queue, seconds = self.settings.queue_name, self.settings.claim_timeout_seconds
        lease = Lease(self.backend, queue, claimed.run_id, seconds, claimed_at, self.control)
        return RunSession(self.backend, queue, claimed, lease)

    def _context(self, session: RunSession) -> TaskContext:
        journal = StepJournal(session, self.settings.worker_id, self.policy.poison_limit)
        strict = self.settings.strict_steps
        return TaskContext(session, journal, self._stopping.is_set, strict_steps=strict)

    async def _complete(self, claimed: ClaimedTask, result: Json) -> None:
        queue = self.settings.queue_name
        try:
            await self.backend.complete_run(queue, claimed.run_id, result)
        except TypeError as error:
            raise TypeError(f"what the handler returns must be JSON: {error}") from error
        except BackendError as error:
            if meaning_of(error) is not Refusal.NOT_OURS:
                raise
            # An earlier try may have been committed although its reply was lost.
            outcome = await self.backend.get_task_result(queue, claimed.task_id)
            if outcome is None or outcome.state != "completed":
                raise LeaseLost(f"run {claimed.run_id}: {error}") from error

    async def _handle_failure(
        self, claimed: ClaimedTask, ctx: TaskContext, error: Exception
    ) -> None:
        failure_handler = FailureHandler(
            self.backend,
            self.settings.queue_name,
            self.classifier,
            self.policy,
            self.settings.worker_id,
            self.retry_hook,
            self.on_failure,
        )
        try:
            decision = await failure_handler.handle(claimed, ctx, error)
        except (BackendError, ControlFlow) as refusal:
            # The lease expires, and another worker takes up the run; or the task is cancelled.
            self._lost.add(claimed, ctx, refusal)
            why = reason_of(refusal)
            _log.error("run %s: its failure could not be recorded: %s", claimed.run_id, why)
            return
        if _log.isEnabledFor(logging.WARNING):  # the line of the handler takes a millisecond
            verdict, step = decision.verdict, ctx.current_step and f", step {ctx.current_step}"
            outcome = (decision.action, verdict.kind.value, verdict.rule_id)
            run = (claimed.task_name, claimed.run_id, step or "")
            _log.warning("task %s, run %s%s: %s (%s, %s): %s", *run, *outcome, described(error))

    async def _release_run(self, claimed: ClaimedTask, ctx: TaskContext) -> None:
        """Give the run back to the queue at once; this costs no attempt."""
        if ctx.fence.abandoned:
            return  # its handler goes on
        ctx.fence.attempt_seconds = min(ctx.fence.attempt_seconds, _RELEASE_SECONDS / 3)
        try:
            async with asyncio.timeout(_RELEASE_SECONDS):
                await ctx.journal.end(StepOutcome("released"))
                await self._give_back(claimed.run_id)
        except (BackendError, ControlFlow, TimeoutError) as error:
            # Then its lease expires, or the next worker of this id releases it.
            _log.warning("run %s could not be released: %s", claimed.run_id, reason_of(error))
        else:
            _log.info("released run %s", claimed.run_id)

    async def _leave_to_others(self, claimed: ClaimedTask) -> None:
        text = f"no handler for task {claimed.task_name!r} here: left to other workers"
        now = asyncio.get_running_loop().time()  # each such run comes back every few seconds
        _log.log(self._lines.level(claimed.task_name, text, now), "%s", text)
        try:
            async with asyncio.timeout(_RELEASE_SECONDS):
                await self._give_back(claimed.run_id, _UNKNOWN_TASK_SECONDS)
        except (BackendError, TimeoutError) as error:
            _log.warning("run %s could not be released: %s", claimed.run_id, reason_of(error))

    async def _give_back(self, run_id: UUID, seconds: float | None = None) -> None:
        """Let others claim a run after so many seconds; None: before all that came after it."""
        now = await self.backend.current_time()
        wake_at = created_at(run_id, now) if seconds is None else now + timedelta(seconds=seconds)
        await self.backend.schedule_run(self.settings.queue_name, run_id, wake_at)
