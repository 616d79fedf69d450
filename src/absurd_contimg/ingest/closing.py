"""When a file has arrived and when a group is closed: rules without a clock or a disk of their own.

Times are seconds of one clock. What is missing when a group is closed stays missing: a file that
comes later is listed with the group and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from absurd_contimg.registry.models import IngestState


@dataclass(frozen=True, slots=True)
class ClosingRules:
    """See `StreamingConfig` and `ConversionConfig`."""

    expected_subbands: int = 16
    subbands_min: int = 12
    group_wait_seconds: float = 300.0
    arriving_wait_seconds: float = 180.0
    arriving_wait_max_seconds: float = 1800.0
    next_group_grace_seconds: float = 120.0

    def waits_until(self, first_seen: float, unchanged_since: float) -> float:
        """Until when a group waits for a file that is arriving."""
        after_change = unchanged_since + self.arriving_wait_seconds
        return min(after_change, first_seen + self.arriving_wait_max_seconds)


@dataclass(frozen=True, slots=True)
class CollectingGroup:
    """What is known of a group whose files may still come."""

    group_id: str
    first_seen: float
    """When its first file was seen."""
    whole: frozenset[int]
    """Sub-bands that have arrived."""
    arriving: Mapping[int, float] = field(default_factory=dict)
    """Sub-bands of which a file is there that is not whole yet, and until when it is waited for."""
    next_seen: float | None = None
    """When the first file of the next group was seen."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The state of a group, and why it is closed or what it waits for."""

    state: IngestState
    reason: str
    is_complete: bool = False
    """Closed because nothing is missing, not because a wait is over."""


def decide(group: CollectingGroup, rules: ClosingRules, now: float) -> Decision:
    """Whether a group is closed now: all sub-bands, its deadline, or the next group's grace.

    It waits longer for each file of it that is arriving, but not for ever.
    """
    n_whole = len(group.whole)
    if n_whole >= rules.expected_subbands:
        return Decision(IngestState.CLOSED, f"all {rules.expected_subbands} sub-bands", True)
    deadline = group.first_seen + rules.group_wait_seconds
    cause = f"{rules.group_wait_seconds:g} s after its first file"
    if group.next_seen is not None:
        after_next = max(group.first_seen, group.next_seen) + rules.next_group_grace_seconds
        if after_next < deadline:
            deadline = after_next
            cause = f"{rules.next_group_grace_seconds:g} s after the next group began"
    if group.arriving:
        deadline = max(deadline, *group.arriving.values())
    of_all = f"{n_whole} of {rules.expected_subbands} sub-bands"
    absent = set(range(rules.expected_subbands)) - group.whole
    if now < deadline:
        until = datetime.fromtimestamp(deadline, UTC).strftime("%H:%M:%S")
        n_arriving = len(group.arriving)
        arriving = f"{n_arriving} arriving" if n_arriving else ""
        awaited = filter(None, (name_subbands(absent - group.arriving.keys()), arriving))
        return Decision(IngestState.COLLECTING, f"waits until {until} for {', '.join(awaited)}")
    missing = name_subbands(absent)
    state = IngestState.CLOSED if n_whole >= rules.subbands_min else IngestState.REJECTED
    needed = "" if state is IngestState.CLOSED else f", {rules.subbands_min} needed"
    return Decision(state, f"{of_all} {cause}{needed}; missing: {missing}")


def name_subbands(subbands: Iterable[int], shown_max: int = 4) -> str:
    """Sub-bands as their files are named, the first few."""
    names = [f"sb{subband:02d}" for subband in sorted(subbands)]
    more = f" and {len(names) - shown_max} more" if len(names) > shown_max else ""
    return ", ".join(names[:shown_max]) + more


@dataclass(frozen=True, slots=True)
class ArrivalRules:
    """How a file shows that it is whole; see `StreamingConfig`."""

    arrival: Literal["stable", "rename", "done"] = "stable"
    stable_seconds: float = 10.0


def is_quiet(
    rules: ArrivalRules, now: float, unchanged_since: float, modified: float, *, is_marked: bool
) -> bool:
    """Whether nothing writes a file any more, as far as its size, times and mark tell.

    `unchanged_since` is the first look with its present size and time; `is_marked` tells of a
    file ``NAME.done``. A time of modification in the future is another clock's.
    """
    if is_marked or rules.arrival == "rename":
        return True
    if rules.arrival == "done":
        return False
    age = min(now - unchanged_since, abs(now - modified))
    return age >= rules.stable_seconds
