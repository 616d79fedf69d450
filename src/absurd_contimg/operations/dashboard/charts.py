"""Charts as positions for the templates: along time in per cent of the width, across in pixels.

What is drawn comes from histories; nothing here reads a file or a clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from absurd_contimg.core.records import INFINITY, TERMINAL_STATES, History, Run
from absurd_contimg.history.summary import TaskSummary
from absurd_contimg.history.timeline import StepStart, step_starts

LANE_HEIGHT = 24
"""As the style sheet has it."""
_BAR_TOP = 4
_AXIS_HEIGHT = 22
_WIDTH_MIN = 0.3
_TICKS_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 21_600, 43_200)
_TICKS_MAX = 7
_DAY_SECONDS = 86_400
_LANES_MAX = 200
_BARS_MAX = 1500


@dataclass(frozen=True, slots=True)
class FaultMark:
    """A fault of a simulated run."""

    at: datetime
    until: datetime | None
    """None: it has no duration."""
    text: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A span of time in one lane."""

    x: float
    y: int
    width: float
    css: str
    title: str
    gap: bool = False
    """Nothing was done: it waited."""
    ends_badly: bool = False


@dataclass(frozen=True, slots=True)
class DrawnFault:
    """A fault on the axis of time."""

    x: float
    width: float
    title: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Lanes with bars, an axis of time, faults over all lanes."""

    lanes: tuple[str, ...]
    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, str], ...]
    faults: tuple[DrawnFault, ...] = ()

    @property
    def bottom(self) -> int:
        """Of the lanes."""
        return len(self.lanes) * LANE_HEIGHT

    @property
    def height(self) -> int:
        """Of the picture."""
        return self.bottom + _AXIS_HEIGHT


@dataclass(frozen=True, slots=True)
class Axis:
    """A span of time, at least a second long."""

    begin: datetime
    end: datetime

    @property
    def seconds(self) -> float:
        """Its length."""
        return max((self.end - self.begin).total_seconds(), 1.0)

    def position(self, time: datetime) -> float:
        """Where a time is, in per cent of the width; times outside are at the edge."""
        share = (min(time, self.end) - self.begin).total_seconds() / self.seconds
        return round(100.0 * min(max(share, 0.0), 1.0), 3)

    def width(self, begin: datetime, end: datetime) -> float:
        """Of a span, never too thin to be seen."""
        return max(round(self.position(end) - self.position(begin), 3), _WIDTH_MIN)

    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Marks at round times."""
        step = next((s for s in _TICKS_SECONDS if self.seconds / s <= _TICKS_MAX), None)
        if step is None:
            days = max(int(self.seconds / _DAY_SECONDS / _TICKS_MAX), 1)
            step = days * _DAY_SECONDS
        form = "%H:%M:%S" if step < 60 else "%H:%M" if step < _DAY_SECONDS else "%d %b"
        first = self.begin.timestamp() // step * step + step
        times = [
            datetime.fromtimestamp(first + number * step, self.begin.tzinfo)
            for number in range(_TICKS_MAX + 1)
        ]
        return tuple((self.position(time), f"{time:{form}}") for time in times if time <= self.end)

    def faults(self, faults: Sequence[FaultMark]) -> tuple[DrawnFault, ...]:
        """The faults that fall into the span."""
        drawn = []
        for fault in faults:
            until = fault.until or fault.at
            if until < self.begin or fault.at > self.end:
                continue
            x = self.position(fault.at)
            width = round(self.position(until) - x, 3)
            drawn.append(DrawnFault(x, width, f"fault {fault.text} at {fault.at:%H:%M:%S}"))
        return tuple(drawn)


def task_chart(history: History, now: datetime, faults: Sequence[FaultMark] = ()) -> Chart | None:
    """Runs in the first lane, then a lane for each step over all runs; None if nothing began."""
    starts = step_starts(history)
    runs = [run for run in history.runs if run.started_at is not None]
    if not starts and not runs:
        return None
    last = now if history.task.state not in TERMINAL_STATES else _last_time(history, starts)
    begins = [start.started_at for start in starts] + [
        run.started_at for run in runs if run.started_at
    ]
    begin = min(begins)
    axis = Axis(begin, max(last, begin + timedelta(seconds=1)))
    steps = list(dict.fromkeys(start.step for start in starts))[:_LANES_MAX]
    bars = [_run_bar(run, starts, axis, last) for run in runs]
    for lane, step in enumerate(steps, 1):
        of_step = [start for start in starts if start.step == step]
        bars += _step_bars(of_step, starts, lane * LANE_HEIGHT + _BAR_TOP, axis, last)
    lanes = (f"run{'' if len(runs) == 1 else 's'}", *steps)
    return Chart(lanes, tuple(bars), axis.ticks(), axis.faults(faults))


