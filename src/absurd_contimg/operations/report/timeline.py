"""The timeline of a report: every start of every stage as a bar, drawn as an inline SVG.

Knows step starts and geometry; knows no file and no page. The picture has no colours of its
own: the page's style gives them to the classes ``w0``, ``w1``, ... (one for each worker).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from absurd_contimg.core.records import History
from absurd_contimg.history.timeline import StepStart, group_of, step_starts

WORKER_COLOURS = 8
"""Workers beyond these share colours; the tables name each."""

_WIDTH = 1000.0
_LABEL_WIDTH = 170.0
_RIGHT_MARGIN = 24.0
_ROW_HEIGHT = 24.0
_BAR_HEIGHT = 16.0
_AXIS_HEIGHT = 26.0
_CHARACTER_WIDTH = 6.4
_TICKS_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 21600, 86400)
_TICKS_MAX = 9

_UNFINISHED = frozenset({"died", "poison"})


@dataclass(frozen=True, slots=True)
class Span:
    """One start with the end that can be drawn for it."""

    start: StepStart
    ends_at: datetime
    died: bool
    resumes: bool
    """An earlier start of the same step did not finish."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle, in the picture's units."""

    x: float
    y: float
    width: float
    height: float
    css: str
    tooltip: str
    label: str
    died: bool
    resumes: bool


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on the axis of time."""

    x: float
    label: str


@dataclass(frozen=True, slots=True)
class Lane:
    """A row with its name."""

    y: float
    label: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """Everything that the template draws."""

    width: float
    height: float
    left: float
    bottom: float
    lanes: tuple[Lane, ...]
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]


def worker_names(histories: Sequence[History]) -> list[str]:
    """Every worker that has started a step, in the order of their first starts."""
    starts = sorted(
        (one for history in histories for one in step_starts(history)),
        key=lambda one: one.started_at,
    )
    return list(dict.fromkeys(one.worker for one in starts))


def spans(history: History) -> list[Span]:
    """The starts of a task with the times between which they can be drawn.

    A worker that died left no time of death: its bar goes on until the step was started again,
    or until the last thing that is known of the task. So does one that still runs.
    """
    starts = step_starts(history)
    known = _last_known(history, starts)
    found = []
    for position, one in enumerate(starts):
        earlier = [other for other in starts[:position] if other.step == one.step]
        later = [other for other in starts[position + 1 :] if other.step == one.step]
        end = one.ended_at or (later[0].started_at if later else known)
        found.append(
            Span(
                one,
                max(end, one.started_at),
                died=one.outcome in _UNFINISHED,
                resumes=bool(earlier) and earlier[-1].outcome != "done",
            )
        )
    return found


def _last_known(history: History, starts: Sequence[StepStart]) -> datetime:
    moments = [one.started_at for one in starts]
    moments += [checkpoint.updated_at for checkpoint in history.checkpoints]
    for run in history.runs:
        moments += [one for one in (run.completed_at, run.failed_at, run.started_at) if one]
    return max(moments, default=history.task.enqueue_at)


def overview(histories: Sequence[History], workers: Sequence[str]) -> Timeline | None:
    """One row for each group; None when nothing was started."""
    rows = [(group_of(one), spans(one)) for one in histories]
    return _timeline([row for row in rows if row[1]], workers)


def by_stage(history: History, workers: Sequence[str]) -> Timeline | None:
    """One row for each stage of one group; None when nothing was started."""
    found = spans(history)
    steps = dict.fromkeys(one.start.step for one in found)
    return _timeline([(s, [one for one in found if one.start.step == s]) for s in steps], workers)


def _timeline(
    rows: Sequence[tuple[str, Sequence[Span]]], workers: Sequence[str]
) -> Timeline | None:
    if not rows:
        return None
    begin = min(one.start.started_at for _, found in rows for one in found)
    end = max(one.ends_at for _, found in rows for one in found)
    seconds = max((end - begin).total_seconds(), 1.0)
    scale = (_WIDTH - _LABEL_WIDTH - _RIGHT_MARGIN) / seconds
    bars, lanes = [], []
    for number, (label, found) in enumerate(rows):
        y = number * _ROW_HEIGHT
        lanes.append(Lane(y + _ROW_HEIGHT / 2, label))
        bars += [
            _bar(one, y, begin, scale, workers, named=label != one.start.step) for one in found
        ]
    bottom = len(rows) * _ROW_HEIGHT
    return Timeline(
        _WIDTH,
        bottom + _AXIS_HEIGHT,
        _LABEL_WIDTH,
        bottom,
        tuple(lanes),
        tuple(bars),
        tuple(_ticks(begin, seconds, scale)),
    )


def _bar(
    one: Span, y: float, begin: datetime, scale: float, workers: Sequence[str], *, named: bool
) -> Bar:
    start = one.start
    width = max((one.ends_at - start.started_at).total_seconds() * scale, 2.0)
    text = start.step if named else start.worker
    room = int((width - 8.0) / _CHARACTER_WIDTH)
    seconds = "" if start.seconds is None else f", {start.seconds:.1f} s"
    outcome = "its worker died" if one.died else start.outcome
    return Bar(
        x=round(_LABEL_WIDTH + (start.started_at - begin).total_seconds() * scale, 1),
        y=y + (_ROW_HEIGHT - _BAR_HEIGHT) / 2,
        width=round(width, 1),
        height=_BAR_HEIGHT,
        css=f"w{workers.index(start.worker) % WORKER_COLOURS}",
        tooltip=f"{start.step}, start {start.start}, on {start.worker} at "
        f"{start.started_at:%H:%M:%S}{seconds}: {outcome}",
        label=text if len(text) <= room else "",
        died=one.died,
        resumes=one.resumes,
    )


def _ticks(begin: datetime, seconds: float, scale: float) -> list[Tick]:
    step = next((s for s in _TICKS_SECONDS if seconds / s <= _TICKS_MAX), _TICKS_SECONDS[-1])
    count = min(int(seconds / step), 100)
    form = "%H:%M:%S" if step < 3600 else "%d %b %H:%M"
    return [
        Tick(
            round(_LABEL_WIDTH + number * step * scale, 1),
            f"{begin:{form}}" if number == 0 else _later(begin, number * step, form),
        )
        for number in range(count + 1)
    ]


def _later(begin: datetime, seconds: int, form: str) -> str:
    return f"+{seconds} s" if seconds < 300 else f"{begin + timedelta(seconds=seconds):{form}}"
