"""The figures of one run of a campaign, from its histories and from what was injected."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from absurd_contimg.core.records import History
from absurd_contimg.history.metrics import measure, percentile
from absurd_contimg.history.summary import TaskSummary, ended_at, summarize
from absurd_contimg.simulation.campaign.campaign import Run
from absurd_contimg.simulation.campaign.faults import DAY_SECONDS
from absurd_contimg.simulation.campaign.lost_time import Loss, losses_of
from absurd_contimg.simulation.model.world import EPOCH

_BACKLOG_POINTS = 200
_CALM_GROUPS = 2


@dataclass(frozen=True, slots=True)
class RunSummary:
    """The figures of one run; times in seconds."""

    label: str
    seed: int
    groups: int
    rejected: int
    completed: int
    failed: int
    unfinished: int
    throughput_per_hour: float
    latency_p50: float | None
    """From spawn to completion; None where nothing has completed."""
    latency_p95: float | None
    latency_max: float | None
    backlog_max: int
    backlog_end: int
    backlog_gone_after: float | None
    """See `backlog_gone_after`."""
    utilisation: float
    """Share of all workers' time in which a stage ran."""
    stage_seconds: float
    lost_share: float
    """Share of stage time that ended without a product."""
    losses: Mapping[str, Loss]
    """Starts of stages without a product and the time in them, by cause: see `LOSS_MEANINGS`."""
    failures: Mapping[str, int]
    """Failed runs by kind."""
    failed_by_rule: Mapping[str, int]
    """Failed groups by the step and the rule of the failure with which they ended."""
    resource_waits: Mapping[str, int]
    """Starts of stages that ended with a wait for a resource, by rule."""
    waiting: tuple[str, ...]
    """What each unfinished task waits for at the end, until when, and the advice."""
    injected: Mapping[str, int]
    effective: Mapping[str, int]
    violations: tuple[str, ...]
    digest: str

    def lost_starts(self, cause: str) -> int:
        """How many starts of stages ended by this cause."""
        return self.losses[cause].starts if cause in self.losses else 0


def summarize_run(run: Run, label: str) -> RunSummary:
    """The figures of a run."""
    metrics, points = measure(run.histories), backlog(run)
    latencies, states = metrics.latency_seconds, metrics.tasks_by_state
    completed, failed = states.get("completed", 0), states.get("failed", 0)
    seconds = run.scenario.days * DAY_SECONDS
    completions = (each for each in run.histories if each.task.state == "completed")
    in_time = sum(end <= seconds for end in _ends(completions))
    worker_seconds = run.scenario.workers.count * run.ended_at_seconds
    tasks = [summarize(history) for history in run.histories]
    losses = losses_of(run)
    waits = Counter(
        str(start.noted.rule)
        for task in tasks
        for start in task.starts
        if start.outcome == "waiting" and start.noted is not None
    )
    return RunSummary(
        label=label,
        seed=run.seed,
        groups=len(run.histories),
        rejected=run.groups_rejected,
        completed=completed,
        failed=failed,
        unfinished=len(run.histories) - completed - failed,
        throughput_per_hour=in_time / seconds * 3600.0,
        latency_p50=percentile(latencies, 0.50) if latencies else None,
        latency_p95=percentile(latencies, 0.95) if latencies else None,
        latency_max=latencies[-1] if latencies else None,
        backlog_max=max(count for _, count in points),
        backlog_end=points[-1][1],
        backlog_gone_after=backlog_gone_after(run),
        utilisation=run.stage_seconds / worker_seconds,
        stage_seconds=run.stage_seconds,
        lost_share=_sum(losses) / run.stage_seconds if run.stage_seconds else 0.0,
        losses=losses,
        failures=dict(sorted(metrics.failures_by_kind.items())),
        failed_by_rule=dict(sorted(Counter(_ends_badly(tasks)).items())),
        resource_waits=dict(sorted(waits.items())),
        waiting=tuple(_waiting_lines(tasks)),
        injected=dict(run.injected),
        effective=dict(run.effective),
        violations=tuple(map(str, run.violations)),
        digest=run.digest,
    )


def _sum(losses: Mapping[str, Loss]) -> float:
    return sum(loss.seconds for loss in losses.values())


def _ends_badly(tasks: Iterable[TaskSummary]) -> Iterator[str]:
    """The step and the rule with which each failed task has ended."""
    for task in tasks:
        failure = task.last_failure
        if task.state == "failed" and failure is not None:
            step = f"{failure.step}: " if failure.step else ""
            yield f"{step}{failure.rule or failure.name}"


def _waiting_lines(tasks: Iterable[TaskSummary]) -> Iterator[str]:
    """What each task that has not ended waits for, with the advice of its failure rule."""
    for task in tasks:
        if task.waiting is not None:
            advice = "" if task.waiting.advice is None else f": {task.waiting.advice}"
            yield f"group {task.group} waits for {task.waiting}{advice}"


def backlog(run: Run) -> list[tuple[float, int]]:
    """How many groups were spawned and not ended, at evenly spaced times of the observing."""
    spawned = sorted(_seconds(history.task.enqueue_at) for history in run.histories)
    ended = sorted(_ends(run.histories))
    end = run.scenario.days * DAY_SECONDS
    times = [end * number / _BACKLOG_POINTS for number in range(_BACKLOG_POINTS + 1)]
    return [(time, bisect_right(spawned, time) - bisect_right(ended, time)) for time in times]


def backlog_gone_after(run: Run) -> float | None:
    """Seconds from the end of the last planned outage or stop until at most two groups are left.

    None without such an outage, and when the observing ends before.
    """
    faults = run.scenario.faults
    planned = [at + lasts for at, lasts in (*faults.outages, *faults.processing_stops)]
    if not planned:
        return None
    arrivals = [(_seconds(history.task.enqueue_at), 1) for history in run.histories]
    departures = [(at, -1) for at in _ends(run.histories)]
    groups, over = 0, max(planned)
    for at, change in sorted(arrivals + departures):
        groups += change
        if over <= at <= run.scenario.days * DAY_SECONDS and groups <= _CALM_GROUPS:
            return at - over
    return None


def _ends(histories: Iterable[History]) -> list[float]:
    ends = map(ended_at, histories)
    return [_seconds(end) for end in ends if end is not None]


def _seconds(moment: datetime) -> float:
    return (moment - EPOCH).total_seconds()
