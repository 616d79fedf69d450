"""Ends tasks whose stored row makes every claim of their queue fail, so that the others go on.

Absurd reads the cancellation rules of all live tasks in each claim, and fails the runs whose lease
has expired: a value there that the database cannot calculate with refuses the claim, for everybody
and for ever. Absurd checks neither when such a task is spawned; any client may store one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from uuid import UUID

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.errors import (
    BackendError,
    BackendUnavailable,
    RunAlreadyFailed,
    TaskCancelled,
    ValueRefused,
)
from absurd_contimg.core.jsonb_sanitizer import shortened
from absurd_contimg.core.records import INFINITY, LIVE_STATES, TERMINAL_STATES, Run, Task
from absurd_contimg.core.row_values import Unreadable
from absurd_contimg.core.step_journal import START_PREFIX, StepOutcome, StepRecord

_log = logging.getLogger(__name__)

_LOOKED_AT_MAX = 100_000
_BIGINT_MAX = 2**63
_SPACES = " \t\n\v\f\r"
_INTEGER = re.compile(
    r"[+-]?([0-9]+(_[0-9]+)*|0[xX](_?[0-9a-fA-F])+|0[oO](_?[0-7])+|0[bB](_?[01])+)"
)
_PAST = datetime.min.replace(tzinfo=UTC)
_ADVICE = "Spawn the task again with rules, times and counts that Absurd can calculate with."


def malformed(task: Task) -> str | None:
    """Why Absurd cannot read the task's cancellation rules; None if it can."""
    rules = task.cancellation
    if task.state in TERMINAL_STATES:
        return None
    if isinstance(rules, Unreadable):
        return f"Its cancellation rules cannot be read: {rules.unreadable}."
    for name in ("max_delay", "max_duration"):
        value = rules.get(name) if isinstance(rules, Mapping) else None
        if value is not None and not is_bigint(value):
            shown = shortened(ascii(value), 100)
            return f"Its cancellation rule {name} is {shown}, not a whole number of seconds."
    return None


def is_bigint(value: object) -> bool:
    """Whether ``(cancellation->>name)::bigint`` takes it: an integer, or text that is one."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return False
    if isinstance(value, str):
        text = value.strip(_SPACES)
        if not _INTEGER.fullmatch(text):
            return False
        try:
            value = int(text, 0 if text.lstrip("+-")[1:2].isalpha() else 10)
        except ValueError:  # more digits than Python converts
            return False
    return -_BIGINT_MAX <= value < _BIGINT_MAX


async def end_blocking_tasks(backend: Backend, queue_name: str) -> list[str]:
    """Cancel the tasks because of which a claim was refused; a sentence about each.

    Called after a refusal that blames a value. Fails expired runs on the way, as a claim does.
    """
    ended = []
    async for task_id, problem in _blocking(backend, queue_name):
        await cancel_with_reason(backend, queue_name, task_id, problem)
        ended.append(f"task {task_id} was cancelled, it blocked every claim: {problem} {_ADVICE}")
    return ended


async def cancel_with_reason(
    backend: Backend, queue_name: str, task_id: UUID, problem: str
) -> None:
    """Cancel a task that cannot be failed; the journal of its work outside of steps says why."""
    history = await backend.history(queue_name, task_id)
    if history is None or history.task.state in TERMINAL_STATES:
        return
    if history.runs:
        outcome = StepOutcome("failed", "permanent", "unreadable-value", problem, advice=_ADVICE)
        record = StepRecord.read("", history.checkpoint_states).ended(outcome)
        try:
            await backend.set_task_checkpoint_state(
                queue_name, task_id, START_PREFIX, record.to_json(), history.runs[-1].run_id
            )
        except BackendUnavailable:
            raise
        except (RunAlreadyFailed, TaskCancelled, BackendError) as error:
            _log.warning("task %s: why it is cancelled cannot be noted: %s", task_id, error)
    await backend.cancel_task(queue_name, task_id)


async def _blocking(backend: Backend, queue_name: str) -> AsyncIterator[tuple[UUID, str]]:
    tasks = await backend.list_tasks(queue_name, states=LIVE_STATES, limit=_LOOKED_AT_MAX)
    problems = [(task.task_id, text) for task in tasks if (text := malformed(task)) is not None]
    for problem in problems:
        yield problem
    blocking_runs = [problem async for problem in _unfailable(backend, queue_name)]
    for problem in blocking_runs:
        yield problem
    if problems or blocking_runs:
        return
    for task in tasks:  # Postgres before 17 cannot subtract them
        times = (task.enqueue_at, task.first_started_at)
        if task.cancellation is not None and (INFINITY in times or _PAST in times):
            yield task.task_id, "It has a cancellation rule and an infinite time to count it from."


async def _unfailable(backend: Backend, queue_name: str) -> AsyncIterator[tuple[UUID, str]]:
    """The tasks of runs whose expired lease Absurd cannot handle, found by asking it to."""
    now = await backend.current_time()
    running = await backend.list_runs(queue_name, states=["running"], limit=_LOOKED_AT_MAX)
    for run in running:
        if run.claim_expires_at is None or run.claim_expires_at > now:
            continue
        try:
            await backend.fail_run(queue_name, run.run_id, _expired(run))
        except (RunAlreadyFailed, TaskCancelled):
            continue
        except ValueRefused as error:
            yield run.task_id, f"Its run {run.attempt} has expired and cannot be failed: {error}."


def _expired(run: Run) -> dict[str, str | int]:
    """The reason that ``claim_task`` stores for an expired lease."""
    return {
        "name": "$ClaimTimeout",
        "message": "worker did not finish task within claim interval",
        "workerId": run.claimed_by or "",
        "claimExpiredAt": str(run.claim_expires_at),
        "attempt": run.attempt,
    }
