"""Ends of a worker in plain handler code, outside of tracked steps: counted from the history.

A tracked step notes its starts, and a start without an outcome is a death (`core.step_journal`).
Plain code notes nothing beforehand, which would cost every claim a write. Its deaths are known
afterwards: a run whose lease has expired without a note of its worker's (`core.lost_leases`), or a
run that the next worker of the same id finds claimed when it starts, and notes here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.errors import (
    BackendError,
    ControlFlow,
)
from absurd_contimg.core.evidence import reason_of
from absurd_contimg.core.failures import PoisonStep
from absurd_contimg.core.records import History, Json, Run
from absurd_contimg.core.refusals import Refusal, meaning_of
from absurd_contimg.core.run_session import RunSession
from absurd_contimg.core.step_journal import (
    DEATH_PREFIX,
    JOURNAL_PREFIXES,
    LOSSES_MAX,
    LOST_PREFIX,
    STALLED,
    STALLS_MAX,
    START_PREFIX,
    StepRecord,
)
from absurd_contimg.core.task_queries import LEASE_EXPIRED

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ends:
    """How often in a row, since the last new checkpoint, plain code has ended its run unsaid."""

    deaths: int = 0
    """Of the worker."""
    stalls: int = 0
    """The worker's event loop stood still for longer than the lease."""
    losses: int = 0
    """A living worker lost the lease, stalls included."""


@dataclass(frozen=True, slots=True)
class _Deaths:
    """The checkpoint of this module: deaths in one run that was claimed again each time."""

    count: int
    steps: int
    """How many checkpoints the task had: a later one begins a new row."""
    claimed_at: str
    """When the run was claimed that died last: the same death is not counted twice."""

    @classmethod
    def read(cls, saved: Json) -> _Deaths:
        """What `to_json` wrote; none if another client wrote something else there."""
        fields = saved if isinstance(saved, Mapping) else {}
        count, steps = fields.get("count"), fields.get("steps")
        if not isinstance(count, int) or not isinstance(steps, int):
            return cls(0, 0, "")
        return cls(count, steps, str(fields.get("claimed_at")))

    def to_json(self) -> dict[str, Json]:
        return {"count": self.count, "steps": self.steps, "claimed_at": self.claimed_at}


async def note_death(backend: Backend, queue_name: str, orphan: Run) -> None:
    """Note that a worker died while it had this run, unless it was in a tracked step.

    Called before the run is released. Raises a refusal that may pass by itself, nothing else.
    """
    try:
        history = await backend.history(queue_name, orphan.task_id)
        if history is None or _was_in_tracked_step(history, orphan):
            return
        name, steps = f"{DEATH_PREFIX}{orphan.attempt}", len(_owners_of_steps(history))
        noted = _Deaths.read(history.checkpoint_states.get(name))
        claimed_at = str(orphan.started_at)
        if noted.claimed_at == claimed_at:
            return
        count = noted.count + 1 if noted.steps == steps else 1
        state = _Deaths(count, steps, claimed_at).to_json()
        await backend.set_task_checkpoint_state(
            queue_name, orphan.task_id, name, state, orphan.run_id
        )
    except (BackendError, ControlFlow) as error:
        if isinstance(error, BackendError) and meaning_of(error) is Refusal.PASSING:
            raise
        _log.warning("a death in run %s was not noted: %s", orphan.run_id, reason_of(error))


async def require_survivors(session: RunSession, poison_limit: int) -> None:
    """Raise `PoisonStep` if plain code of the task has ended too many workers in a row.

    Reads the history only if there can be so many.
    """
    claimed = session.claimed
    noted = any(name.startswith(DEATH_PREFIX) for name in session.checkpoints)
    if not noted and claimed.attempt <= min(poison_limit, STALLS_MAX, LOSSES_MAX):
        return
    history = await session.lease.retry_until_deadline(
        lambda: session.backend.history(session.queue_name, claimed.task_id)
    )
    ends = Ends() if history is None else count_ends(history, claimed.run_id)
    if ends.deaths >= poison_limit or ends.stalls >= STALLS_MAX or ends.losses >= LOSSES_MAX:
        raise PoisonStep(
            "The handler, outside of tracked steps and since the last checkpoint, has ended its "
            f"worker {ends.deaths} times in a row without a word, stood still for longer than its "
            f"lease {ends.stalls} times, and lost its lease {ends.losses} times: it is not started "
            "again."
        )


def count_ends(history: History, run_id: UUID) -> Ends:
    """How the runs before this one ended, and this one while it was claimed before."""
    attempts = {run.run_id: run.attempt for run in history.runs}
    owners = _owners_of_steps(history)
    progress = max((attempts.get(owner, 0) for owner in owners if owner is not None), default=0)
    deaths = stalls = losses = 0
    for run in sorted(history.runs, key=lambda each: -each.attempt):
        if run.attempt > attempts[run_id]:
            continue
        if run.attempt < progress:
            break
        if run.run_id != run_id:
            reason = run.failure_reason
            if not isinstance(reason, Mapping) or reason.get("name") != LEASE_EXPIRED:
                break
            lost, stalled = _loss_of(history, run)
            losses, stalls = losses + lost, stalls + stalled
            deaths += not lost and not _was_in_tracked_step(history, run)
        noted = _Deaths.read(history.checkpoint_states.get(f"{DEATH_PREFIX}{run.attempt}"))
        deaths += noted.count if noted.steps == len(owners) else 0
    return Ends(deaths, stalls, losses)


def noted_deaths(history: History, run: Run) -> int:
    """How often workers died in plain code of a run that was claimed again each time.

    Since its last new checkpoint: what came before is not counted.
    """
    return _Deaths.read(history.checkpoint_states.get(f"{DEATH_PREFIX}{run.attempt}")).count


def _owners_of_steps(history: History) -> list[UUID | None]:
    """The runs that wrote the task's checkpoints, those of the journal left out."""
    return [
        saved.owner_run_id
        for saved in history.checkpoints
        if not saved.checkpoint_name.startswith(JOURNAL_PREFIXES)
    ]


def _loss_of(history: History, run: Run) -> tuple[bool, bool]:
    """Whether a living worker lost the run's lease in plain code, and by standing still."""
    for name, state in history.checkpoint_states.items():
        if not name.startswith(LOST_PREFIX) or not isinstance(state, Mapping):
            continue
        if state.get("run_id") == str(run.run_id):
            return True, state.get("rule") == STALLED
    return False, False


def _was_in_tracked_step(history: History, run: Run) -> bool:
    """Whether the journal counts this end: a start of this claim has no outcome."""
    states = history.checkpoint_states
    for name in states:
        step = name.removeprefix(START_PREFIX)
        if not name.startswith(START_PREFIX) or step in states:
            continue
        for start in StepRecord.read(step, states).starts:
            is_of_claim = run.started_at is not None and start.started_at >= run.started_at
            if start.run_id == str(run.run_id) and is_of_claim and start.outcome is None:
                return True
    return False
