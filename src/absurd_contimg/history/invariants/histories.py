"""Invariants of one history: states, attempts, times and results; failures; steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import pairwise, zip_longest

from absurd_contimg.core.failures import DECIDED_AT, FailureKind, action_of
from absurd_contimg.core.records import (
    INFINITY,
    LIVE_STATES,
    TERMINAL_STATES,
    History,
    Json,
    Run,
)
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.task_queries import LEASE_EXPIRED
from absurd_contimg.history.failures import reason_of
from absurd_contimg.history.timeline import journal


def attempts_are_counted_without_a_gap(history: History, _policy: RetryPolicy) -> Iterator[str]:
    """Runs are numbered 1, 2, 3 and the task knows how many there were."""
    numbers = [run.attempt for run in history.runs]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"its runs are numbered {numbers}"
    elif history.task.attempts != len(numbers):
        yield f"it counts {history.task.attempts} attempts and has {len(numbers)} runs"


def task_and_last_run_agree(history: History, _policy: RetryPolicy) -> Iterator[str]:
    """The task's state is its last run's, and every earlier run has failed."""
    if not history.runs:
        yield "it has no run"
        return
    last = history.runs[-1]
    if last.run_id != history.task.last_attempt_run:
        yield f"its last run is {last.run_id}, but it names {history.task.last_attempt_run}"
    if last.state != history.task.state:
        yield f"it is {history.task.state}, its last run {last.state}"
    for run in history.runs[:-1]:
        if run.state != "failed":
            yield f"run {run.attempt} is {run.state}, but there is a later one"


def no_task_is_lost(history: History, _policy: RetryPolicy) -> Iterator[str]:
    """A task that has not ended has exactly one run that can still go on, or be swept."""
    live = [run for run in history.runs if run.state in LIVE_STATES]
    if history.task.state in TERMINAL_STATES:
        if live:
            yield f"it is {history.task.state}, but run {live[0].attempt} is {live[0].state}"
    elif len(live) != 1:
        yield f"it is {history.task.state} and has {len(live)} runs that can go on"


def a_run_that_is_never_due_waits_for_an_event(
    history: History, _policy: RetryPolicy
) -> Iterator[str]:
    """A run that is never due again has a wait that can wake it."""
    waiting = {wait.run_id for wait in history.waits}
    for run in history.runs:
        if run.state == "sleeping" and run.available_at == INFINITY and run.run_id not in waiting:
            yield f"run {run.attempt} sleeps for ever and waits for nothing"


def only_a_sleeping_run_waits(history: History, _policy: RetryPolicy) -> Iterator[str]:
    """A wait belongs to a run that sleeps."""
    states = {run.run_id: run.state for run in history.runs}
    for wait in history.waits:
        if states.get(wait.run_id) != "sleeping":
            yield f"a wait for {wait.event_name!r} is left, its run is {states.get(wait.run_id)}"


def times_are_in_order(history: History, _policy: RetryPolicy) -> Iterator[str]:
    """Nothing ends before it starts or starts before it exists."""
    for run in history.runs:
        times = [run.created_at, run.started_at, run.completed_at or run.failed_at]
        known = [time for time in times if time is not None]
        if known != sorted(known):
            yield f"run {run.attempt} has the times {[time.isoformat() for time in known]}"
    for before, after in pairwise(history.runs):
        if after.created_at < before.created_at:
            yield f"run {after.attempt} is older than run {before.attempt}"


def result_is_the_runs_result(history: History, _policy: RetryPolicy) -> Iterator[str]:
    """A completed task's result is what its last run returned; no other task has one."""
    task = history.task
    if task.state == "completed":
        if history.runs and history.runs[-1].result != task.completed_payload:
            yield "its result is not its last run's"
    elif task.completed_payload is not None:
        yield f"it is {task.state} and has a result"


def success_hides_no_failure(history: History, _policy: RetryPolicy) -> Iterator[str]:
    """A result does not say that the work failed."""
    result = history.task.completed_payload
    if isinstance(result, Mapping) and str(result.get("status")).lower() in ("error", "failed"):
        yield f"it is completed with a result that says {result.get('status')}"


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
        errors = reason_of(run).get("evidence", {}).get("exceptions", ())
        names = {str(name) for error in errors for name in error["type_names"]}
        never = {"absurd_contimg.errors.InputError", "absurd_contimg.core.failures.PoisonStep"}
        if names & never and _kind(run) != FailureKind.PERMANENT:
            yield f"run {run.attempt} failed with {sorted(names & never)[0]} as {_kind(run)}"