def _run_bar(run: Run, starts: Sequence[StepStart], axis: Axis, last: datetime) -> Bar:
    # A run that was given back and claimed again has only the time of its last claim.
    begins = [start.started_at for start in starts if start.attempt == run.attempt]
    begin = min([*begins, run.started_at or axis.begin])
    end = run.completed_at or run.failed_at or last
    return Bar(
        axis.position(begin),
        _BAR_TOP,
        axis.width(begin, max(begin, end)),
        "run" if run.state == "completed" else run.state,
        f"run {run.attempt}: {run.state}, from {begin:%H:%M:%S}",
    )


def _step_bars(
    of_step: Sequence[StepStart], starts: Sequence[StepStart], y: int, axis: Axis, last: datetime
) -> list[Bar]:
    bars = []
    for number, start in enumerate(of_step):
        following = [other.started_at for other in starts if other.started_at > start.started_at]
        later = of_step[number + 1].started_at if number + 1 < len(of_step) else None
        # Nobody knows when a worker died: at the latest when somebody went on.
        end = max(start.ended_at or later or min(following, default=last), start.started_at)
        x, width = axis.position(start.started_at), axis.width(start.started_at, end)
        bad = start.outcome in ("died", "poison", "failed")
        bars.append(Bar(x, y, width, bar_style(start), start_sentence(start), ends_badly=bad))
        if later is not None and later > end:
            gap = axis.width(end, later)
            bars.append(Bar(axis.position(end), y, gap, "gap", "not started again yet", gap=True))
    return bars


def bar_style(start: StepStart) -> str:
    """The style of a start: its outcome, or that its product was already there."""
    if start.adopted:
        return "adopted"
    known = {"done", "running", "died", "poison", "failed", "retry", "fallback", "waiting"}
    return start.outcome if start.outcome in known | {"lost", "released", "cancelled"} else "other"


def start_sentence(start: StepStart) -> str:
    """What became of a start."""
    duration = "" if start.seconds is None else f" after {start.seconds:.1f} s"
    ending = "its worker died" if start.outcome == "died" else start.ending
    adopted = ", with the product of an earlier start" if start.adopted else ""
    return (
        f"{start.step}, start {start.start} on {start.worker} at {start.started_at:%H:%M:%S}: "
        f"{ending}{duration}{adopted}"
    )


def _last_time(history: History, starts: Sequence[StepStart]) -> datetime:
    times = [start.ended_at or start.started_at for start in starts]
    times += [saved.updated_at for saved in history.checkpoints]
    for run in history.runs:
        times += [time for time in (run.completed_at, run.failed_at, run.started_at) if time]
    known = [time for time in times if time != INFINITY]
    return max(known, default=history.task.enqueue_at)


def worker_chart(
    summaries: Sequence[TaskSummary],
    begin: datetime,
    end: datetime,
    faults: Sequence[FaultMark] = (),
) -> Chart | None:
    """A lane for each worker with the steps that it started in a span; None if there are none."""
    axis = Axis(begin, end)
    starts = [
        (start, summary.group or "")
        for summary in summaries
        for start in summary.starts
        if start.started_at < end and (start.ended_at or end) > begin
    ]
    starts.sort(key=lambda item: item[0].started_at, reverse=True)
    starts = starts[:_BARS_MAX]
    if not starts:
        return None
    workers = sorted({start.worker for start, _ in starts})[:_LANES_MAX]
    bars = []
    for start, group in starts:
        if start.worker not in workers:
            continue
        unknown = end if start.outcome == "running" else start.started_at
        x = axis.position(start.started_at)
        width = axis.width(start.started_at, start.ended_at or unknown)
        y = workers.index(start.worker) * LANE_HEIGHT + _BAR_TOP
        bad = start.outcome in ("died", "poison", "failed")
        title = f"{group}: {start_sentence(start)}"
        bars.append(Bar(x, y, width, bar_style(start), title, ends_badly=bad))
    return Chart(tuple(workers), tuple(bars), axis.ticks(), axis.faults(faults))
