"""Failure handling: what becomes of a run whose handler raised.

A permanent failure ends the task at once. Transient and unknown failures are retried within the
budget of their step. After a resource failure the run waits, which costs no attempt. A verdict
may name a fallback: the next start of the step uses it, once, even after a permanent failure.
A task spawned with its own ``max_attempts`` or retry strategy keeps them: then Absurd counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import cast
from zlib import crc32

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.blocking_tasks import cancel_with_reason
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.errors import (
    BackendError,
    CheckpointRefused,
    RunAlreadyFailed,
    ValueRefused,
)
from absurd_contimg.core.evidence import (
    Evidence,
    UnrecordableError,
    message_of,
    reason_of,
    text_of,
)
from absurd_contimg.core.failures import (
    DECIDED_AT,
    ChildTaskFailed,
    Classifier,
    FailureKind,
    RetryHook,
    Verdict,
    action_of,
    failure_reason,
)
from absurd_contimg.core.foreign_objects import ask, attribute
from absurd_contimg.core.jsonb_sanitizer import sanitized, shortened
from absurd_contimg.core.lease import Lease
from absurd_contimg.core.records import ClaimedTask, Json
from absurd_contimg.core.refusals import meaning_of
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.run_session import run_state
from absurd_contimg.core.step_journal import StepOutcome
from absurd_contimg.errors import AwayError

_log = logging.getLogger(__name__)

_MESSAGE_CHARACTERS_MAX = 500
"""Of a failure's message in the step journal; the failure reason has all of it."""

_HOOK_SECONDS_MAX = 366 * 86_400.0
_HOOK_ANSWERS = (
    "a retry hook is no async function, and returns None, a bool, or a time of a year at most in "
    "seconds or as a timedelta"
)
"""What a retry hook may return."""

_KEEPING_THE_ATTEMPT = ("waiting", "released")
"""Actions after which the run sleeps and goes on; after others it fails."""


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """What is done with a failed run."""

    verdict: Verdict
    action: str
    """As in `StepOutcome`."""
    delay_seconds: float | None = None
    fallback: str | None = None
    """What the next start of the step does differently."""


OnFailure = Callable[[ClaimedTask, RetryDecision, Mapping[str, Json]], Awaitable[None]]
"""Called with the failure reason before a task fails for good, perhaps twice for one failure.
What it raises is logged and changes nothing."""

_Reasons = Sequence[Mapping[str, Json]]


