"""Invariants of a task and its runs: states, attempts, times, results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

from absurd_contimg.core.records import INFINITY, LIVE_STATES, TERMINAL_STATES, History
from absurd_contimg.core.retries import RetryPolicy


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
