"""Mutants written down from reading production code, before the exploration was tried on them.

How many were found at once, and what the exploration lacked for the rest: ``docs/testing.md``.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any

from absurd_contimg.backends.memory.procedures import runs
from absurd_contimg.core import lease as lease_module
from absurd_contimg.core.errors import BackendError, BackendUnavailable, TaskCancelled
from absurd_contimg.core.failure_handling import FailureHandler
from absurd_contimg.core.failures import Classifier
from absurd_contimg.core.lease import Lease
from absurd_contimg.core.step_journal import StepJournal
from absurd_contimg.core.worker import Worker

from .mutants_products import (
    Mutant,
    Patch,
    adopts_without_a_look,
    key_without_inputs,
    manifest_without_files,
    no_clock,
    nothing_is_reserved,
    scratch_is_kept,
)

# -- worker -------------------------------------------------------------------------------


def completion_is_taken_for_granted(patch: Patch) -> None:
    async def complete(self: Any, claimed: Any, result: Any) -> None:
        try:
            await self.backend.complete_run(self.settings.queue_name, claimed.run_id, result)
        except BackendError:
            return

    patch.setattr(Worker, "_complete", complete)


def own_runs_are_orphans(patch: Patch) -> None:
    original = Worker._release_orphans

    async def recover(self: Any) -> None:
        runs, self._runs = self._runs, {}
        try:
            await original(self)
        finally:
            self._runs.update(runs)
            for run in runs:
                run.add_done_callback(lambda item: self._runs.pop(item, None))

    patch.setattr(Worker, "_release_orphans", recover)


def claims_more_than_is_free(patch: Patch) -> None:
    original = Worker._claim

    async def claim(self: Any, until_idle: bool) -> Any:
        kept, self._runs = self._runs, {}
        try:
            return await original(self, until_idle)
        finally:
            self._runs = kept

    patch.setattr(Worker, "_claim", claim)


# -- lease --------------------------------------------------------------------------------


def lease_counts_from_the_reply(patch: Patch) -> None:
    def renewed(self: Any, sent_at: float, seconds: int | None = None) -> None:
        now = asyncio.get_running_loop().time()
        self._ends_at = max(self._ends_at, now + (seconds or self.seconds))

    patch.setattr(Lease, "renewed", renewed)


def lease_has_no_margin(patch: Patch) -> None:
    patch.setattr(lease_module, "_MARGIN_SHARE", -0.2)


def cancelled_task_works_on(patch: Patch) -> None:
    original = Lease.extend

    async def extend(self: Any, seconds: int = 0) -> None:
        try:
            await original(self, seconds)
        except TaskCancelled:
            self._ends_at += self.seconds

    patch.setattr(Lease, "extend", extend)


# -- failure handling ---------------------------------------------------------------------


def retry_decision_is_taken_for_granted(patch: Patch) -> None:
    async def took_effect(self: Any, *_args: Any) -> bool:
        return True

    patch.setattr(FailureHandler, "_took_effect", took_effect)


def operators_retry_has_no_budget(patch: Patch) -> None:
    patch.setattr(
        "absurd_contimg.core.failure_handling._since_last_verdict", lambda earlier: earlier
    )


def retry_comes_at_once(patch: Patch) -> None:
    carry_out = FailureHandler._carry_out

    async def at_once(self: Any, claimed: Any, decision: Any, reason: Any, until: Any) -> None:
        if decision.action == "retry":
            decision = replace(decision, delay_seconds=0.0)
        await carry_out(self, claimed, decision, reason, until)

    patch.setattr(FailureHandler, "_carry_out", at_once)


def resource_waits_are_not_counted(patch: Patch) -> None:
    patch.setattr(StepJournal, "resource_waits", lambda _self, _rule_id=None: 0)


# -- classifier ---------------------------------------------------------------------------


def errno_is_not_looked_at(patch: Patch) -> None:
    patch.setattr(Classifier, "_by_errno", lambda _self, _heard: iter(()))


def exit_by_signal_is_not_looked_at(patch: Patch) -> None:
    patch.setattr(Classifier, "_by_process", lambda _self, _evidence: iter(()))


# -- emulator -----------------------------------------------------------------------------


def claims_before_it_is_due(patch: Patch) -> None:
    original = runs.due_runs

    def due(tx: Any, table: Any, tasks: Any, now: int, limit: int) -> Any:
        return original(tx, table, tasks, now + 3_600_000_000, limit)

    patch.setattr(runs, "due_runs", due)


def no_answer_is_no_reason_to_ask_again(patch: Patch) -> None:
    async def extend(self: Any, seconds: int = 0) -> None:
        sent_at = asyncio.get_running_loop().time()
        with suppress(BackendUnavailable):
            await self._backend.extend_claim(self._queue_name, self._run_id, self.seconds)
        self.renewed(sent_at, self.seconds)

    patch.setattr(Lease, "extend", extend)


FIRST_ROUND: dict[str, Mutant] = {
    "a refused completion counts as done": completion_is_taken_for_granted,
    "a worker takes its own runs for orphans": own_runs_are_orphans,
    "more runs are claimed than there is room for": claims_more_than_is_free,
    "lease counts from the reply": lease_counts_from_the_reply,
    "stage may outlive its lease": lease_has_no_margin,
    "a cancelled task works on": cancelled_task_works_on,
    "an unanswered extension counts": no_answer_is_no_reason_to_ask_again,
    "a refused decision counts as done": retry_decision_is_taken_for_granted,
    "an operator's retry has no budget of its own": operators_retry_has_no_budget,
    "a retry comes at once": retry_comes_at_once,
    "resource waits are not counted": resource_waits_are_not_counted,
    "errno is not looked at": errno_is_not_looked_at,
    "death by signal is not looked at": exit_by_signal_is_not_looked_at,
    "no look at the clock before the rename": no_clock,
    "manifest lists no files": manifest_without_files,
    "key leaves the inputs out": key_without_inputs,
    "scratch is kept after each attempt": scratch_is_kept,
    "no space is reserved": nothing_is_reserved,
    "a product is adopted without a look": adopts_without_a_look,
    "emulator: a run is claimed before it is due": claims_before_it_is_due,
}
"""By what is wrong."""
