"""Charts and trend lines as SVG text; everything from outside is escaped here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from absurd_contimg.operations.console import one_line
from absurd_contimg.operations.night_report.facts import Number
from absurd_contimg.operations.night_report.rows import Chart, known, shown

_WIDTH, _HEIGHT = 420.0, 210.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 50.0, 8.0, 10.0, 40.0
_BARS_LABELLED = 16
_CHARACTER = 6.2
"""Width of a character at the font size of the labels."""
_LABEL_MAX = 14
_POINTS_MAX = 1500
_SPARK_WIDTH, _SPARK_HEIGHT = 110.0, 26.0


def sparkline(values: Sequence[Number]) -> str:
    """The trend: a line over the nights, the last one marked; gaps where nothing is known."""
    finite = known(values)
    if not finite:
        return ""
    low, high = min(finite), max(finite)
    height = high - low or 1.0
    step = (_SPARK_WIDTH - 10.0) / max(len(values) - 1, 1)

    def place(number: int, value: float) -> tuple[float, float]:
        x = _SPARK_WIDTH - 5.0 - (len(values) - 1 - number) * step
        share = (value - low) / height if high > low else 0.5
        return round(x, 1), round(_SPARK_HEIGHT - 5.0 - share * (_SPARK_HEIGHT - 10.0), 1)

    pieces: list[list[tuple[float, float]]] = [[]]
    for number, value in enumerate(values):
        if value is None or not math.isfinite(value):
            pieces.append([])
        else:
            pieces[-1].append(place(number, value))
    lines = "".join(
        f'<polyline class="trend" points="{" ".join(f"{x},{y}" for x, y in piece)}"/>'
        for piece in pieces
        if len(piece) > 1
    )
    dots = "".join(
        f'<circle class="dot" cx="{x}" cy="{y}" r="1.6"/>' for piece in pieces for x, y in piece
    )
    last = values[-1]
    now = ""
    if last is not None and math.isfinite(last):
        x, y = place(len(values) - 1, last)
        now = f'<circle class="now" cx="{x}" cy="{y}" r="3.2"/>'
    label = ", ".join("none" if v is None else shown(v, 3) for v in values)
    return (
        f'<svg class="spark" viewBox="0 0 {_SPARK_WIDTH:g} {_SPARK_HEIGHT:g}" role="img" '
        f'aria-label="{escape(f"Trend, oldest night first: {label}")}">{lines}{dots}{now}</svg>'
    )


def draw_chart(chart: Chart, title: str) -> str:
    """A chart as SVG; empty if it has nothing to show."""
    body = _points(chart) if chart.kind == "points" else _bars(chart)
    if not body:
        return ""
    label = escape(one_line(f"{title}: {chart.y_label} against {chart.x_label}", 200))
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" '
        f'aria-label="{label}">{body}{_axis_labels(chart)}</svg>'
    )


def _axis_labels(chart: Chart) -> str:
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2.0
    x, y = (escape(one_line(text, 60)) for text in (chart.x_label, chart.y_label))
    return (
        f'<text class="label" x="{(_LEFT + _WIDTH - _RIGHT) / 2:g}" y="{_HEIGHT - 5:g}" '
        f'text-anchor="middle">{x}</text>'
        f'<text class="label" transform="translate(11 {middle:g}) rotate(-90)" '
        f'text-anchor="middle">{y}</text>'
    )


class _Axis:
    """A range of values on a range of the picture."""

    def __init__(
        self, low: float, high: float, begin: float, end: float, *, logarithmic: bool = False
    ) -> None:
        self.logarithmic = logarithmic and low > 0
        if not high > low:
            margin = abs(low) * 0.1 or 1.0
            low, high = (low / 2.0, low * 2.0) if self.logarithmic else (low - margin, low + margin)
        self.low, self.high, self._begin, self._end = low, high, begin, end

    def place(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(max(value, self.low))
        share = (value - low) / (high - low)
        return round(self._begin + share * (self._end - self._begin), 1)

    def ticks(self, most: int) -> list[float]:
        """Round values in the range."""
        if self.logarithmic:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            candidates = [
                digit * 10.0**power for power in range(first, last + 1) for digit in (1, 2, 5)
            ]
            inside = [value for value in candidates if self.low <= value <= self.high]
            return inside[:: max(1, math.ceil(len(inside) / most))]
        raw = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def _tick_text(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e4 else f"{value:.0e}".replace("e+0", "e")


def _y_axis(axis: _Axis) -> str:
    return "".join(
        f'<line class="grid" x1="{_LEFT:g}" x2="{_WIDTH - _RIGHT:g}" y1="{y}" y2="{y}"/>'
        f'<text class="tick" x="{_LEFT - 5:g}" y="{y + 3.5}" text-anchor="end">'
        f"{_tick_text(value)}</text>"
        for value in axis.ticks(5)
        for y in [axis.place(value)]
    )


def _limits(chart: Chart, axis: _Axis) -> str:
    return "".join(
        f'<line class="limit" x1="{_LEFT:g}" x2="{_WIDTH - _RIGHT:g}" y1="{y}" y2="{y}">'
        f"<title>limit {_tick_text(limit)}</title></line>"
        for limit in chart.limits
        if axis.low <= limit <= axis.high
        for y in [axis.place(limit)]
    )


def _range(values: Sequence[float], chart: Chart) -> tuple[float, float]:
    low, high = min(values), max(values)
    # A limit that is near belongs to the picture.
    for limit in chart.limits:
        if low - (high - low or abs(high)) <= limit <= high + (high - low or abs(high)):
            low, high = min(low, limit), max(high, limit)
    margin = 0.06 * (high - low)
    if chart.zero:
        return min(0.0, low - margin if low < 0 else 0.0), max(0.0, high + margin)
    return low - margin, high + margin


def _points(chart: Chart) -> str:
    points = [p for p in chart.points if math.isfinite(p[0]) and math.isfinite(p[1])]
    points = points[:: max(1, math.ceil(len(points) / _POINTS_MAX))]
    if not points:
        return ""
    xs = [x for x, _, _ in points]
    margin = 0.03 * (max(xs) - min(xs))
    if chart.logarithmic and min(xs) > 0:
        span = min(xs) / 1.1, max(xs) * 1.1
    else:
        span = min(xs) - margin, max(xs) + margin
    x_axis = _Axis(*span, _LEFT + 6, _WIDTH - _RIGHT - 6, logarithmic=chart.logarithmic)
    y_axis = _Axis(*_range([y for _, y, _ in points], chart), _HEIGHT - _BOTTOM, _TOP)
    marks = "".join(
        f'<circle class="mark" cx="{x_axis.place(x)}" cy="{y_axis.place(y)}" '
        f'r="{2.6 if len(points) < 200 else 1.2}">{_tooltip(text)}</circle>'
        for x, y, text in points
    )
    ticks = "".join(
        f'<line class="grid" x1="{x}" x2="{x}" y1="{_HEIGHT - _BOTTOM:g}" '
        f'y2="{_HEIGHT - _BOTTOM + 4:g}"/><text class="tick" x="{x}" '
        f'y="{_HEIGHT - _BOTTOM + 15:g}" text-anchor="middle">{_x_text(value, chart)}</text>'
        for value in x_axis.ticks(7)
        for x in [x_axis.place(value)]
    )
    return _y_axis(y_axis) + ticks + _limits(chart, y_axis) + marks


def _x_text(value: float, chart: Chart) -> str:
    """Hours of the day as 10:30."""
    if chart.x_label != "UTC, h":
        return _tick_text(value)
    minutes = round(value * 60.0)
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _tooltip(text: str) -> str:
    return f"<title>{escape(one_line(text, 120))}</title>" if text else ""


def _bars(chart: Chart) -> str:
    bars = [(name, value) for name, value in chart.bars if math.isfinite(value)]
    if not bars:
        return ""
    axis = _Axis(*_range([value for _, value in bars], chart), _HEIGHT - _BOTTOM, _TOP)
    slot = (_WIDTH - _RIGHT - _LEFT) / len(bars)
    width = max(0.6, min(slot * 0.75, 60.0))
    every = max(1, math.ceil(len(bars) / _BARS_LABELLED))
    names = [one_line(name, _LABEL_MAX) for name, _ in bars]
    longest = max(map(len, names))
    if longest * _CHARACTER > slot * every:
        every = max(every, math.ceil(longest * _CHARACTER / slot))
    zero = axis.place(0.0)
    parts = []
    for number, (name, value) in enumerate(bars):
        centre = _LEFT + (number + 0.5) * slot
        y = axis.place(value)
        tooltip = _tooltip(f"{one_line(name, 80)}: {_tick_text(value)}")
        parts.append(
            f'<rect class="bar" x="{centre - width / 2:.1f}" y="{min(y, zero)}" '
            f'width="{width:.1f}" height="{abs(zero - y):.1f}">{tooltip}</rect>'
        )
        if number % every == 0:
            parts.append(
                f'<text class="tick" x="{centre:.1f}" y="{_HEIGHT - _BOTTOM + 15:g}" '
                f'text-anchor="middle">{escape(names[number])}</text>'
            )
    return _y_axis(axis) + "".join(parts) + _limits(chart, axis)
