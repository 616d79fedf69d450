"""Mutants of worker, lease and failure handling, and the list of all mutants.

Each is a mistake that a developer could make in good faith. A `Mutant` puts it in place; the test
then looks for it with the explorer's own means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from absurd_contimg.backends.memory.procedures import events, runs
from absurd_contimg.core import worker as worker_module
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.errors import BackendUnavailable, LeaseLost, RunSuspended
from absurd_contimg.core.failure_handling import FailureHandler, RetryDecision
from absurd_contimg.core.failures import Classifier, FailureKind, Verdict
from absurd_contimg.core.lease import Lease
from absurd_contimg.core.step_journal import StepJournal, StepRecord
from absurd_contimg.core.worker import Worker

from .mutants_first_round import FIRST_ROUND
from .mutants_products import PRODUCTS, Mutant
from .mutants_second_round import SECOND_ROUND


def _replaced(owner: Any, name: str, new: Any) -> Mutant:
    return lambda patch: patch.setattr(owner, name, new)


# -- context and worker -------------------------------------------------------------------


async def _unsaved(self: Any, handle: Any, value: Any) -> Any:
    self.current_step = None
    return value


async def _swallowed(self: Any, *args: Any, **options: Any) -> Any:
    try:
        return await _await_event(self, *args, **options)
    except RunSuspended:
        return None


_await_event = TaskContext.await_event


async def _forgetful_sleep(self: Any, step_name: str, wake_at: Any, now: Any) -> None:
    await self._session.backend.schedule_run(self.queue_name, self.run_id, wake_at)
    raise RunSuspended("again and again")


async def _sleep_as_done(self: Any, step_name: str, wake_at: Any, now: Any) -> None:
    await self._session.save(await self._ask(step_name), wake_at.isoformat())


async def _asked_under_its_own_name(_self: Any, name: str) -> str:
    return name


_load = TaskContext.load


async def _without_checkpoints(self: Any) -> None:
    await _load(self)
    self._session.checkpoints.clear()


_started = StepRecord.started


def _always_the_first(self: Any, *details: Any) -> StepRecord:
    record = _started(self, *details)
    return replace(record, starts=tuple(replace(start, number=1) for start in record.starts))


_begin = StepJournal.begin


async def _no_poison(self: Any, step: str) -> int:
    self._poison_limit = 10**6
    return await _begin(self, step)


async def _everybodys_orphans(self: Any, _stop: Any, _until_idle: bool = False) -> None:
    settings = self.settings
    for orphan in await self.backend.list_runs(settings.queue_name, states=["running"]):
        now = await self.backend.current_time()
        await self.backend.schedule_run(settings.queue_name, orphan.run_id, now)


async def _orphans_are_failed(self: Any, _stop: Any, _until_idle: bool = False) -> None:
    settings = self.settings
    for orphan in await self.backend.list_runs(
        settings.queue_name, states=["running"], claimed_by=settings.worker_id
    ):
        await self.backend.fail_run_permanently(
            settings.queue_name, orphan.run_id, {"name": "WorkerDied", "message": "restarted"}
        )


async def _claim_dies(self: Any, _until_idle: bool) -> Any:
    free = self.settings.concurrency - len(self._runs)
    if free <= 0:
        return []
    return await self.backend.claim_task(
        self.settings.queue_name, self.settings.worker_id, self.settings.claim_timeout_seconds, free
    )


async def _no_outcome(self: Any, *_outcome: Any) -> None:
    return None


# -- lease --------------------------------------------------------------------------------


async def _keeper_sleeps(self: Any) -> None:
    await asyncio.Event().wait()


async def _keeper_is_late(self: Any) -> None:
    while True:
        await asyncio.sleep(self.seconds * 1.5)
        await self.extend()


async def _keeper_gives_up_silently(self: Any) -> None:
    try:
        while True:
            await asyncio.sleep(self.seconds / 3)
            await self.extend()
    except LeaseLost:
        await asyncio.Event().wait()


async def _retries_for_ever(self: Any, call: Any, *, until_lost: bool) -> Any:
    while True:
        try:
            return await call()
        except BackendUnavailable:
            await asyncio.sleep(1.0)


async def _never_retries(self: Any, call: Any, *, until_lost: bool) -> Any:
    return await call()


async def work_goes_on(lease: Any, work: Any) -> Any:
    keeper = asyncio.create_task(lease.heartbeat_loop())
    try:
        return await work
    finally:
        keeper.cancel()
        await asyncio.wait({keeper})
        if not keeper.cancelled():
            keeper.exception()


# -- judgement ----------------------------------------------------------------------------


def _judged(kind: FailureKind) -> Any:
    def classify(self: Any, evidence: Any) -> Verdict:
        return Verdict(kind, "put in place", "", "nothing")

    return classify


def _only_the_signal(self: Any, evidence: Any) -> Any:
    for rule in self.rules:
        if evidence.signal is not None and evidence.signal in rule.signals and rule.log is None:
            yield rule, "signal", None


def _decided(**actions: str) -> Any:
    original = FailureHandler._decide

    def decide(self: Any, claimed: Any, ctx: Any, verdict: Any, earlier: Any) -> RetryDecision:
        action = actions.get(verdict.kind.name.lower())
        if action is not None:
            return RetryDecision(verdict, action, 1.0)
        return original(self, claimed, ctx, verdict, earlier)

    return decide


_within_budget = FailureHandler._within_budget


def _counting(change: Callable[[list[Any], str | None, str], list[Any]]) -> Any:
    def within_budget(self: Any, claimed: Any, ctx: Any, verdict: Any, earlier: Any) -> Any:
        counted = change(list(earlier), ctx.current_step, verdict.kind.value)
        return _within_budget(self, claimed, ctx, verdict, counted)

    return within_budget


def _all_count(earlier: list[Any], step: str | None, kind: str) -> list[Any]:
    return [{"step": step, "kind": kind} for _ in earlier]


def _nothing_counts(_earlier: list[Any], _step: str | None, _kind: str) -> list[Any]:
    return []


def _one_less(earlier: list[Any], _step: str | None, _kind: str) -> list[Any]:
    return earlier[1:]


def _any_step(earlier: list[Any], step: str | None, _kind: str) -> list[Any]:
    return [{**item, "step": step} for item in earlier]


# -- emulator -----------------------------------------------------------------------------


def _extends_anything(tx: Any, queue: Any, run_id: Any, extend_by: Any) -> None:
    return None


def _never_sweeps(*_args: Any) -> None:
    return None


_set_checkpoint = events.set_task_checkpoint_state


def _checkpoint_is_lost(
    tx: Any, queue: Any, task: Any, step: str, text: Any, run: Any, extend: Any = None
) -> None:
    if step != "calibrate_solve":
        _set_checkpoint(tx, queue, task, step, text, run, extend)


def _wakes_nobody(*_args: Any) -> None:
    return None


MUTANTS: dict[str, Mutant] = {
    "step result is not saved": _replaced(TaskContext, "complete_step", _unsaved),
    "suspension is swallowed": _replaced(TaskContext, "await_event", _swallowed),
    "sleep starts again at each wake-up": _replaced(TaskContext, "_sleep_until", _forgetful_sleep),
    "sleep does not sleep": _replaced(TaskContext, "_sleep_until", _sleep_as_done),
    "repeated step names share a checkpoint": _replaced(
        TaskContext, "_ask", _asked_under_its_own_name
    ),
    "checkpoints are not read on resume": _replaced(TaskContext, "load", _without_checkpoints),
    "every start has the number 1": _replaced(StepRecord, "started", _always_the_first),
    "poison is started again": _replaced(StepJournal, "begin", _no_poison),
    "outcome of a start is not noted": _replaced(StepJournal, "end", _no_outcome),
    "takes other workers' runs for orphans": _replaced(
        Worker, "_recover_orphans", _everybodys_orphans
    ),
    "orphans are failed": _replaced(Worker, "_recover_orphans", _orphans_are_failed),
    "worker dies when a claim is refused": _replaced(Worker, "_claim", _claim_dies),
    "lease is never extended": _replaced(Lease, "heartbeat_loop", _keeper_sleeps),
    "lease is extended too late": _replaced(Lease, "heartbeat_loop", _keeper_is_late),
    "lost lease is not reported": _replaced(Lease, "heartbeat_loop", _keeper_gives_up_silently),
    "no self-fencing without a database": _replaced(Lease, "_repeat", _retries_for_ever),
    "an unanswered call is not repeated": _replaced(Lease, "_repeat", _never_retries),
    "work goes on without its lease": _replaced(worker_module, "while_leased", work_goes_on),
    "permanent failure is retried": _replaced(
        FailureHandler, "_decide", _decided(permanent="retry")
    ),
    "short resource fails the task": _replaced(
        FailureHandler, "_decide", _decided(resource="failed")
    ),
    "unknown failure is final": _replaced(FailureHandler, "_decide", _decided(unknown="failed")),
    "interruption counts as a failure": _replaced(
        FailureHandler, "_within_budget", _counting(_all_count)
    ),
    "failures are not counted": _replaced(
        FailureHandler, "_within_budget", _counting(_nothing_counts)
    ),
    "one retry too many": _replaced(FailureHandler, "_within_budget", _counting(_one_less)),
    "one budget for all steps": _replaced(FailureHandler, "_within_budget", _counting(_any_step)),
    "everything is transient": _replaced(Classifier, "classify", _judged(FailureKind.TRANSIENT)),
    "everything is unknown": _replaced(Classifier, "classify", _judged(FailureKind.UNKNOWN)),
    "what CASA said before it aborted is ignored": _replaced(
        Classifier, "_by_process", _only_the_signal
    ),
    "emulator: dead run's lease is extended": _replaced(runs, "extend_claim", _extends_anything),
    "emulator: expired leases are not swept": _replaced(
        runs, "sweep_expired_leases", _never_sweeps
    ),
    "emulator: a failed run has no successor": _replaced(runs, "insert_run", _wakes_nobody),
    "emulator: a checkpoint is lost": _replaced(
        events, "set_task_checkpoint_state", _checkpoint_is_lost
    ),
    "emulator: an event wakes nobody": _replaced(events, "_wake_waiting_runs", _wakes_nobody),
    **PRODUCTS,
    **FIRST_ROUND,
    **SECOND_ROUND,
}
"""By what is wrong."""
