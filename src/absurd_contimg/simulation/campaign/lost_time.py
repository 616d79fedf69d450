"""Stage time without a product, by cause: what the campaign observed, with what journals say."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from absurd_contimg.history.metrics import loss_cause
from absurd_contimg.history.timeline import step_starts
from absurd_contimg.simulation.campaign.campaign import Run
from absurd_contimg.workflows.group import attempt_name

LOSS_MEANINGS: Mapping[str, str] = {
    "died": "the worker died",
    "lost": "the lease ended before a living worker extended it",
    "failed": "the stage failed, and was tried again or not",
    "waiting": "a resource was short",
    "released": "the worker was stopped",
    "cancelled": "the task was cancelled",
}
"""By cause, as `loss_cause` names it."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Starts of stages that ended without a product, by one cause, and the time in them."""

    starts: int
    seconds: float


def losses_of(run: Run) -> dict[str, Loss]:
    """By cause; the seconds are all of the stage time that was lost."""
    causes: dict[tuple[str, str], str] = {}
    starts: Counter[str] = Counter()
    for history in run.histories:
        for start in step_starts(history):
            cause = loss_cause(start.outcome)
            starts.update([] if cause is None else [cause])
            name = attempt_name(str(history.task.task_id), start.start)
            # What does not run, and is under way by the journal, is of a worker that just died.
            causes[name, start.step] = cause or "died"
    seconds: dict[str, float] = defaultdict(float)
    for lost in run.lost_stages:
        seconds[causes.get((lost.attempt, lost.stage), "died")] += lost.seconds
    return {cause: Loss(starts[cause], seconds[cause]) for cause in _ordered({*starts, *seconds})}


def sum_of_losses(losses: Sequence[Mapping[str, Loss]]) -> dict[str, Loss]:
    """Of several runs."""
    sums = {}
    for cause in _ordered({cause for each in losses for cause in each}):
        of_cause = [each[cause] for each in losses if cause in each]
        sums[cause] = Loss(
            sum(loss.starts for loss in of_cause), sum(loss.seconds for loss in of_cause)
        )
    return sums


def _ordered(causes: Iterable[str]) -> list[str]:
    known = list(LOSS_MEANINGS)
    return sorted(causes, key=lambda cause: (known.index(cause) if cause in known else 99, cause))