def retries_stay_in_their_budget(history: History, policy: RetryPolicy) -> Iterator[str]:
    """A step fails at most as often as its kind of failure allows, operators' retries apart."""
    if history.task.max_attempts is not None and history.task.state != "failed":
        return
    counts: Counter[tuple[str, str]] = Counter()
    for run, follower in zip_longest(history.runs, history.runs[1:]):
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

    It counts from the worker's decision: one that stood still before the database accepted it
    has let that time pass already.
    """
    if history.task.retry_strategy:
        return
    for run, after in pairwise(history.runs):
        reason = reason_of(run)
        if action_of(reason) != "retry" or reason.get("rule") == "hook" or not run.failed_at:
            continue
        decided_at = _decided_at(reason) or run.failed_at
        waited = (after.available_at - decided_at).total_seconds()
        if waited < 0.5 * policy.delay_seconds(1):
            yield f"run {after.attempt} was due {waited:.1f} s after run {run.attempt} had failed"


def poison_is_not_started_again(history: History, policy: RetryPolicy) -> Iterator[str]:
    """A step that ended `poison_limit` workers without a word is started no more."""
    for record in journal(history):
        silent = sum(start.outcome is None for start in record.starts[:-1])
        if silent >= policy.poison_limit:
            yield f"step {record.step} was started again after it had ended {silent} workers"


def committed_step_is_not_started_again(history: History, _policy: RetryPolicy) -> Iterator[str]:
    """No start of a step is younger than the step's checkpoint."""
    saved = {save.checkpoint_name: save.updated_at for save in history.checkpoints}
    for record in journal(history):
        for start in record.starts:
            if record.step in saved and start.started_at > saved[record.step]:
                yield f"step {record.step} was started at {start.started_at}, after it was saved"


def every_start_is_numbered_once(history: History, _policy: RetryPolicy) -> Iterator[str]:
    """Starts of a step carry ascending numbers: they name scratch folders and logs."""
    for record in journal(history):
        numbers = [start.number for start in record.starts]
        if any(after <= before for before, after in pairwise(numbers)):
            yield f"starts of {record.step} are numbered {numbers}"


def every_record_has_a_start(history: History, _policy: RetryPolicy) -> Iterator[str]:
    """No step has an empty record of starts."""
    for record in journal(history):
        if not record.starts:
            yield f"step {record.step} has an empty record of starts"


def checkpoints_belong_to_runs_of_the_task(history: History, _policy: RetryPolicy) -> Iterator[str]:
    """Who wrote a checkpoint is a run of this task."""
    runs = {run.run_id for run in history.runs}
    for checkpoint in history.checkpoints:
        if checkpoint.owner_run_id is not None and checkpoint.owner_run_id not in runs:
            yield f"checkpoint {checkpoint.checkpoint_name} was written by a run of another task"


def completed_task_has_saved_its_steps(history: History, _policy: RetryPolicy) -> Iterator[str]:
    """A completed task has saved every step that it recorded as started."""
    if history.task.state != "completed":
        return
    saved = history.checkpoint_states
    for record in journal(history):
        if record.step not in saved:
            yield f"it is completed, but step {record.step} was started and never saved"


def _kind(run: Run) -> FailureKind | None:
    kind = reason_of(run).get("kind")
    return FailureKind(kind) if kind in set(FailureKind) else None


def _decided_at(reason: Mapping[str, Json]) -> datetime | None:
    """When a retry was decided, if the reason says so: earlier releases and others do not."""
    text = reason.get(DECIDED_AT)
    try:
        return datetime.fromisoformat(text).astimezone(UTC) if isinstance(text, str) else None
    except ValueError:
        return None


def _at_once(run: Run, follower: Run) -> bool:
    """Whether Absurd made the next run as it failed this one: an operator comes later."""
    return run.failed_at is not None and follower.created_at == run.failed_at


def _capped_by_us(history: History) -> bool:
    """Whether ``fail_run_permanently`` ended it: it lowers the limit to the attempts made.

    A spawner's own limit looks the same when it is spent; then the kinds say nothing.
    """
    retry = history.task.retry_strategy
    return retry is None and history.task.max_attempts == history.task.attempts
