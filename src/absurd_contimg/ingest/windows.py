"""Windows of consecutive groups, each of which becomes a mosaic: pure functions.

The windows depend on all observations and the rules alone, not on the order in which groups arrived
or ended, nor on what was formed before. A window that was closed and is no longer formed, because a
late observation took a place before it, is superseded by those that are (`reconcile`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from operator import attrgetter
from statistics import fmean

from absurd_contimg.registry.models import IngestState
from absurd_contimg.registry.windows import Window, WindowMember, WindowState

_MINUTES_A_DAY = 1440.0


class Outcome(StrEnum):
    """How the processing of a group ended."""

    PENDING = "pending"
    USABLE = "usable"
    UNUSABLE = "unusable"
    """Failed, quarantined or cancelled."""


@dataclass(frozen=True, slots=True)
class WindowRules:
    """Which groups make a window. Sources: the telescope's mosaic manager, `docs/streaming.md`."""

    size: int = 10
    stride: int = 8
    members_min: int = 5
    gap_minutes: float = 6.0
    declination_tolerance_deg: float = 0.1
    confirm: int = 3
    night_end_seconds: float = 1800.0


@dataclass(frozen=True, slots=True)
class Observation:
    """A group as the windows see it."""

    group_id: str
    mid_mjd: float
    """Middle of the observation; of a group without a readable header the time in its name."""
    declination_deg: float | None
    """None where no header could be read: in no window."""
    ingest_state: IngestState = IngestState.CLOSED
    outcome: Outcome = Outcome.PENDING
    reason: str = ""
    """Why it is unusable, or what is to be said of it."""


@dataclass(frozen=True, slots=True)
class Windows:
    """All windows in order of time, and the groups that are in none, with the reason."""

    windows: tuple[Window, ...]
    outside: Mapping[str, str]


_PENDING = "not processed yet"
_OPEN_END = ""
"""A sequence of groups that may go on."""


def form_windows(
    observations: Iterable[Observation], rules: WindowRules, quiet_seconds: float = 0.0
) -> Windows:
    """The windows of these observations; nothing new has come for `quiet_seconds`.

    Groups after one that is still being collected wait for it.
    """
    ordered = sorted(observations, key=attrgetter("mid_mjd", "group_id"))
    outside: dict[str, str] = {}
    accepted, rejected, held_by = _split(ordered, outside)
    night_over = held_by is None and quiet_seconds >= rules.night_end_seconds
    end = _OPEN_END
    if night_over:
        end = f"end of night: nothing new for {rules.night_end_seconds / 60:.0f} min"
    windows: list[Window] = []
    for segment, segment_end in _segments(accepted, rejected, rules, end):
        for run, run_end in _pointings(segment, rules, segment_end):
            windows += _windows_of(run, rules, run_end, outside)
    return Windows(tuple(windows), outside)


def _split(
    ordered: Sequence[Observation], outside: dict[str, str]
) -> tuple[list[Observation], list[Observation], str | None]:
    """The accepted and the rejected, and the first group that is being collected."""
    accepted, rejected, held_by = [], [], None
    for observation in ordered:
        name = observation.group_id
        if observation.ingest_state is IngestState.COLLECTING:
            held_by = held_by or name
        elif observation.ingest_state is IngestState.REJECTED:
            outside[name] = f"rejected: {observation.reason}" if observation.reason else "rejected"
            rejected.append(observation)
        elif observation.declination_deg is None:
            outside[name] = "no header could be read"
            rejected.append(observation)
        elif held_by is not None:
            outside[name] = f"waits for group {held_by}, which is being collected"
        else:
            accepted.append(observation)
    return accepted, rejected, held_by


def _segments(
    accepted: Sequence[Observation],
    rejected: Sequence[Observation],
    rules: WindowRules,
    end: str,
) -> Iterator[tuple[list[Observation], str]]:
    """Groups less than the gap apart, and why each segment ended."""
    segment: list[Observation] = []
    for observation in accepted:
        if segment:
            before = segment[-1]
            minutes = (observation.mid_mjd - before.mid_mjd) * _MINUTES_A_DAY
            if minutes >= rules.gap_minutes:
                reason = f"gap of {minutes:.1f} min after {before.group_id}"
                missing = sum(
                    before.mid_mjd < other.mid_mjd < observation.mid_mjd for other in rejected
                )
                yield segment, f"{reason} ({missing} rejected in it)" if missing else reason
                segment = []
        segment.append(observation)
    if segment:
        yield segment, end


def _pointings(
    segment: Sequence[Observation], rules: WindowRules, end: str
) -> Iterator[tuple[list[Observation], str]]:
    """Groups of one declination, and why each run of them ended."""
    run: list[Observation] = []
    for observation in segment:
        if run and not _is_one_pointing([*run[1 - rules.size :], observation], rules):
            yield (
                run,
                f"the declination changed from {_degrees(run[-1])} to {_degrees(observation)}",
            )
            run = []
        run.append(observation)
    yield run, end


