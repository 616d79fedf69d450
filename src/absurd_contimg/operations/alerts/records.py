"""What the evaluator of alerts works with: a look at the site, rules, and the states of alerts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal
from uuid import UUID

from absurd_contimg.history.stage_figures import StageFigures
from absurd_contimg.operations.overview import DiskOverview, SiteOverview

Severity = Literal["warning", "critical"]

Dependency = Literal["database", "registry"]


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the site has seen."""

    overview: SiteOverview | None
    """None where it could not be read."""
    figures: StageFigures = field(default_factory=StageFigures)
    away: Mapping[Dependency, str] = field(default_factory=dict)
    """What does not answer, and its error."""
    local_disks: Sequence[DiskOverview] = ()
    """Those of this host, where the overview could not be read."""

    @property
    def disks(self) -> Sequence[DiskOverview]:
        """All that are known."""
        return self.local_disks if self.overview is None else self.overview.disks


@dataclass(frozen=True, slots=True)
class Measured:
    """What a rule has measured of one subject."""

    subject: str
    """A queue, worker, disk; without an id of a task, so that its alert outlives one task."""
    value: float | None
    """None: not measured, or not to be looked at now. It raises nothing and clears nothing."""
    fact: str
    """One sentence for people, with the number."""
    command: str
    """What to run."""
    task_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """When a fact is an alert: at which value, for how many looks, and until when.

    High values are bad if `raised` exceeds `cleared`, else low ones. Between the two an alert stays
    as it is.
    """

    name: str
    meaning: str
    """What it measures, with its unit."""
    severity: Severity
    raised: float
    """This value, or a worse one, is bad."""
    cleared: float
    """A value that is better than this is good."""
    looks: int
    """Bad ones in a row that raise an alert."""
    hold_seconds: float
    """An alert is cleared when the value has been good for so long."""
    source: str
    """Where the threshold is from, or the setting that has it."""
    remedy: str
    """What to do, for the documentation."""
    measure: Callable[[Look], Iterable[Measured]]
    needs: frozenset[Dependency] = frozenset()
    """If one of these is away, nothing is measured."""
    needs_for_all: frozenset[Dependency] = frozenset()
    """If one of these is away, a subject that is not measured stays as it was."""

    def verdict(self, value: float | None) -> Verdict:
        """Whether a value is good or bad."""
        if value is None or math.isnan(value):
            return Verdict.UNMEASURED
        sign = 1.0 if self.raised > self.cleared else -1.0
        if sign * value >= sign * self.raised:
            return Verdict.BAD
        return Verdict.GOOD if sign * value < sign * self.cleared else Verdict.BETWEEN


class Verdict(StrEnum):
    """What a value says."""

    GOOD = "good"
    BETWEEN = "between"
    BAD = "bad"
    UNMEASURED = "unmeasured"


Key = tuple[str, str]
"""Rule and subject."""


@dataclass(frozen=True, slots=True)
class Alert:
    """The state of a rule for one subject."""

    looks: int = 0
    """Bad ones in a row."""
    raised_at: float | None = None
    """Unix seconds; None: it is not raised."""
    good_since: float | None = None
    """Since when the value of a raised alert is good; None: it is not."""
    severity: Severity = "warning"
    value: float | None = None
    """The last one that was measured."""
    fact: str = ""
    command: str = ""
    task: str | None = None

    @property
    def is_raised(self) -> bool:
        """Whether operators have been told, or will be."""
        return self.raised_at is not None


@dataclass(frozen=True, slots=True)
class Notice:
    """An alert that was raised or cleared, as it is told to people."""

    event: Literal["raised", "cleared", "test"]
    rule: str
    subject: str
    severity: Severity
    fact: str
    command: str
    task: str | None
    at: datetime

    @property
    def title(self) -> str:
        """One line."""
        return f"{self.event.upper()} {self.severity}: {self.rule} ({self.subject})"

    @property
    def text(self) -> str:
        """The fact, the task and the command to run."""
        lines = [self.title, self.fact]
        if self.task is not None:
            lines.append(f"Task: {self.task}")
        if self.command and self.event != "cleared":
            lines.append(f"Run: {self.command}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a look has changed."""

    alerts: Mapping[Key, Alert]
    """All that are raised, or on the way to it."""
    notices: tuple[Notice, ...]
    """The alerts that were raised or cleared."""
