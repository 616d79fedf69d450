"""Values over time as positions for the templates, in per cent of width and in pixels of height."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from absurd_contimg.operations.dashboard.charts import Axis

_HEIGHT = 150
_MARGIN = 12
_POINTS_MAX = 500


@dataclass(frozen=True, slots=True)
class Point:
    """A value with its error."""

    x: float
    y: float
    low: float
    high: float
    title: str


@dataclass(frozen=True, slots=True)
class PointChart:
    """Points, levels of the values, marks of time, and the band of values that are accepted."""

    points: tuple[Point, ...]
    levels: tuple[tuple[float, str], ...]
    ticks: tuple[tuple[float, str], ...]
    band: tuple[float, float] | None
    """Top and height."""
    bottom: int = _HEIGHT
    height: int = _HEIGHT + 22


def point_chart(
    values: Sequence[tuple[datetime, float, float | None]],
    band: tuple[float, float] | None = None,
) -> PointChart | None:
    """A chart of times, values and errors (None: not known); None without any finite value."""
    known = [
        (at, value, error or 0.0)
        for at, value, error in values[-_POINTS_MAX:]
        if math.isfinite(value) and math.isfinite(error or 0.0)
    ]
    if not known:
        return None
    times = [at for at, _, _ in known]
    first, last = min(times), max(times)
    margin = max((last - first) * 0.03, timedelta(minutes=10))
    axis = Axis(first - margin, last + margin)
    lows = [value - error for _, value, error in known] + ([band[0]] if band else [])
    highs = [value + error for _, value, error in known] + ([band[1]] if band else [])
    low, high = min(lows), max(highs)
    span = high - low or abs(high) or 1.0

    def y(value: float) -> float:
        return round(_MARGIN + (high - value) / span * (_HEIGHT - 2 * _MARGIN), 1)

    points = [
        Point(
            axis.position(at),
            y(value),
            y(value - error),
            y(value + error),
            f"{at:%Y-%m-%d %H:%M}: {value:.4g}" + (f" ± {error:.2g}" if error else ""),
        )
        for at, value, error in known
    ]
    levels = [low, (low + high) / 2, high]
    return PointChart(
        tuple(points),
        tuple((y(level), f"{level:.3g}") for level in levels),
        axis.ticks(),
        None if band is None else (y(band[1]), round(y(band[0]) - y(band[1]), 1)),
    )
