"""When schedules are due: cron in UTC, sidereal time at the site, over restarts and clock jumps."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import get_args

import erfa
import pytest
from astropy.coordinates import FK5, SkyCoord
from astropy.time import Time
from hypothesis import given, settings
from hypothesis import strategies as st

from absurd_contimg.errors import SettingError
from absurd_contimg.ingest.schedule_times import (
    LATE_SECONDS,
    CatchUp,
    SiderealTimes,
    Slot,
    Times,
    cursor_at,
    due_slot,
    format_lst,
    parse_times,
    transit_seconds,
)

LONGITUDE_DEG = -118.2817
FEW = settings(max_examples=40, deadline=None)
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CIVIL = ("0 3 * * *", "03:00", "0 */6 * * *", "30 6 * * MON", "0 0 1 * *")
SIDEREAL = ("05:30", "13:31:08 3C286", "00:00:00", "23:59:59")
TIMES = st.one_of(
    st.sampled_from([parse_times("civil", spec, LONGITUDE_DEG) for spec in CIVIL]),
    st.sampled_from([parse_times("sidereal", spec, LONGITUDE_DEG) for spec in SIDEREAL]),
)
MOMENTS = st.floats(946_800_000, 2_840_000_000).map(lambda s: datetime.fromtimestamp(s, UTC))


@FEW
@given(TIMES, MOMENTS)
def test_latest_and_following_slots_enclose_any_moment(times: Times, now: datetime) -> None:
    latest = times.latest(now)
    assert latest is not None
    following = times.following(latest.number)
    assert following is not None
    assert latest.at <= now < following.at
    assert latest.number < following.number
    assert times.time_of(latest.number) == latest.at
    assert times.latest(latest.at) == latest


@FEW
@given(MOMENTS, st.floats(0, 86_399))
def test_sidereal_slots_are_at_their_sidereal_time(now: datetime, lst_seconds: float) -> None:
    """Within 1.1 s of ERFA's mean sidereal time, of which a second is the rounding."""
    slot = SiderealTimes(lst_seconds, LONGITUDE_DEG).latest(now)
    assert slot is not None
    days = slot.at.timestamp() / 86_400 + 2_440_587.5 - 2_451_545.0
    there = (erfa.gmst06(2_451_545.0, days, 2_451_545.0, days) % (2 * math.pi)) / math.pi * 43_200
    there = (there + LONGITUDE_DEG * 240.0) % 86_400
    assert abs((there - lst_seconds + 43_200) % 86_400 - 43_200) < 1.1


def test_calibrator_transits_at_its_right_ascension_of_date() -> None:
    at = datetime(2026, 11, 29, tzinfo=UTC)
    source = SkyCoord(202.7845, 30.5092, unit="deg")
    of_date = source.transform_to(FK5(equinox=Time(at.replace(tzinfo=None))))
    expected = of_date.ra.hour * 3600.0
    assert transit_seconds(202.7845, 30.5092, at) == pytest.approx(expected, abs=1.0)


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("civil", "25:00"),
        ("civil", "0 3 * *"),
        ("civil", "0 0 3 * * *"),
        ("civil", "60 3 * * *"),
        ("civil", "0 0 31 2 *"),
        ("sidereal", "24:00"),
        ("sidereal", "noon"),
    ],
)
def test_misspelt_times_are_refused(kind: str, spec: str) -> None:
    with pytest.raises(SettingError, match=r"not understood|five fields|no time of day"):
        parse_times(kind, spec, LONGITUDE_DEG)  # type: ignore[arg-type] - a parameter


def run_with_looks(
    times: Times, looks: list[datetime], catch_up: CatchUp, began: datetime
) -> list[Slot]:
    """What a schedule starts that was added at `began` and is looked at at these moments.

    Each look may be that of a new process: only the cursor is kept.
    """
    first = times.latest(began)
    cursor = None if first is None else first.number
    started = []
    for now in looks:
        cursor = cursor_at(times, cursor, now)
        while (slot := due_slot(times, cursor, now, catch_up)) is not None:
            started.append(slot)
            cursor = slot.number
    return started


GAPS = st.lists(st.floats(0, 400_000), max_size=12)


@FEW
@given(TIMES, GAPS, st.sampled_from(get_args(CatchUp)))
def test_no_slot_starts_twice_or_early_however_often_the_daemon_looks(
    times: Times, gaps: list[float], catch_up: CatchUp
) -> None:
    looks = [START + timedelta(seconds=sum(gaps[:n])) for n in range(1, len(gaps) + 1)]
    started = run_with_looks(times, looks, catch_up, START)
    numbers = [slot.number for slot in started]
    assert numbers == sorted(set(numbers))
    assert all(START < slot.at <= looks[-1] for slot in started)


@FEW
@given(TIMES, GAPS)
def test_catch_up_policies_start_all_or_the_latest_or_only_punctual_slots(
    times: Times, gaps: list[float]
) -> None:
    looks = [START + timedelta(seconds=sum(gaps[:n])) for n in range(1, len(gaps) + 1)]
    every: list[Slot] = []
    slot = times.latest(START)
    while looks and slot is not None:
        slot = times.following(slot.number)
        if slot is None or slot.at > looks[-1]:
            break
        every.append(slot)
    assert run_with_looks(times, looks, "all", START) == every
    latest = [
        of_look[-1]
        for before, look in zip([START, *looks], looks, strict=False)
        if (of_look := [slot for slot in every if before < slot.at <= look])
    ]
    assert run_with_looks(times, looks, "latest", START) == latest
    punctual = {
        slot.number
        for slot in latest
        if any(0 <= (look - slot.at).total_seconds() <= LATE_SECONDS for look in looks)
    }
    assert {slot.number for slot in run_with_looks(times, looks, "skip", START)} == punctual


@FEW
@given(
    TIMES,
    st.lists(st.floats(-4_000_000, 4_000_000), min_size=1, max_size=12),
    st.sampled_from(get_args(CatchUp)),
)
def test_clock_jumps_repeat_no_slot_under_another_name_and_never_silence_a_schedule(
    times: Times, jumps: list[float], catch_up: CatchUp
) -> None:
    """Slots may come again after a clock was put back; by their names they are the same ones."""
    looks = [START + timedelta(seconds=jump) for jump in jumps]
    started = run_with_looks(times, looks, "latest" if catch_up == "all" else catch_up, START)
    assert len({slot.name for slot in started}) == len({slot.number for slot in started})
    now = looks[-1]
    first = times.latest(now)
    assert first is not None
    following = times.following(first.number)
    assert following is not None
    seen = run_with_looks(
        times, [*looks, following.at + timedelta(hours=1, seconds=1)], "all", START
    )
    assert following.name in {slot.name for slot in seen}


def test_sidereal_time_is_shown_in_hours() -> None:
    assert format_lst(86_399.7) == "00:00:00"
    assert format_lst(5.5 * 3600) == "05:30:00"
