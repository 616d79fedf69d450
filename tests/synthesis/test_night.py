"""The telescope of a night: how many groups each strip has, and what it says of its faults."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest

from absurd_contimg.synthesis.array import active_stations
from absurd_contimg.synthesis.config import FaultKind, SynthesisConfig
from absurd_contimg.synthesis.files import subband_name
from absurd_contimg.synthesis.night import (
    GROUPS_MIN,
    Plan,
    TrueGroup,
    TrueNight,
    TrueSource,
    strips,
)


def test_a_night_of_30_groups_has_full_windows_and_short_ones() -> None:
    assert Plan.of(30) == Plan(first=13, second=10, third=6)


@pytest.mark.parametrize("groups", range(GROUPS_MIN, 60))
def test_each_strip_is_long_enough_for_a_pointing(groups: int) -> None:
    plan = Plan.of(groups)
    lengths = plan.first, plan.second, plan.third
    assert min(lengths) >= 3
    assert 1 + sum(lengths) == groups


def test_strips_follow_one_another_and_the_second_has_the_gap() -> None:
    plan = Plan.of(GROUPS_MIN)
    calibrator, first, second = strips(plan)
    length = calibrator.group_length_s
    assert (first.start - calibrator.start).total_seconds() == pytest.approx(length)
    whole = plan.first * length
    assert (second.start - first.start).total_seconds() == pytest.approx(whole)
    assert second.n_groups == plan.second + 2 + plan.third


def test_a_fault_does_not_change_the_name_of_its_group() -> None:
    _calibrator, first, second = strips(Plan.of(GROUPS_MIN))
    faults = [(config, fault) for config in (first, second) for fault in config.faults]
    kinds = [fault.kind for _config, fault in faults]
    assert kinds == [FaultKind.MISSING, FaultKind.TRUNCATED, FaultKind.DUPLICATED]
    for config, fault in faults:
        names = {subband: subband_name(config, fault.group, subband) for subband in range(16)}
        faulty = names.pop(fault.subband)
        assert min(names.values()) < faulty


def test_what_the_telescope_wrote_is_read_again(tmp_path: Path) -> None:
    groups = (
        TrueGroup("2025-01-15T02:00:00", "calibrator", 16),
        TrueGroup("2025-01-15T02:05:09", "first", 15, 1, 0, (TrueSource("A", 0.5),)),
    )
    night = TrueNight(groups, {"late": "2025-01-15T02:05:09"})
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(asdict(night)))
    assert TrueNight.read(path) == night


def test_antennas_without_outriggers() -> None:
    """The configuration decides; without a number it is three eighths of the antennas."""
    numbers = {n: Counter(s > 102 for s in active_stations(16, n))[True] for n in (0, 2, None)}
    assert numbers == {0: 0, 2: 2, None: 6}
    with pytest.raises(ValueError, match="outriggers"):
        SynthesisConfig(n_antennas=4, outriggers=5)