@dataclass(frozen=True, slots=True)
class FailureHandler:
    """Decides what follows a failure, and carries it out."""

    backend: Backend
    queue_name: str
    classifier: Classifier
    policy: RetryPolicy
    worker_id: str
    hook: RetryHook | None = None
    on_failure: OnFailure | None = None

    async def handle(
        self, claimed: ClaimedTask, ctx: TaskContext, error: Exception
    ) -> RetryDecision:
        """Fail or retry the run, or let it wait, after its handler raised `error`.

        What cannot be recorded of the error is left out; a task whose stored row keeps Absurd from
        failing it is cancelled.
        """
        try:
            return await self._handle(claimed, ctx, error)
        except Exception as second:
            if isinstance(second, BackendError) and not isinstance(second, ValueRefused):
                raise
            reduced = UnrecordableError(error, second)
        try:
            return await self._handle(claimed, ctx, reduced)
        except ValueRefused as refusal:
            problem = f"Its run {claimed.attempt} cannot be failed: {refusal}."
            call = partial(
                cancel_with_reason, self.backend, self.queue_name, claimed.task_id, problem
            )
            await ctx.fence.retry_until_deadline(call)
            _log.error("task %s was cancelled: %s", claimed.task_id, problem)
            return RetryDecision(self._judge(Evidence.of(refusal)), "cancelled")

    async def _handle(
        self, claimed: ClaimedTask, ctx: TaskContext, error: Exception
    ) -> RetryDecision:
        """Decide and carry it out.

        Calls are repeated under the lease; one whose reply was lost is recognised by what it left.
        """
        ctx.current_step = ctx.step_of(error)
        lease, evidence = ctx.fence, Evidence.of(error)
        child = cast(ChildTaskFailed, error) if issubclass(type(error), ChildTaskFailed) else None
        verdict = self._judge(evidence) if child is None else child.verdict
        earlier = await lease.retry_until_deadline(lambda: self._earlier_reasons(claimed))
        if child is not None:  # the child had its budgets
            decision = RetryDecision(verdict, "failed")
        else:
            decision = _with_fallback(self._decide(claimed, ctx, verdict, earlier), claimed, ctx)
        until = await lease.retry_until_deadline(lambda: self._after(decision.delay_seconds))
        if lease.has_work:  # else the database refuses what extends the claim
            try:
                await ctx.journal.end(_outcome(error, evidence, decision, until), decision.fallback)
            except CheckpointRefused as refusal:
                _log.error("run %s: its failure is not in the journal: %s", claimed.run_id, refusal)
        details: dict[str, Json] = {
            "step": ctx.current_step,
            "attempt": claimed.attempt,
            "worker": self.worker_id,
            "action": decision.action,
            **({} if decision.fallback is None else {"fallback": decision.fallback}),
            **_details_of(error),
        }
        reason = failure_reason(error, evidence, decision.verdict, details)
        if decision.action == "failed":
            await self._tell_listener(claimed, lease, decision, reason)
        await lease.retry_until_deadline(lambda: self._carry_out(claimed, decision, reason, until))
        return decision

    async def _tell_listener(
        self,
        claimed: ClaimedTask,
        lease: Lease,
        decision: RetryDecision,
        reason: Mapping[str, Json],
    ) -> None:
        if self.on_failure is None:
            return
        try:
            left = lease.deadline - asyncio.get_running_loop().time()
            async with asyncio.timeout(left / 2):
                await self.on_failure(claimed, decision, reason)
        except BaseException as error:
            run = asyncio.current_task()
            is_cancelled = issubclass(type(error), asyncio.CancelledError)  # its class may raise
            if is_cancelled and run is not None and run.cancelling():
                raise
            text = f"run {claimed.run_id}: its failure could not be noted elsewhere"
            if issubclass(type(error), (BackendError, AwayError, TimeoutError)):  # no defect
                _log.error("%s: %s", text, reason_of(error))
            else:
                _log.exception("%s", text)

    def _judge(self, evidence: Evidence) -> Verdict:
        """The verdict of the user's hook if it has one, else of the table."""
        verdict = self.classifier.classify(evidence)
        if self.hook is None:
            return verdict
        hook = self.hook
        answer = ask(lambda: _decided(hook(evidence)), _hook_failed)
        if answer is None:
            return verdict
        if answer is False:
            return replace(verdict, kind=FailureKind.PERMANENT, rule_id="hook", matched="no")
        delay = None if answer is True else answer
        matched = "yes" if delay is None else f"after {delay:g} s"
        return Verdict(FailureKind.TRANSIENT, "hook", verdict.advice, matched, verdict.path, delay)

    def _decide(
        self, claimed: ClaimedTask, ctx: TaskContext, verdict: Verdict, earlier: _Reasons
    ) -> RetryDecision:
        match verdict.kind:
            case FailureKind.PERMANENT:
                return RetryDecision(verdict, "failed")
            case FailureKind.RESOURCE:
                return self._wait_for_resource(claimed, ctx, verdict)
            case FailureKind.INTERRUPTED:
                return RetryDecision(verdict, "released", 0.0)
            case _:
                return self._within_budget(claimed, ctx, verdict, earlier)

    def _wait_for_resource(
        self, claimed: ClaimedTask, ctx: TaskContext, verdict: Verdict
    ) -> RetryDecision:
        """Wait for the resource; what does not fit after many waits will not fit at all."""
        all_waits = ctx.journal.resource_waits()
        if all_waits >= self.policy.resource_waits_max:
            return RetryDecision(verdict, "failed")
        waits, waits_max = ctx.journal.resource_waits(verdict.rule_id), verdict.resource_waits_max
        if waits_max is not None and waits >= waits_max:
            return RetryDecision(replace(verdict, kind=FailureKind.PERMANENT), "failed")
        spread = crc32(str(claimed.task_id).encode()) / 2**32
        delay = self.policy.resource_delay_seconds(all_waits, spread)
        return RetryDecision(verdict, "waiting", delay)

    def _within_budget(
        self, claimed: ClaimedTask, ctx: TaskContext, verdict: Verdict, earlier: _Reasons
    ) -> RetryDecision:
        kind = verdict.kind
        # `fail_run_permanently` lowers the limit, an operator's ``retry_task`` raises it again.
        is_capped_by_us = any(action_of(reason) == "failed" for reason in earlier)
        if claimed.max_attempts is not None and not is_capped_by_us:
            failures = claimed.attempt  # the spawner's own limit, which Absurd keeps
        else:
            failures = 1 + sum(
                reason.get("step") == ctx.current_step and reason.get("kind") == kind.value
                for reason in _since_last_verdict(earlier)
            )
            if failures >= self.policy.attempts(kind):
                return RetryDecision(verdict, "failed")
        delay = verdict.delay_seconds
        if delay is None and not claimed.retry_strategy:
            delay = self.policy.delay_seconds(failures)
        return RetryDecision(verdict, "retry", delay)

    async def _earlier_reasons(self, claimed: ClaimedTask) -> _Reasons:
        """Why the task's earlier runs failed, from history, oldest first."""
        history = await self.backend.history(self.queue_name, claimed.task_id)
        runs = history.runs if history else ()
        return [run.failure_reason for run in runs if isinstance(run.failure_reason, Mapping)]

    async def _carry_out(
        self,
        claimed: ClaimedTask,
        decision: RetryDecision,
        reason: dict[str, Json],
        until: datetime | None,
    ) -> None:
        backend, queue, run_id = self.backend, self.queue_name, claimed.run_id
        try:
            if decision.action == "failed":
                await backend.fail_run_permanently(queue, run_id, reason)
            elif decision.action in _KEEPING_THE_ATTEMPT and until is not None:
                await backend.schedule_run(queue, run_id, until)
            else:
                # Again from now: writing the journal may have taken a part of the delay.
                retry_at = None
                if decision.delay_seconds is not None:
                    decided_at = await backend.current_time()
                    retry_at = decided_at + timedelta(seconds=decision.delay_seconds)
                    reason = {**reason, DECIDED_AT: decided_at.isoformat()}
                await backend.fail_run(queue, run_id, reason, retry_at)
        except (RunAlreadyFailed, BackendError) as error:
            if not await self._took_effect(claimed, decision, error):
                raise

    async def _after(self, seconds: float | None) -> datetime | None:
        if seconds is None:
            return None
        return await self.backend.current_time() + timedelta(seconds=seconds)

    async def _took_effect(
        self, claimed: ClaimedTask, decision: RetryDecision, error: BaseException
    ) -> bool:
        """Whether an earlier, unanswered try of the same call is why this one was refused."""
        if isinstance(error, BackendError) and meaning_of(error).may_pass:
            return False  # try again
        state = await run_state(self.backend, self.queue_name, claimed)
        return state == ("sleeping" if decision.action in _KEEPING_THE_ATTEMPT else "failed")