def _is_one_pointing(run: Sequence[Observation], rules: WindowRules) -> bool:
    """Whether any window that ends with the last group keeps to the tolerance of its mean."""
    declinations = [_declination(observation) for observation in run[-rules.size :]]
    for start in range(len(declinations) - 1):
        part = declinations[start:]
        mean = fmean(part)
        if max(abs(value - mean) for value in part) > rules.declination_tolerance_deg:
            return False
    return True


def _windows_of(
    run: Sequence[Observation], rules: WindowRules, end: str, outside: dict[str, str]
) -> Iterator[Window]:
    """The windows of one pointing; `end` is why no group can follow, empty while one can."""
    if len(run) < rules.confirm:
        needed = f"{len(run)} groups at {_degrees(run[0])}, {rules.confirm} confirm a pointing"
        reason = f"slew: {needed}" if end else f"waits: {needed}"
        outside.update((observation.group_id, reason) for observation in run)
        return
    shared = rules.size - rules.stride
    for start in range(0, len(run), rules.stride):
        members = run[start : start + rules.size]
        fresh = members if start == 0 else members[shared:]
        if not fresh:
            return
        is_full = len(members) == rules.size
        if not is_full and end and len(members) < rules.members_min:
            reason = f"{len(members)} groups are too few for a window ({end})"
            outside.update((observation.group_id, reason) for observation in fresh)
            return
        yield _window(members, rules, "complete" if is_full else end)


def _window(members: Sequence[Observation], rules: WindowRules, closed_reason: str) -> Window:
    window = Window(
        window_id=window_id([observation.group_id for observation in members]),
        state=WindowState.OPEN,
        start_mjd=members[0].mid_mjd,
        end_mjd=members[-1].mid_mjd,
        declination_deg=fmean(map(_declination, members)),
        members=tuple(map(_member, members)),
        settings=asdict(rules),
        closed_reason=closed_reason or None,
    )
    ended = all(observation.outcome is not Outcome.PENDING for observation in members)
    if not closed_reason or not ended:
        return window
    if not is_enough(window):
        used = len(used_members(window))
        closed_reason += f"; no mosaic: {used} of {len(members)} groups can be used"
    return replace(window, state=WindowState.CLOSED, closed_reason=closed_reason)


def used_members(window: Window) -> list[str]:
    """The groups that go into the mosaic."""
    return [member.group_id for member in window.members if member.used]


def is_enough(window: Window) -> bool:
    """Whether enough members can be used for a mosaic, by the rules that formed the window."""
    return len(used_members(window)) >= int(window.settings["members_min"])


def waits_for(window: Window) -> str:
    """What an open window waits for."""
    if window.state is not WindowState.OPEN:
        return ""
    pending = sum(member.reason == _PENDING for member in window.members)
    parts = [] if window.closed_reason else ["more groups"]
    if pending:
        parts.append(f"{pending} {'group' if pending == 1 else 'groups'} to be processed")
    return " and ".join(parts)


def window_id(group_ids: Sequence[str]) -> str:
    """The id of a window with these members: the first one, and a digest of all."""
    digest = hashlib.blake2b("\n".join(group_ids).encode(), digest_size=4).hexdigest()
    return f"W{group_ids[0]}-{digest}"


def _member(observation: Observation) -> WindowMember:
    pending = observation.outcome is Outcome.PENDING
    return WindowMember(
        group_id=observation.group_id,
        mid_mjd=observation.mid_mjd,
        used=observation.outcome is Outcome.USABLE,
        reason=_PENDING if pending else observation.reason or None,
    )


def _declination(observation: Observation) -> float:
    assert observation.declination_deg is not None  # `_split` keeps others out
    return observation.declination_deg


def _degrees(observation: Observation) -> str:
    return f"{_declination(observation):.2f} deg"


def reconcile(stored: Iterable[Window], formed: Windows) -> list[Window]:
    """The stored windows that change, as they should be stored; one without members is removed.

    What was recorded of a closed window stays, so that it says what its mosaic was made of.
    """
    current = {window.window_id: window for window in formed.windows}
    changes: list[Window] = []
    known: set[str] = set()
    for window in stored:
        known.add(window.window_id)
        now = current.get(window.window_id)
        if now is None and window.state is WindowState.OPEN:
            changes.append(replace(window, members=()))
        elif now is None:
            successor = _successor(window, formed.windows)
            if window.state is WindowState.CLOSED or window.superseded_by != successor:
                changes.append(
                    replace(window, state=WindowState.SUPERSEDED, superseded_by=successor)
                )
        elif window.state is WindowState.SUPERSEDED:
            changes.append(replace(window, state=WindowState.CLOSED, superseded_by=None))
        elif window.state is WindowState.OPEN and now != replace(window, task_id=None):
            changes.append(now)
    return changes + [window for key, window in current.items() if key not in known]


def _successor(window: Window, formed: Sequence[Window]) -> str | None:
    """The formed window that shares the most members, the earliest of several."""
    ids = {member.group_id for member in window.members}
    shares = [(len(ids & {member.group_id for member in other.members}), other) for other in formed]
    best = max(shares, key=lambda share: (share[0], -share[1].start_mjd), default=None)
    return best[1].window_id if best and best[0] else None
