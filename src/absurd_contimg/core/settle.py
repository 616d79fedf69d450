"""What becomes of a run whose handler raised: the verdict on the failure, turned into one call.

Permanent failures end the task at once; transient and unknown ones are retried within the
budget of their step; resource failures park the run, which costs no attempt. Whoever spawned the
task with a ``max_attempts`` or a retry strategy of his own keeps them: then Absurd counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.errors import BackendError, RunAlreadyFailed
from absurd_contimg.core.failures import (
    Classifier,
    Evidence,
    FailureKind,
    Verdict,
    failure_reason,
)
from absurd_contimg.core.lease import Lease
from absurd_contimg.core.records import ClaimedTask, Json
from absurd_contimg.core.retries import RetryPolicy


@dataclass(frozen=True, slots=True)
class Settlement:
    """What was done with a failed run, for the log and for observers."""

    verdict: Verdict
    action: str
    """``failed``, ``retry`` or ``parked``."""
    delay_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Settler:
    """Decides and carries out what a failure deserves."""

    backend: Backend
    queue_name: str
    classifier: Classifier
    policy: RetryPolicy
    worker_id: str

    async def settle(
        self, claimed: ClaimedTask, ctx: TaskContext | None, lease: Lease, error: Exception
    ) -> Settlement:
        """Fail, retry or park the run whose handler raised `error`.

        Repeats its calls while the database is away and the lease is ours; a call whose reply was
        lost is recognised by what it left, and not made twice.
        """
        verdict = self.classifier.classify(Evidence.of(error))
        settlement = await self._decide(claimed, ctx, verdict)
        outcome = f"{settlement.action}: {verdict.kind.value} ({verdict.rule_id})"
        if ctx is not None:
            await ctx.record_outcome(outcome)
        details: dict[str, Json] = {
            "step": None if ctx is None else ctx.current_step,
            "attempt": claimed.attempt,
            "worker": self.worker_id,
            **_details_of(error),
        }
        reason = failure_reason(error, verdict, details)
        await lease.insist(lambda: self._carry_out(claimed, settlement, reason))
        return settlement

    async def _decide(
        self, claimed: ClaimedTask, ctx: TaskContext | None, verdict: Verdict
    ) -> Settlement:
        match verdict.kind:
            case FailureKind.PERMANENT:
                return Settlement(verdict, "failed")
            case FailureKind.RESOURCE:
                if (0 if ctx is None else ctx.parked()) < self.policy.park_limit:
                    return Settlement(verdict, "parked", self.policy.park_seconds)
                return Settlement(verdict, "failed")
            case FailureKind.INTERRUPTED:
                return Settlement(verdict, "parked", 0.0)
            case _:
                return await self._within_budget(claimed, ctx, verdict)

    async def _within_budget(
        self, claimed: ClaimedTask, ctx: TaskContext | None, verdict: Verdict
    ) -> Settlement:
        if claimed.max_attempts is not None:  # the spawner's own count, kept by Absurd
            delay = None if claimed.retry_strategy else self.policy.delay_seconds(claimed.attempt)
            return Settlement(verdict, "retry", delay)
        failures = 1 + await self._earlier_failures(
            claimed, None if ctx is None else ctx.current_step, verdict.kind
        )
        if failures >= self.policy.attempts(verdict.kind):
            return Settlement(verdict, "failed")
        delay = None if claimed.retry_strategy else self.policy.delay_seconds(failures)
        return Settlement(verdict, "retry", delay)

    async def _earlier_failures(
        self, claimed: ClaimedTask, step: str | None, kind: FailureKind
    ) -> int:
        """How often this step of the task has failed in this way before, from history."""
        history = await self.backend.history(self.queue_name, claimed.task_id)
        reasons = (run.failure_reason for run in history.runs) if history else ()
        return sum(
            isinstance(reason, Mapping)
            and reason.get("step") == step
            and reason.get("kind") == kind.value
            for reason in reasons
        )

    async def _carry_out(
        self, claimed: ClaimedTask, settlement: Settlement, reason: dict[str, Json]
    ) -> None:
        backend, queue, run_id = self.backend, self.queue_name, claimed.run_id
        try:
            if settlement.action == "failed":
                await backend.fail_run_permanently(queue, run_id, reason)
            elif settlement.action == "parked":
                wake_at = await self._after(settlement.delay_seconds or 0.0)
                await backend.schedule_run(queue, run_id, wake_at)
            else:
                delay = settlement.delay_seconds
                retry_at = None if delay is None else await self._after(delay)
                await backend.fail_run(queue, run_id, reason, retry_at)
        except (RunAlreadyFailed, BackendError) as error:
            if not await self._took_effect(claimed, settlement, error):
                raise

    async def _after(self, seconds: float) -> datetime:
        return await self.backend.current_time() + timedelta(seconds=seconds)

    async def _took_effect(
        self, claimed: ClaimedTask, settlement: Settlement, error: BaseException
    ) -> bool:
        """Whether an earlier, unanswered try of the same call is why this one was refused."""
        if isinstance(error, BackendError) and error.sqlstate is None:
            return False  # the database did not answer: try again
        history = await self.backend.history(self.queue_name, claimed.task_id)
        runs = history.runs if history else ()
        state = next((run.state for run in runs if run.run_id == claimed.run_id), None)
        return state == ("sleeping" if settlement.action == "parked" else "failed")


def _details_of(error: BaseException) -> Mapping[str, Json]:
    """What an error adds to the failure reason: stage, host, where its logs lie."""
    return cast(Mapping[str, Json], getattr(error, "failure_details", {}))
