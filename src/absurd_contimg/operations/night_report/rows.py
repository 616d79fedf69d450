"""A row of the report: a figure, what it is compared with, and the result."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from absurd_contimg.operations.night_report.facts import GroupFacts, Number

Status = Literal["pass", "warn", "fail", "not measured", "no gate"]
"""``no gate``: measured, and there is no limit, or nothing yet to compare it with."""
Verdict = Literal["CLEAN", "DEGRADED", "FAILED", "EMPTY"]
"""``EMPTY``: there is no group of the night, so there is nothing to judge."""

_SEVERITY: Mapping[Status, int] = {
    "no gate": 0, "pass": 1, "not measured": 2, "warn": 3, "fail": 4,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Chart:
    """Points or bars; the limits are drawn as lines where they are in the range."""

    kind: Literal["points", "bars"]
    x_label: str
    y_label: str
    points: tuple[tuple[float, float, str], ...] = ()
    """x, y and a tooltip."""
    bars: tuple[tuple[str, float], ...] = ()
    limits: tuple[float, ...] = ()
    zero: bool = True
    """The axis begins at 0."""
    logarithmic: bool = False
    """The x axis of points."""


@dataclass(frozen=True, slots=True)
class Row:
    """One diagnostic of a night."""

    key: str
    title: str
    status: Status
    value: str
    """For people, with units."""
    number: Number
    """The main figure, which is followed over the nights."""
    unit: str
    gate: str
    """The limits in words."""
    reason: str = ""
    """Why it does not pass, or was not measured."""
    expected: bool = True
    """There were data from which it should have been measured."""
    numbers: Mapping[str, Number] = field(default_factory=dict)
    """Further figures, by names with units."""
    details: tuple[str, ...] = ()
    """Sentences beside the value."""
    tasks: tuple[tuple[str, str], ...] = ()
    """Name and task id of those that are behind the result, the worst first."""
    chart: Chart | None = None


def verdict_of(rows: Sequence[Row]) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict of a night and its reasons.

    A row that failed fails the night. One that warns, or was not measured although there were
    data, degrades it.
    """
    failed = [row for row in rows if row.status == "fail"]
    degraded = [
        row for row in rows
        if row.status == "warn" or (row.status == "not measured" and row.expected)
    ]  # fmt: skip
    reasons = tuple(f"{row.title}: {row.reason or row.value}" for row in (*failed, *degraded))
    if failed or not rows:
        return "FAILED", reasons or ("there are no figures",)
    return ("DEGRADED" if degraded else "CLEAN"), reasons


EMPTY_NIGHT = (
    "There is no group of this night: nothing was observed, or nothing has arrived. "
    "Check the date, and that the daemon watches the incoming folder: contimg monitor"
)


def not_measured(
    key: str, title: str, unit: str, gate: str, reason: str, *, expected: bool = True
) -> Row:
    """A row without a figure."""
    return Row(key, title, "not measured", "–", None, unit, gate, reason, expected)


def above(value: Number, warn: float, fail: float | None = None) -> Status:
    """The result for a figure that is worse the larger it is; a limit itself passes."""
    if value is None or math.isnan(value):
        return "not measured"
    if fail is not None and value > fail:
        return "fail"
    return "warn" if value > warn else "pass"


def below(value: Number, warn: float, fail: float | None = None) -> Status:
    """The result for a figure that is worse the smaller it is; a limit itself passes."""
    return above(None if value is None else -value, -warn, None if fail is None else -fail)


def worst(*statuses: Status) -> Status:
    """The worst of several results."""
    return max(statuses, key=lambda status: _SEVERITY[status], default="not measured")


def known(values: Iterable[Number]) -> list[float]:
    """The finite figures."""
    return [value for value in values if value is not None and math.isfinite(value)]


def middle(values: Iterable[Number]) -> Number:
    """The median of the finite figures; None without any."""
    finite = known(values)
    return median(finite) if finite else None


def spread(values: Iterable[Number]) -> Number:
    """1.4826 times their median absolute deviation; None without any."""
    finite = known(values)
    if not finite:
        return None
    centre = median(finite)
    return 1.4826 * median(abs(value - centre) for value in finite)


def scaled(value: Number, factor: float) -> Number:
    """A figure in another unit."""
    return None if value is None or not math.isfinite(value) else value * factor


def shown(value: Number, decimals: int = 1, unit: str = "") -> str:
    """A figure with its unit; a dash for None and for what is not finite."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:,.{decimals}f}".replace(",", " ")
    return f"{text} {unit}".rstrip()


def percent(share: Number) -> str:
    """A share in percent: only one that is nothing is shown as 0.0."""
    value = scaled(share, 100.0)
    is_small = value is not None and 0.0 < abs(value) < 0.05
    return shown(value, 4 if is_small else 1)


def tasks_of(groups: Iterable[GroupFacts], most: int = 3) -> tuple[tuple[str, str], ...]:
    """The tasks of groups, for a row."""
    behind = [(group.group_id, group.task.task_id) for group in groups if group.task is not None]
    return tuple(behind[:most])


def over_time(
    groups: Sequence[GroupFacts],
    values: Sequence[Number],
    y_label: str,
    limits: tuple[float, ...] = (),
    *,
    zero: bool = True,
) -> Chart:
    """The figure of each group against time."""
    points = tuple(
        (group.utc_hours, value, f"{group.group_id}: {value:.4g}")
        for group, value in zip(groups, values, strict=True)
        if value is not None and math.isfinite(value)
    )
    return Chart("points", "UTC, h", y_label, points, limits=limits, zero=zero)
