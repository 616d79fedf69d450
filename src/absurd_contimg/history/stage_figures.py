"""How long the steps of recent tasks took, how they ended, and how long tasks waited to start.

Read from histories alone, so a worker that died hides nothing. The figures are of the newest tasks
and not totals: they go down when tasks leave the sample.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from absurd_contimg.core.backend import Inspection
from absurd_contimg.core.errors import QueueNotFound
from absurd_contimg.core.records import INFINITY, History
from absurd_contimg.history.metrics import percentile
from absurd_contimg.history.summary import read_histories
from absurd_contimg.history.timeline import step_starts

SAMPLE_TASKS = 500
"""Tasks of each queue that are read: two days of groups, one every 309 s."""

SAMPLE_MIN = 5
"""With fewer durations a percentile says nothing."""


@dataclass(frozen=True, slots=True)
class StageFigures:
    """Figures of the newest tasks; all durations in seconds, ascending."""

    step_seconds: Mapping[tuple[str, str], Sequence[float]] = field(default_factory=dict)
    """By step and outcome (`StepStart.outcome`); steps that adopted a product did no work."""
    ended_starts: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    """Starts that ended, by step, outcome and failure kind (empty where none failed)."""
    start_waits: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """By queue: from the moment when a run could be claimed until it was."""

    def usual_seconds(self, step: str, share: float = 0.95) -> float | None:
        """What a share of the finished starts of a step did not exceed; None: too few are known."""
        known = self.step_seconds.get((step, "done"), ())
        return percentile(known, share) if len(known) >= SAMPLE_MIN else None


def measure_stages(histories: Mapping[str, Sequence[History]]) -> StageFigures:
    """The figures of these tasks, given by queue."""
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    ended: Counter[tuple[str, str, str]] = Counter()
    waits: dict[str, list[float]] = defaultdict(list)
    for queue, tasks in histories.items():
        for history in tasks:
            for run in history.runs:
                if run.started_at is not None and run.available_at != INFINITY:
                    waited = (run.started_at - run.available_at).total_seconds()
                    waits[queue].append(max(waited, 0.0))
            for start in step_starts(history):
                if start.outcome == "running":
                    continue
                kind = "" if start.noted is None else start.noted.kind or ""
                ended[start.step, start.outcome, kind] += 1
                if start.seconds is not None and not start.adopted:
                    seconds[start.step, start.outcome].append(max(start.seconds, 0.0))
    return StageFigures(
        {key: sorted(values) for key, values in sorted(seconds.items())},
        dict(sorted(ended.items())),
        {queue: sorted(values) for queue, values in sorted(waits.items())},
    )


async def read_stage_figures(
    inspection: Inspection, queues: Sequence[str], limit: int = SAMPLE_TASKS
) -> StageFigures:
    """The figures of the newest tasks of these queues, with two reads for each."""
    histories = {}
    for queue in queues:
        try:
            histories[queue] = await read_histories(inspection, queue, limit=limit)
        except QueueNotFound:
            continue  # dropped meanwhile
    return measure_stages(histories)
