"""Failure handling: what becomes of a run whose handler raised.

A permanent failure ends the task at once. Transient and unknown failures are retried within the
budget of their step. After a resource failure the run waits, which costs no attempt. A verdict
may name an escalation: the next start of the step uses it, once, even after a permanent failure.
A task spawned with its own ``max_attempts`` or retry strategy keeps them: then Absurd counts.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import cast

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.errors import BackendError, RunAlreadyFailed
from absurd_contimg.core.evidence import text_of
from absurd_contimg.core.failures import (
    Classifier,
    Evidence,
    FailureKind,
    RetryHook,
    Verdict,
    action_of,
    failure_reason,
)
from absurd_contimg.core.jsonb_sanitizer import shortened
from absurd_contimg.core.lease import Lease
from absurd_contimg.core.records import ClaimedTask, Json
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.step_journal import StepOutcome

_log = logging.getLogger(__name__)

_MESSAGE_CHARACTERS_MAX = 500
"""Of a failure's message in the step journal; the failure reason has all of it."""


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """What is done with a failed run, for the log and for observers."""

    verdict: Verdict
    action: str
    """As in `StepOutcome`."""
    delay_seconds: float | None = None
    escalation: str | None = None
    """What the next start of the step has to do differently."""


_SLEEPING = ("waiting", "released")
"""Actions that give the lease back: the run goes on later and keeps its attempt."""

OnFailure = Callable[[ClaimedTask, RetryDecision, Mapping[str, Json]], Awaitable[None]]
"""Told, with the failure reason, before a task is failed for good; may be told again of the same
failure. What it raises is logged and changes nothing."""


@dataclass(frozen=True, slots=True)
class FailureHandler:
    """Decides and carries out what a failure deserves."""

    backend: Backend
    queue_name: str
    classifier: Classifier
    policy: RetryPolicy
    worker_id: str
    hook: RetryHook | None = None
    on_failure: OnFailure | None = None

    async def handle(
        self, claimed: ClaimedTask, ctx: TaskContext | None, lease: Lease, error: Exception
    ) -> RetryDecision:
        """Fail or retry the run, or let it wait, after its handler raised `error`.

        Repeats its calls while the database is away and the lease is ours; a call whose reply was
        lost is recognised by what it left, and not made twice.
        """
        verdict = self._judge(Evidence.of(error))
        earlier = await lease.retry_until_deadline(lambda: self._earlier_reasons(claimed))
        decision = _escalated(self._decide(claimed, ctx, verdict, earlier), claimed, ctx)
        delay = decision.delay_seconds
        until = (
            None if delay is None else await lease.retry_until_deadline(lambda: self._after(delay))
        )
        outcome = _outcome(error, decision, until)
        if ctx is not None:
            await ctx.journal.end(outcome, decision.escalation)
        details: dict[str, Json] = {
            "step": None if ctx is None else ctx.current_step,
            "attempt": claimed.attempt,
            "worker": self.worker_id,
            "action": decision.action,
            **({} if decision.escalation is None else {"escalation": decision.escalation}),
            **_details_of(error),
        }
        reason = failure_reason(error, decision.verdict, details)
        if decision.action == "failed":
            await self._tell(claimed, decision, reason)
        await lease.retry_until_deadline(lambda: self._carry_out(claimed, decision, reason, until))
        return decision

    async def _tell(
        self, claimed: ClaimedTask, decision: RetryDecision, reason: Mapping[str, Json]
    ) -> None:
        if self.on_failure is None:
            return
        try:
            await self.on_failure(claimed, decision, reason)
        except Exception:  # noqa: BLE001 - whatever a listener raises: the task fails all the same
            _log.exception("run %s: its failure could not be noted elsewhere", claimed.run_id)

    def _judge(self, evidence: Evidence) -> Verdict:
        """The user's word where there is one, else the table's."""
        verdict = self.classifier.classify(evidence)
        if self.hook is None:
            return verdict
        try:
            answer = self.hook(evidence)
        except Exception:  # noqa: BLE001 - whatever a user's hook raises
            _log.exception("the retry hook failed; the failure table decides")
            return verdict
        if answer is None:
            return verdict
        if answer is False:
            return replace(verdict, kind=FailureKind.PERMANENT, rule_id="hook", matched="no")
        if isinstance(answer, timedelta):
            answer = answer.total_seconds()
        delay = None if answer is True else max(float(answer), 0.0)
        matched = "yes" if delay is None else f"after {delay:g} s"
        return Verdict(FailureKind.TRANSIENT, "hook", verdict.advice, matched, verdict.path, delay)

    def _decide(
        self,
        claimed: ClaimedTask,
        ctx: TaskContext | None,
        verdict: Verdict,
        earlier: list[Mapping[str, Json]],
    ) -> RetryDecision:
        match verdict.kind:
            case FailureKind.PERMANENT:
                return RetryDecision(verdict, "failed")
            case FailureKind.RESOURCE:
                return self._wait_for_resource(ctx, verdict)
            case FailureKind.INTERRUPTED:
                return RetryDecision(verdict, "released", 0.0)
            case _:
                return self._within_budget(claimed, ctx, verdict, earlier)

    def _wait_for_resource(self, ctx: TaskContext | None, verdict: Verdict) -> RetryDecision:
        """Wait for the resource; what does not fit after many waits will not fit at all."""
        waits = 0 if ctx is None else ctx.journal.resource_waits()
        if waits >= self.policy.resource_waits_max:
            return RetryDecision(verdict, "failed")
        waits_by_rule = 0 if ctx is None else ctx.journal.resource_waits(verdict.rule_id)
        if verdict.resource_waits_max is not None and waits_by_rule >= verdict.resource_waits_max:
            return RetryDecision(replace(verdict, kind=FailureKind.PERMANENT), "failed")
        return RetryDecision(verdict, "waiting", self.policy.resource_wait_seconds)

    def _within_budget(
        self,
        claimed: ClaimedTask,
        ctx: TaskContext | None,
        verdict: Verdict,
        earlier: list[Mapping[str, Json]],
    ) -> RetryDecision:
        step = None if ctx is None else ctx.current_step
        delay = verdict.delay_seconds
        if claimed.max_attempts is not None and not _lowered_by_us(earlier):
            # The spawner's own count, kept by Absurd.
            if delay is None and not claimed.retry_strategy:
                delay = self.policy.delay_seconds(claimed.attempt)
            return RetryDecision(verdict, "retry", delay)
        since = _since_last_verdict(earlier)
        failures = 1 + sum(
            one.get("step") == step and one.get("kind") == verdict.kind.value for one in since
        )
        if failures >= self.policy.attempts(verdict.kind):
            return RetryDecision(verdict, "failed")
        if delay is None and not claimed.retry_strategy:
            delay = self.policy.delay_seconds(failures)
        return RetryDecision(verdict, "retry", delay)

    async def _earlier_reasons(self, claimed: ClaimedTask) -> list[Mapping[str, Json]]:
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
            elif decision.action in _SLEEPING and until is not None:
                await backend.schedule_run(queue, run_id, until)
            else:
                # The delay counts from the failure: the journal may have waited for the database.
                delay = decision.delay_seconds
                retry_at = None if delay is None else await self._after(delay)
                await backend.fail_run(queue, run_id, reason, retry_at)
        except (RunAlreadyFailed, BackendError) as error:
            if not await self._took_effect(claimed, decision, error):
                raise

    async def _after(self, seconds: float) -> datetime:
        return await self.backend.current_time() + timedelta(seconds=seconds)

    async def _took_effect(
        self, claimed: ClaimedTask, decision: RetryDecision, error: BaseException
    ) -> bool:
        """Whether an earlier, unanswered try of the same call is why this one was refused."""
        if isinstance(error, BackendError) and error.sqlstate is None:
            return False  # the database did not answer: try again
        history = await self.backend.history(self.queue_name, claimed.task_id)
        runs = history.runs if history else ()
        state = next((run.state for run in runs if run.run_id == claimed.run_id), None)
        return state == ("sleeping" if decision.action in _SLEEPING else "failed")