def _decided(answer: object) -> bool | float | None:
    """The answer of a retry hook, a delay in seconds; `TypeError` or `ValueError` if it is none."""
    if answer is None or isinstance(answer, bool):
        return answer
    if isinstance(answer, timedelta):
        answer = answer.total_seconds()
    if not isinstance(answer, int | float):
        if isinstance(answer, Coroutine):
            answer.close()
        raise TypeError(f"it gave a {type(answer).__name__}: {_HOOK_ANSWERS}")
    if not answer <= _HOOK_SECONDS_MAX:
        raise ValueError(f"it gave {answer:g}: {_HOOK_ANSWERS}")
    return max(float(answer), 0.0)


def _hook_failed(error: BaseException) -> None:
    _log.error("the retry hook failed, the failure table decides: %s", text_of(error))


def _with_fallback(
    decision: RetryDecision, claimed: ClaimedTask, ctx: TaskContext
) -> RetryDecision:
    """The decision, with the verdict's fallback if the step has not used it yet.

    It turns a permanent failure into one more start, unless the spawner's own limit is reached.
    """
    fallback = decision.verdict.fallback
    if fallback is None or not ctx.journal.may_use_fallback(fallback):
        return decision
    if decision.action != "failed":
        return replace(decision, fallback=fallback)
    if decision.verdict.kind is not FailureKind.PERMANENT:
        return decision  # its budget is spent
    if claimed.max_attempts is not None and claimed.attempt >= claimed.max_attempts:
        return decision
    return replace(decision, action="fallback", delay_seconds=0.0, fallback=fallback)


def _outcome(
    error: Exception, evidence: Evidence, decision: RetryDecision, until: datetime | None
) -> StepOutcome:
    verdict = decision.verdict
    numbers: dict[str, Json] = {
        "errno": next((e.errno for e in reversed(evidence.exceptions) if e.errno), None),
        "signal": evidence.signal,
        "exit_code": evidence.exit_code,
        "matched": verdict.matched,
    }
    return StepOutcome(
        decision.action,
        verdict.kind.value,
        verdict.rule_id,
        shortened(message_of(error), _MESSAGE_CHARACTERS_MAX),
        {name: value for name, value in numbers.items() if value is not None},
        verdict.path,
        verdict.advice,
        until,
    )


def _since_last_verdict(earlier: _Reasons) -> _Reasons:
    """The failures since the task last failed for good: an operator's retry has full budgets."""
    verdicts = [place for place, reason in enumerate(earlier) if action_of(reason) == "failed"]
    return earlier[verdicts[-1] + 1 :] if verdicts else earlier


def _details_of(error: BaseException) -> Mapping[str, Json]:
    """What an error adds to the failure reason: stage, host, where its logs lie."""
    details = sanitized(attribute(error, "failure_details", Mapping))
    return details if isinstance(details, Mapping) else {}
