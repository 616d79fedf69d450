"""A second round of mutants, written down like the first before the exploration was tried on them.

How many were found at once, and what the exploration lacked for the rest: ``docs/testing.md``.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from absurd_contimg.backends.memory.procedures import events
from absurd_contimg.backends.memory.procedures.events import write_checkpoint
from absurd_contimg.core import failure_handling
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.evidence import Evidence
from absurd_contimg.core.failure_handling import FailureHandler
from absurd_contimg.core.failures import Classifier
from absurd_contimg.core.lease import Lease
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.step_journal import StepOutcome
from absurd_contimg.core.worker import Worker
from absurd_contimg.execution import runner as runner_module
from absurd_contimg.products.store import Published, publish
from absurd_contimg.simulation.model import worker_factory

from .mutants_products import Mutant, Patch

# -- worker -------------------------------------------------------------------------------


def stop_forgets_what_runs(patch: Patch) -> None:
    async def drain(self: Any, grace_seconds: float) -> None:
        if self._runs and grace_seconds > 0:
            await asyncio.wait(self._runs, timeout=grace_seconds)

    patch.setattr(Worker, "_drain", drain)


def released_for_much_later(patch: Patch) -> None:
    async def release_run(self: Any, claimed: Any, ctx: Any) -> None:
        if ctx is not None:
            await ctx.journal.end(StepOutcome("released"))
        now = await self.backend.current_time()
        later = now + timedelta(minutes=self.settings.claim_timeout_seconds)
        await self.backend.schedule_run(self.settings.queue_name, claimed.run_id, later)

    patch.setattr(Worker, "_release_run", release_run)


def the_guard_is_not_asked(patch: Patch) -> None:
    claim = Worker._claim

    async def claim_unasked(self: Any, until_idle: bool) -> Any:
        self.ready_to_claim = None
        return await claim(self, until_idle)

    patch.setattr(Worker, "_claim", claim_unasked)


def orphans_wait_for_their_lease(patch: Patch) -> None:
    async def recover(self: Any, _stop: Any, _until_idle: bool = False) -> None:
        return None

    patch.setattr(Worker, "_recover_orphans", recover)


# -- lease --------------------------------------------------------------------------------


def extension_is_too_short(patch: Patch) -> None:
    original = Lease.extending

    async def extending(self: Any, call: Any, seconds: int = 0) -> None:
        await original(self, lambda length: call(max(length // 6, 1)), seconds)

    patch.setattr(Lease, "extending", extending)


# -- failure handling ---------------------------------------------------------------------


def failed_is_left_to_absurd(patch: Patch) -> None:
    """For good, but by the procedure that makes the next run."""
    original = FailureHandler._carry_out

    async def carry_out(self: Any, claimed: Any, decision: Any, reason: Any, until: Any) -> None:
        if decision.action == "failed":
            await self.backend.fail_run(self.queue_name, claimed.run_id, reason, None)
        else:
            await original(self, claimed, decision, reason, until)

    patch.setattr(FailureHandler, "_carry_out", carry_out)


def waiting_runs_are_due_call_inline(patch: Patch) -> None:
    original = FailureHandler._wait_for_resource

    def wait_for_resource(self: Any, claimed: Any, ctx: Any, verdict: Any) -> Any:
        decision = original(self, claimed, ctx, verdict)
        return failure_handling.RetryDecision(verdict, decision.action, 0.0)

    patch.setattr(FailureHandler, "_wait_for_resource", wait_for_resource)


def no_fallback(patch: Patch) -> None:
    patch.setattr(failure_handling, "_with_fallback", lambda decision, _claimed, _ctx: decision)


def backoff_does_not_grow(patch: Patch) -> None:
    patch.setattr(RetryPolicy, "delay_seconds", lambda self, _failures: self.backoff_first_seconds)


# -- context ------------------------------------------------------------------------------


def step_is_saved_before_it_runs(patch: Patch) -> None:
    async def step(self: Any, name: str, fn: Any) -> Any:
        handle = await self.begin_step(name)
        if handle.done:
            return handle.state
        self.current_step = name
        await self._session.save(handle.checkpoint_name, None)
        return await self.complete_step(handle, await fn())

    patch.setattr(TaskContext, "step", step)


# -- products -----------------------------------------------------------------------------


def loser_of_a_race_fails(patch: Patch) -> None:
    def overwrite(product: Any, committed: Any, files: Any) -> Published:
        files.ensure_folder(committed.parent)
        files.rename(product, committed)
        return publish(committed, committed, files)

    patch.setattr(runner_module, "publish", overwrite)


def the_dead_are_not_swept(patch: Patch) -> None:
    class Idle:
        def __init__(self, *_args: Any) -> None:
            return None

        def sweep(self) -> list[Any]:
            return []

    patch.setattr(worker_factory, "Janitor", Idle)


# -- classifier ---------------------------------------------------------------------------


def only_the_outermost_error_counts(patch: Patch) -> None:
    original = Classifier.classify

    def classify(self: Any, evidence: Evidence) -> Any:
        outer = evidence.exceptions[:1]
        return original(self, Evidence(outer, evidence.exit_code, evidence.signal))

    patch.setattr(Classifier, "classify", classify)


# -- emulator -----------------------------------------------------------------------------


def older_attempts_overwrite(patch: Patch) -> None:
    def save(
        tx: Any, queue: Any, task: Any, step: Any, state: Any, run: Any, extend: Any = None
    ) -> None:
        write_checkpoint(tx, queue, task, step, state, run, tx.session.current_time())

    patch.setattr(events, "set_task_checkpoint_state", save)


SECOND_ROUND: dict[str, Mutant] = {
    "stopping forgets what still runs": stop_forgets_what_runs,
    "a run is released for much later": released_for_much_later,
    "the guard is not asked": the_guard_is_not_asked,
    "orphans wait for their lease": orphans_wait_for_their_lease,
    "an extension is too short": extension_is_too_short,
    "what failed for good gets another run": failed_is_left_to_absurd,
    "waiting runs are due at once": waiting_runs_are_due_call_inline,
    "no fallback is used": no_fallback,
    "backoff does not grow": backoff_does_not_grow,
    "a step is saved before it runs": step_is_saved_before_it_runs,
    "the loser of a race fails": loser_of_a_race_fails,
    "scratch of the dead is not swept": the_dead_are_not_swept,
    "only the outermost error counts": only_the_outermost_error_counts,
    "emulator: an older attempt overwrites a checkpoint": older_attempts_overwrite,
}
"""By what is wrong."""