def _escalated(
    decision: RetryDecision, claimed: ClaimedTask, ctx: TaskContext | None
) -> RetryDecision:
    """The same, with the escalation that the verdict names if it was not used in this step yet.

    It turns a permanent failure into one more start, unless the spawner's own count is spent.
    """
    escalation = decision.verdict.escalation
    if escalation is None or ctx is None or not ctx.journal.may_escalate(escalation):
        return decision
    if decision.action != "failed":
        return replace(decision, escalation=escalation)
    if decision.verdict.kind is not FailureKind.PERMANENT:
        return decision  # its budget is spent
    if claimed.max_attempts is not None and claimed.attempt >= claimed.max_attempts:
        return decision
    return replace(decision, action="escalated", delay_seconds=0.0, escalation=escalation)


def _outcome(error: Exception, decision: RetryDecision, until: datetime | None) -> StepOutcome:
    verdict, evidence = decision.verdict, Evidence.of(error)
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
        shortened(text_of(error), _MESSAGE_CHARACTERS_MAX),
        {name: value for name, value in numbers.items() if value is not None},
        verdict.path,
        verdict.advice,
        until,
    )


def _lowered_by_us(earlier: list[Mapping[str, Json]]) -> bool:
    """Whether the task's ``max_attempts`` comes from a permanent failure and its retry.

    `Backend.fail_run_permanently` lowers it, and ``retry_task`` raises it again: it is then no
    longer the spawner's.
    """
    return any(action_of(one) == "failed" for one in earlier)


def _since_last_verdict(earlier: list[Mapping[str, Json]]) -> list[Mapping[str, Json]]:
    """The failures since an operator last said "again": each retry has its full budget."""
    for position in range(len(earlier) - 1, -1, -1):
        if action_of(earlier[position]) == "failed":
            return earlier[position + 1 :]
    return earlier


def _details_of(error: BaseException) -> Mapping[str, Json]:
    """What an error adds to the failure reason: stage, host, where its logs lie."""
    details = getattr(error, "failure_details", {})
    return cast(Mapping[str, Json], details) if isinstance(details, Mapping) else {}
