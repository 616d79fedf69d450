"""Invariants of failures: their reasons, their budgets, and what came after them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from absurd_contimg.core.failures import FailureKind, action_of
from absurd_contimg.core.records import History, Run
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.history.failures import LEASE_EXPIRED, reason_of
from absurd_contimg.history.timeline import journal


def failure_says_why(history: History, _policy: RetryPolicy) -> Iterator[str]:
    """Every failed run has a reason with a name and a message or, from us, a kind and a rule."""
    for run in history.runs:
        if run.state != "failed":
            continue
        reason = reason_of(run)
        if not reason.get("name"):
            yield f"run {run.attempt} failed without a reason"
        elif reason["name"] != LEASE_EXPIRED and "kind" in reason and not reason.get("rule"):
            yield f"run {run.attempt} failed as {reason['kind']} by no rule"


def permanent_failure_is_not_retried(history: History, _policy: RetryPolicy) -> Iterator[str]:
    """After a permanent failure comes nothing, unless an operator or a fallback asked for it."""
    for run, follower in pairwise(history.runs):
        with_fallback = action_of(reason_of(run)) == "fallback"
        if _kind(run) == FailureKind.PERMANENT and _at_once(run, follower) and not with_fallback:
            yield f"run {run.attempt} failed for good ({reason_of(run)['rule']}) and was retried"


def permanent_failure_is_permanent(history: History, _policy: RetryPolicy) -> Iterator[str]:
    """The errors that can never pass by themselves were judged so."""
    for run in history.runs:
        evidence = reason_of(run).get("evidence") or {}
        errors = evidence.get("exceptions", ())
        names = {name for error in errors for name in error.get("type_names", ())}
        never = {"absurd_contimg.errors.InputError", "absurd_contimg.core.failures.PoisonStep"}
        if names & never and _kind(run) != FailureKind.PERMANENT:
            yield f"run {run.attempt} failed with {sorted(names & never)[0]} as {_kind(run)}"


def retries_stay_in_their_budget(history: History, policy: RetryPolicy) -> Iterator[str]:
    """A step fails at most as often as its kind of failure allows, operators' retries apart."""
    if history.task.max_attempts is not None and history.task.state != "failed":
        return
    counts: Counter[tuple[str, str]] = Counter()
    for run, follower in zip(history.runs, (*history.runs[1:], None), strict=True):
        kind = _kind(run)
        if kind not in (FailureKind.TRANSIENT, FailureKind.UNKNOWN):
            continue
        key = str(reason_of(run).get("step")), kind.value
        counts[key] += 1
        automatic = follower is not None and _at_once(run, follower)
        if automatic and counts[key] >= policy.attempts(kind):
            yield f"step {key[0]} was retried after {counts[key]} {key[1]} failures"
        if follower is not None and not automatic:
            counts.clear()


def nothing_fails_before_its_budget_is_spent(
    history: History, policy: RetryPolicy
) -> Iterator[str]:
    """A task that failed for a passing reason was tried as often as it may be."""
    if history.task.state != "failed" or not history.runs:
        return
    last = history.runs[-1]
    kind, step = _kind(last), reason_of(last).get("step")
    if kind == FailureKind.INTERRUPTED:
        yield "it failed because it was interrupted"
    if kind not in (FailureKind.TRANSIENT, FailureKind.UNKNOWN) or not _capped_by_us(history):
        return
    same = sum(_kind(run) == kind and reason_of(run).get("step") == step for run in history.runs)
    if same < policy.attempts(kind):
        yield f"step {step} failed for good after {same} {kind.value} failures"


def interruption_costs_no_task(history: History, _policy: RetryPolicy) -> Iterator[str]:
    """No task without an attempt limit ends because its workers died."""
    if history.task.state == "failed" and history.runs:
        reason = reason_of(history.runs[-1])
        if reason.get("name") == LEASE_EXPIRED:
            yield "it failed because a lease ran out"


def resource_failure_spends_no_attempt(history: History, policy: RetryPolicy) -> Iterator[str]:
    """Where a resource is short the run waits; it fails only when it has waited too often."""
    starts = {record.step: len(record.starts) for record in journal(history)}
    for run in history.runs:
        if _kind(run) == FailureKind.RESOURCE and policy.resource_waits_max > 0:
            step = str(reason_of(run).get("step"))
            waits = starts.get(step, 0) - 1
            if waits < min(policy.resource_waits_max, 19):
                yield f"run {run.attempt} failed at {step} for {reason_of(run).get('rule')}"


def a_retry_waits(history: History, policy: RetryPolicy) -> Iterator[str]:
    """What failed in passing is not tried again at once: whatever was wrong needs its time.

    Also found where a worker stood still after it had asked for the time and before it told the
    database: history does not tell that from a retry without a delay.
    """
    if history.task.retry_strategy:
        return
    for run, after in pairwise(history.runs):
        reason = reason_of(run)
        if action_of(reason) != "retry" or reason.get("rule") == "hook" or not run.failed_at:
            continue
        waited = (after.available_at - run.failed_at).total_seconds()
        if waited < 0.5 * policy.delay_seconds(1):
            yield f"run {after.attempt} was due {waited:.1f} s after run {run.attempt} had failed"


def _kind(run: Run) -> FailureKind | None:
    kind = reason_of(run).get("kind")
    return FailureKind(kind) if kind in set(FailureKind) else None


def _at_once(run: Run, follower: Run) -> bool:
    """Whether Absurd made the next run as it failed this one: an operator comes later."""
    return run.failed_at is not None and follower.created_at == run.failed_at


def _capped_by_us(history: History) -> bool:
    """Whether ``fail_run_permanently`` ended it: it lowers the limit to the attempts made.

    A spawner's own limit looks the same when it is spent; then the kinds say nothing.
    """
    retry = history.task.retry_strategy
    return retry is None and history.task.max_attempts == history.task.attempts
