"""The report's timelines: a bar for each start of a stage, coloured by the classes ``w0``, ..."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from absurd_contimg.core.records import History
from absurd_contimg.history.timeline import StepStart, group_of, step_starts

WORKER_COLOURS = 8
"""Further workers share colours; the tables name each worker."""

_RIGHT_MARGIN = 24.0
_ROW_HEIGHT = 24.0
_CHARACTER_WIDTH = 6.4
_TICKS_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 21600, 86400)
_TICKS_MAX = 9


@dataclass(frozen=True, slots=True)
class Span:
    """A start of a step, with an end to draw."""

    start: StepStart
    ends_at: datetime
    died: bool
    resumes: bool
    """The previous start of the same step did not finish."""

    @property
    def failed(self) -> bool:
        """It ended without a result, and its worker could say why."""
        return not self.died and self.start.outcome not in ("done", "running")


@dataclass(frozen=True, slots=True)
class Bar:
    """The rectangle of a span, in the picture's units."""

    span: Span
    x: float
    y: float
    width: float
    css: str
    tooltip: str
    label: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """A picture for the template; lengths in the picture's units."""

    lanes: Sequence[tuple[float, str]]
    """The middle of each row, and its name."""
    bars: Sequence[Bar]
    ticks: Sequence[tuple[float, str]]
    """The marks on the axis of time."""
    bottom: float

    width = 1000.0
    left = 170.0
    bar_height = 16.0
    axis_height = 26.0


def worker_names(histories: Sequence[History]) -> list[str]:
    """The workers that have started a step, in the order of their first starts."""
    starts = [start for history in histories for start in step_starts(history)]
    starts.sort(key=lambda start: start.started_at)
    return list(dict.fromkeys(start.worker for start in starts))


def spans(history: History) -> list[Span]:
    """The starts of a task; without a known end, until the next start or the last known time."""
    starts = step_starts(history)
    last_time = _last_time(history, starts)
    result = []
    for position, start in enumerate(starts):
        earlier = [other for other in starts[:position] if other.step == start.step]
        later = [other for other in starts[position + 1 :] if other.step == start.step]
        end = start.ended_at or (later[0].started_at if later else last_time)
        result.append(
            Span(
                start,
                max(end, start.started_at),
                died=start.outcome in ("died", "poison"),
                resumes=bool(earlier) and earlier[-1].outcome != "done",
            )
        )
    return result


def _last_time(history: History, starts: Sequence[StepStart]) -> datetime:
    times = [start.started_at for start in starts]
    times += [checkpoint.updated_at for checkpoint in history.checkpoints]
    for run in history.runs:
        times += [time for time in (run.completed_at, run.failed_at, run.started_at) if time]
    return max(times, default=history.task.enqueue_at)


def overview(histories: Sequence[History], workers: Sequence[str]) -> Timeline | None:
    """One row for each group; None if no step was started."""
    rows = [(group_of(history), spans(history)) for history in histories]
    return _timeline([row for row in rows if row[1]], workers)


def stage_timeline(history: History, workers: Sequence[str]) -> Timeline | None:
    """One row for each stage of one group; None if no step was started."""
    rows: dict[str, list[Span]] = {}
    for span in spans(history):
        rows.setdefault(span.start.step, []).append(span)
    return _timeline(list(rows.items()), workers)


def _timeline(
    rows: Sequence[tuple[str, Sequence[Span]]], workers: Sequence[str]
) -> Timeline | None:
    if not rows:
        return None
    begin = min(span.start.started_at for _, row in rows for span in row)
    end = max(span.ends_at for _, row in rows for span in row)
    seconds = max((end - begin).total_seconds(), 1.0)
    scale = (Timeline.width - Timeline.left - _RIGHT_MARGIN) / seconds

    def bar(span: Span, row: int, row_label: str) -> Bar:
        start = span.start
        width = max((span.ends_at - start.started_at).total_seconds() * scale, 2.0)
        # The row has the name of the group or of the step; the bar has what the row leaves open.
        label = start.worker if row_label == start.step else start.step
        duration = "" if start.seconds is None else f", {start.seconds:.1f} s"
        return Bar(
            span,
            x=round(Timeline.left + (start.started_at - begin).total_seconds() * scale, 1),
            y=row * _ROW_HEIGHT + (_ROW_HEIGHT - Timeline.bar_height) / 2,
            width=round(width, 1),
            css=f"w{workers.index(start.worker) % WORKER_COLOURS}",
            tooltip=f"{start.step}, start {start.start}, on {start.worker} at "
            f"{start.started_at:%H:%M:%S}{duration}: "
            f"{'its worker died' if span.died else start.ending}",
            label=label if len(label) <= int((width - 8.0) / _CHARACTER_WIDTH) else "",
        )

    return Timeline(
        [((row + 0.5) * _ROW_HEIGHT, label) for row, (label, _) in enumerate(rows)],
        [bar(span, row, label) for row, (label, drawn) in enumerate(rows) for span in drawn],
        _ticks(begin, seconds, scale),
        len(rows) * _ROW_HEIGHT,
    )


def _ticks(begin: datetime, seconds: float, scale: float) -> list[tuple[float, str]]:
    step = next((s for s in _TICKS_SECONDS if seconds / s <= _TICKS_MAX), _TICKS_SECONDS[-1])
    count = min(int(seconds / step), 100)
    form = "%H:%M:%S" if step < 3600 else "%d %b %H:%M"
    ticks = []
    for later in range(0, count * step + 1, step):
        time = f"{begin + timedelta(seconds=later):{form}}"
        label = f"+{later} s" if 0 < later < 300 else time
        ticks.append((round(Timeline.left + later * scale, 1), label))
    return ticks
