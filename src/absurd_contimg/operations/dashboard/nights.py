"""The pipeline by nights: for each night the tasks of its groups and windows, step by step.

Counts summaries and asks the registry's totals; no stage is named, no product is opened.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from sqlalchemy import Double, func, select

from absurd_contimg.history.summary import TaskSummary
from absurd_contimg.history.timeline import SECONDARY_TASKS
from absurd_contimg.products.verdicts import GOOD, UNCHECKED
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import IngestState, ObservationGroup, Product

GROUP_SECONDS = 309.0
"""From one group of sub-band files to the next (docs/telescope.md)."""
_DATE = re.compile(r"W?(\d{4}-\d{2}-\d{2})")
_TIME = re.compile(r"(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})")
"""Names of windows begin with a W: their night counts, their time does not."""
_STILL_OBSERVING_SECONDS = 4 * GROUP_SECONDS
_FILES_COME_WITHIN_SECONDS = 2.5 * GROUP_SECONDS
"""After the time in its name a group is observed, written and seen."""

_NOT_DEGRADED = GOOD | {UNCHECKED, ""}
"""Verdicts in results of tasks; those of some workflows have none."""

Verdict = Literal["clean", "degraded", "failed", "under way", "no task"]


@dataclass(frozen=True, slots=True)
class ListedTask:
    """A task with the queue it is on."""

    queue_name: str
    summary: TaskSummary

    @property
    def night(self) -> str:
        """The date in the name of its group, else that of its spawning."""
        match = _DATE.match(self.summary.group or "")
        return match[1] if match else f"{self.summary.enqueued_at:%Y-%m-%d}"

    @property
    def verdict(self) -> str:
        """The verdict in its result; empty if there is none."""
        result = self.summary.result
        return str(result.get("verdict", "")) if isinstance(result, Mapping) else ""

    def outcome_of(self, step: str) -> str:
        """How the step stands: the outcome of its last start, ``none`` if there is none."""
        start = self.summary.steps.get(step)
        return "none" if start is None else start.outcome


@dataclass(frozen=True, slots=True)
class StepCount:
    """A step in one night: how many tasks have done it, and what stands out."""

    step: str
    state: str
    """The worst of the tasks' outcomes."""
    done: int
    begun: int


@dataclass(frozen=True, slots=True)
class Night:
    """One night."""

    name: str
    tasks: tuple[ListedTask, ...]
    steps: tuple[StepCount, ...]
    states: Mapping[str, int]
    groups_present: int | None
    """In the registry, or with a task."""
    groups_expected: int | None
    """From the telescope's cadence between the first and the last group; inferred."""
    groups_rejected: int
    product_bytes: float | None
    verdict: Verdict


_WORST = (
    *("failed", "poison", "died", "lost", "running", "waiting", "retry"),
    *("fallback", "released", "cancelled"),
)


def step_count(step: str, tasks: Sequence[ListedTask]) -> StepCount:
    """One step over the tasks of a night."""
    outcomes = Counter(task.outcome_of(step) for task in tasks)
    begun = sum(outcomes.values()) - outcomes["none"]
    done = outcomes["done"]
    state = next((outcome for outcome in _WORST if outcomes[outcome]), None)
    if state is None:
        state = "none" if not begun else "done" if done == begun else "pending"
    return StepCount(step, state, done, begun)


def verdict_of(tasks: Sequence[ListedTask]) -> Verdict:
    """From the states of the tasks and the verdicts in their results."""
    states = {task.summary.state for task in tasks}
    if not states:
        return "no task"
    if states & {"pending", "running", "sleeping"}:
        return "under way"
    if "failed" in states:
        return "failed"
    ended_well = all(task.verdict in _NOT_DEGRADED for task in tasks)
    return "clean" if ended_well and states == {"completed"} else "degraded"


def expected_groups(names: Iterable[str], now: datetime | None) -> int | None:
    """How many groups lie between the first and the last name.

    If it goes on at `now`, up to the last whose files have had the time to come; None: it does not.
    """
    times = sorted(time for name in names if (time := time_in(name)) is not None)
    if not times:
        return None
    last = times[-1]
    if now is not None:
        elapsed = (now - last).total_seconds()
        if _FILES_COME_WITHIN_SECONDS < elapsed < _STILL_OBSERVING_SECONDS:
            last = now - timedelta(seconds=_FILES_COME_WITHIN_SECONDS)
    return int((last - times[0]).total_seconds() / GROUP_SECONDS + 0.5) + 1


def time_in(name: str) -> datetime | None:
    """The time in the name of a group."""
    match = _TIME.match(name)
    if match is None:
        return None
    try:
        return datetime.fromisoformat(match[1]).replace(tzinfo=UTC)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class RegistryTotals:
    """What the registry counts by night."""

    groups: Mapping[str, Sequence[str]]
    rejected: Mapping[str, int]
    product_bytes: Mapping[str, float]


def read_totals(database: Database) -> RegistryTotals:
    """Groups and bytes of products of each night, in two queries."""
    groups: dict[str, list[str]] = {}
    rejected: Counter[str] = Counter()
    night = func.substr(func.ltrim(Product.group_id, "W"), 1, 10)
    with database.reading() as session:
        names = select(ObservationGroup.group_id, ObservationGroup.ingest_state)
        for name, ingest_state in session.execute(names):
            groups.setdefault(name[:10], []).append(name)
            rejected[name[:10]] += ingest_state == IngestState.REJECTED.value
        # The sum of whole numbers is a decimal in Postgres, which the column's own type refuses.
        total = func.sum(Product.size_bytes, type_=Double())
        sizes = select(night, total).group_by(night)
        product_bytes = {name: float(count or 0) for name, count in session.execute(sizes)}
    return RegistryTotals(groups, rejected, product_bytes)


def make_nights(
    tasks: Sequence[ListedTask],
    steps: Sequence[str],
    totals: RegistryTotals | None,
    now: datetime | None,
) -> list[Night]:
    """The nights of these tasks, the newest first; `steps` in the order of the columns.

    `now` is None where nothing changes any more.
    """
    primary = [
        task
        for task in tasks
        if task.summary.task_name not in SECONDARY_TASKS and task.summary.group is not None
    ]
    names = {task.night for task in primary}
    if totals is not None:
        names |= {name for name in totals.groups if _DATE.fullmatch(name)}
    nights = []
    for name in sorted(names, reverse=True):
        of_night = tuple(task for task in primary if task.night == name)
        with_task = {
            str(task.summary.group) for task in of_night if time_in(str(task.summary.group))
        }
        present = sorted(with_task.union(() if totals is None else totals.groups.get(name, ())))
        nights.append(
            Night(
                name,
                of_night,
                tuple(step_count(step, of_night) for step in steps),
                dict(Counter(task.summary.state for task in of_night)),
                len(present) if present else None,
                expected_groups(present, now),
                0 if totals is None else totals.rejected.get(name, 0),
                None if totals is None else totals.product_bytes.get(name, 0.0),
                verdict_of(of_night),
            )
        )
    return nights
