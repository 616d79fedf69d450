"""Windows as a pure function: the eight bugs of the earlier manager, and properties."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from absurd_contimg.config import SiteConfig
from absurd_contimg.ingest.windows import (
    Observation,
    Outcome,
    WindowRules,
    Windows,
    form_windows,
    is_enough,
    reconcile,
    used_members,
    waits_for,
)
from absurd_contimg.registry.models import IngestState
from absurd_contimg.registry.windows import Window, WindowState

RULES = WindowRules()
CADENCE_DAYS = 309.24 / 86_400.0
START_MJD = 61_065.9
NIGHT_OVER = RULES.night_end_seconds


def observation(
    number: int,
    declination_deg: float | None = 16.27,
    outcome: Outcome = Outcome.USABLE,
    minutes_late: float = 0.0,
    ingest_state: IngestState = IngestState.CLOSED,
) -> Observation:
    """The n-th group of a night without gaps, named by its number."""
    return Observation(
        group_id=f"g{number:03d}",
        mid_mjd=START_MJD + number * CADENCE_DAYS + minutes_late / 1440.0,
        declination_deg=declination_deg,
        outcome=outcome,
        reason="" if outcome is Outcome.USABLE else "all data flagged",
        ingest_state=ingest_state,
    )


def night(count: int) -> list[Observation]:
    return [observation(number) for number in range(count)]


def numbers(window: Window) -> list[int]:
    return [int(member.group_id[1:]) for member in window.members]


def spans(formed: Windows) -> list[tuple[int, int]]:
    return [(numbers(window)[0], numbers(window)[-1]) for window in formed.windows]


def test_bug_1_the_first_window_forms_from_ten_new_groups() -> None:
    """The earlier one wanted 8 new and 2 of a window before, so the first never formed."""
    assert [w.state for w in form_windows(night(9), RULES).windows] == [WindowState.OPEN]
    (first,) = form_windows(night(10), RULES).windows
    assert (first.state, first.closed_reason, len(used_members(first))) == (
        WindowState.CLOSED, "complete", 10,
    )  # fmt: skip
    assert spans(form_windows(night(18), RULES)) == [(0, 9), (8, 17)]


def test_bug_2_a_failed_group_blocks_no_window_and_is_named() -> None:
    observations = night(18)
    observations[3] = observation(3, outcome=Outcome.UNUSABLE)
    first, second = form_windows(observations, RULES).windows
    assert first.state is second.state is WindowState.CLOSED
    (left_out,) = [member for member in first.members if not member.used]
    assert (left_out.group_id, left_out.reason) == ("g003", "all data flagged")
    assert reconcile([first, second], form_windows(observations, RULES)) == []  # not formed again


def test_bug_3_no_window_straddles_a_gap_or_a_pointing_change() -> None:
    observations = [
        *night(7),
        *(observation(number, minutes_late=10) for number in range(7, 13)),
        *(observation(number, 33.2, minutes_late=10) for number in range(13, 20)),
    ]
    formed = form_windows(observations, RULES, NIGHT_OVER)
    assert spans(formed) == [(0, 6), (7, 12), (13, 19)]
    assert [window.closed_reason for window in formed.windows] == [
        "gap of 15.2 min after g006",
        "the declination changed from 16.27 deg to 33.20 deg",
        "end of night: nothing new for 30 min",
    ]


def test_bug_4_forming_windows_again_changes_nothing() -> None:
    """The earlier one wiped the calibration of shared groups at each poll."""
    observations = night(18)
    copies = [replace(each) for each in observations]
    formed = form_windows(observations, RULES)
    assert observations == copies
    assert reconcile(formed.windows, form_windows(observations, RULES)) == []


def test_bug_5_windows_depend_on_no_location() -> None:
    """Their times are those of the data; the site of the pipeline is Owens Valley by default."""
    formed = form_windows(night(10), RULES)
    shifted = [replace(each, mid_mjd=each.mid_mjd + 0.33) for each in night(10)]
    assert spans(formed) == spans(form_windows(shifted, RULES))
    assert SiteConfig().longitude_deg == pytest.approx(-118.28, abs=0.01)


def test_bug_6_a_window_has_the_same_id_after_a_restart() -> None:
    """The id is the idempotency key of its task: computed from the members alone."""
    backwards = list(reversed(night(18)))
    assert [window.window_id for window in form_windows(night(18), RULES).windows] == [
        window.window_id for window in form_windows(backwards, RULES).windows
    ]


def test_bug_7_only_groups_that_ended_well_are_used() -> None:
    """The earlier one went on when one member of ten was calibrated."""
    observations = [observation(n, outcome=Outcome.UNUSABLE) for n in range(6)] + [
        observation(n) for n in range(6, 10)
    ]
    (window,) = form_windows(observations, RULES).windows
    assert window.state is WindowState.CLOSED
    assert not is_enough(window)
    assert window.closed_reason == "complete; no mosaic: 4 of 10 groups can be used"
    observations[0] = observation(0, outcome=Outcome.PENDING)
    (window,) = form_windows(observations, RULES).windows
    assert (window.state, waits_for(window)) == (WindowState.OPEN, "1 group to be processed")


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
def test_bug_8_a_window_that_cannot_be_completed_ends(count: int) -> None:
    """The earlier one waited for ever for the missing paths."""
    waiting = form_windows(night(count), RULES)
    assert all(window.state is WindowState.OPEN for window in waiting.windows)
    formed = form_windows(night(count), RULES, NIGHT_OVER)
    if count >= RULES.members_min:
        assert [window.state for window in formed.windows] == [WindowState.CLOSED]
        assert not formed.outside
    else:
        assert not formed.windows
        assert set(formed.outside) == {f"g{number:03d}" for number in range(count)}


def test_three_consecutive_groups_confirm_a_pointing_and_slews_are_in_no_window() -> None:
    slew = [observation(10, 20.0), observation(11, 25.0)]
    after = [observation(number, 33.2) for number in range(12, 14)]
    formed = form_windows([*night(10), *slew, *after], RULES)
    assert spans(formed) == [(0, 9)]
    assert formed.outside["g010"] == "slew: 1 groups at 20.00 deg, 3 confirm a pointing"
    assert formed.outside["g013"] == "waits: 2 groups at 33.20 deg, 3 confirm a pointing"
    formed = form_windows([*night(10), *slew, *after, observation(14, 33.2)], RULES)
    assert spans(formed) == [(0, 9), (12, 14)]
    assert set(formed.outside) == {"g010", "g011"}


def test_a_group_that_is_being_collected_holds_those_after_it() -> None:
    """Their places are not known yet; a group in time order before it is not held."""
    observations = night(12)
    observations[9] = observation(9, ingest_state=IngestState.COLLECTING)
    formed = form_windows(observations, RULES, NIGHT_OVER)
    assert spans(formed) == [(0, 8)]
    assert formed.windows[0].state is WindowState.OPEN
    assert formed.outside["g011"] == "waits for group g009, which is being collected"


def test_a_rejected_group_and_one_without_header_are_named_in_the_gap() -> None:
    observations = night(14)
    observations[6] = observation(6, ingest_state=IngestState.REJECTED)
    observations[12] = observation(12, None)
    formed = form_windows(observations, RULES, NIGHT_OVER)
    assert formed.windows[0].closed_reason == "gap of 10.3 min after g005 (1 rejected in it)"
    assert formed.outside["g012"] == "no header could be read"
    assert spans(formed) == [(0, 5), (7, 11)]


def test_a_late_observation_supersedes_the_windows_after_it() -> None:
    """What was recorded of a superseded window stays, with the window that replaces it."""
    with_hole = [each for each in night(18) if each.group_id != "g004"]
    stored = list(form_windows(with_hole, RULES, NIGHT_OVER).windows)
    assert [numbers(window)[0] for window in stored] == [5, 13]
    changes = reconcile(stored, form_windows(night(18), RULES, NIGHT_OVER))
    superseded = [window for window in changes if window.state is WindowState.SUPERSEDED]
    added = [window for window in changes if window.state is WindowState.CLOSED]
    assert [window.window_id for window in superseded] == [w.window_id for w in stored]
    assert [(numbers(w)[0], numbers(w)[-1]) for w in added] == [(0, 9), (8, 17)]
    assert {window.superseded_by for window in superseded} == {added[1].window_id}  # shares most


@st.composite
def nights(draw: st.DrawFn) -> list[Observation]:
    """A night of up to 45 groups with gaps, slews, drifts of the declination, failures."""
    observations = []
    minutes_late, declination = 0.0, 16.27
    for number in range(draw(st.integers(1, 45))):
        event = draw(st.sampled_from(["", "", "", "", "", "", "gap", "pointing", "drift"]))
        minutes_late += draw(st.floats(1.0, 300.0)) if event == "gap" else 0.0
        declination = (
            draw(st.sampled_from([16.27, 33.2, 54.6])) if event == "pointing" else declination
        )
        declination += draw(st.floats(-0.2, 0.2)) if event == "drift" else 0.0
        state = draw(st.sampled_from([*[IngestState.CLOSED] * 9, IngestState.REJECTED]))
        outcome = draw(st.sampled_from([*[Outcome.USABLE] * 5, Outcome.UNUSABLE]))
        unreadable = draw(st.integers(0, 30)) == 30
        each = observation(number, declination, outcome, minutes_late, state)
        observations.append(replace(each, declination_deg=None) if unreadable else each)
    return observations


def apply(stored: dict[str, Window], formed: Windows) -> None:
    """Store as the registry does, which is all that outlives a restart."""
    for window in reconcile(stored.values(), formed):
        if window.members:
            stored[window.window_id] = window
        else:
            del stored[window.window_id]


@settings(max_examples=40, deadline=None)
@given(truth=nights(), seed=st.integers(0, 10_000), shuffled=st.booleans())
def test_whatever_the_order_of_arrival_the_windows_are_the_same(
    truth: list[Observation], seed: int, shuffled: bool
) -> None:
    """Groups appear, close and end in any order, with pauses that look like the end of a night."""
    chance = random.Random(seed)
    steps = [(index + 3 * chance.random(), stage, each) for index, each in enumerate(truth)
             for stage in range(3)]  # fmt: skip
    order = chance.sample(steps, len(steps)) if shuffled else sorted(steps, key=lambda s: s[:2])
    stored: dict[str, Window] = {}
    progress: dict[str, int] = {}
    for _, _, each in order:
        progress[each.group_id] = progress.get(each.group_id, -1) + 1
        seen = [_at(other, progress[other.group_id]) for other in truth
                if other.group_id in progress]  # fmt: skip
        apply(stored, form_windows(seen, RULES, chance.choice([0.0, 0.0, NIGHT_OVER])))
    apply(stored, form_windows(truth, RULES, NIGHT_OVER))
    expected = form_windows(truth, RULES, NIGHT_OVER)
    final = {key: w for key, w in stored.items() if w.state is not WindowState.SUPERSEDED}
    assert final.keys() == {window.window_id for window in expected.windows}
    for window in expected.windows:
        assert final[window.window_id].members == window.members
        assert final[window.window_id].state is WindowState.CLOSED
    for window in stored.values():
        if window.state is WindowState.SUPERSEDED and window.superseded_by is not None:
            assert window.superseded_by in final


def _at(each: Observation, stage: int) -> Observation:
    if stage == 0:
        return replace(each, ingest_state=IngestState.COLLECTING, outcome=Outcome.PENDING)
    return replace(each, outcome=Outcome.PENDING) if stage == 1 else each


@settings(max_examples=40, deadline=None)
@given(truth=nights())
def test_every_group_has_its_windows_or_a_reason(truth: list[Observation]) -> None:
    formed = form_windows(truth, RULES, NIGHT_OVER)
    inside = {member.group_id for window in formed.windows for member in window.members}
    assert inside | formed.outside.keys() == {each.group_id for each in truth}
    assert not inside & formed.outside.keys()
    assert len({window.window_id for window in formed.windows}) == len(formed.windows)
    by_id = {each.group_id: each for each in truth}
    for window in formed.windows:
        _check_window(window, [by_id[member.group_id] for member in window.members])
    for before, after in pairwise(formed.windows):
        shared = set(numbers(before)) & set(numbers(after))
        assert len(shared) in (0, RULES.size - RULES.stride)
        if shared:
            assert numbers(before)[-2:] == numbers(after)[:2]


def _check_window(window: Window, members: Sequence[Observation]) -> None:
    assert RULES.members_min <= len(members) <= RULES.size
    mean = window.declination_deg
    for before, after in pairwise(members):
        assert (after.mid_mjd - before.mid_mjd) * 1440.0 < RULES.gap_minutes
    for each, member in zip(members, window.members, strict=True):
        assert each.ingest_state is IngestState.CLOSED
        assert each.declination_deg is not None
        assert abs(each.declination_deg - mean) <= RULES.declination_tolerance_deg + 1e-9
        assert member.used == (each.outcome is Outcome.USABLE)
        assert member.used or member.reason
