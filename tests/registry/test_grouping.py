"""Forming observation groups: no observation is split, no neighbours merge, order is nothing."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from absurd_contimg.errors import InputError
from absurd_contimg.registry import Registry, SubbandName, form_groups
from absurd_contimg.registry.grouping import TOLERANCE_SECONDS, group_name, parse_subband_name

START = 1_769_380_000


@st.composite
def observations(draw: st.DrawFn) -> list[list[SubbandName]]:
    """Some observations 309 s or more apart, their sub-bands within the tolerance."""
    found = []
    time = START
    for _ in range(draw(st.integers(1, 4))):
        jitters = draw(st.lists(st.integers(0, TOLERANCE_SECONDS), min_size=1, max_size=5))
        found.append([named(time + jitter, index) for index, jitter in enumerate(jitters)])
        time += draw(st.integers(309, 3_000))
    return found


def named(time: int, subband: int) -> SubbandName:
    return SubbandName(time, subband, Path(f"/in/{group_name(time)}_sb{subband:02}.hdf5"))


@given(truth=observations(), seed=st.integers(0, 1_000))
def test_every_observation_is_one_group(truth: list[list[SubbandName]], seed: int) -> None:
    """Whatever the order of the files, each observation is a group named by its earliest file."""
    files = list(itertools.chain(*truth))
    random.Random(seed).shuffle(files)
    groups = form_groups(files)
    assert [set(group.files) for group in groups] == [set(one) for one in truth]
    assert [group.group_id for group in groups] == [
        group_name(min(file.timestamp_seconds for file in one)) for one in truth
    ]


@given(times=st.lists(st.integers(START, START + 2_000), max_size=30), seed=st.integers(0, 100))
def test_any_files_give_disjoint_groups_in_any_order(times: list[int], seed: int) -> None:
    """Even for times that no telescope writes: all files are kept, spans bounded, order nothing."""
    files = [named(time, index % 16) for index, time in enumerate(times)]
    groups = form_groups(files)
    shuffled = random.Random(seed).sample(files, len(files))
    assert form_groups(shuffled) == groups
    kept = sorted(file for group in groups for file in group.files)
    assert kept == sorted(set(files))  # a file that is named twice is one file
    for group in groups:
        span = group.files[-1].timestamp_seconds - group.files[0].timestamp_seconds
        assert span <= TOLERANCE_SECONDS


@settings(max_examples=25, deadline=None)
@given(truth=observations(), seed=st.integers(0, 1_000), size=st.integers(1, 6))
def test_files_that_arrive_one_after_another_give_the_same_groups(
    truth: list[list[SubbandName]], seed: int, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The registry sees a few files at a time, in any order, and ends with the same groups."""
    files = list(itertools.chain(*truth))
    random.Random(seed).shuffle(files)
    registry = Registry(tmp_path_factory.mktemp("registry") / "registry.sqlite3")
    for first in range(0, len(files), size):
        registry.register_files(file.path for file in files[first : first + size])
    found = {group.group_id: set(group.files) for group in registry.groups()}
    assert found == {
        group.group_id: {file.path for file in group.files} for group in form_groups(files)
    }


def test_duplicated_sub_bands_are_told() -> None:
    """The same sub-band twice in one observation is visible before anything is converted."""
    (group,) = form_groups([named(START, 3), named(START + 1, 3), named(START, 4)])
    assert group.duplicates == (3,)


@pytest.mark.parametrize("suffix", ["hdf5", "uvh5"])
def test_names_are_read(suffix: str) -> None:
    """Both suffixes are in use."""
    name = parse_subband_name(Path(f"/in/2026-01-25T22:26:05_sb03.{suffix}"))
    assert (group_name(name.timestamp_seconds), name.subband) == ("2026-01-25T22:26:05", 3)


@pytest.mark.parametrize(
    "name",
    ["2026-01-25T22:26:05_sb3.hdf5", "2026-13-25T22:26:05_sb03.hdf5", "x_sb03.hdf5",
     "2026-01-25T22:26:05_sb03.hdf5.part"],
)  # fmt: skip
def test_other_names_are_refused(name: str) -> None:
    """The error shows the name that was expected."""
    with pytest.raises(InputError, match="YYYY-MM-DD"):
        parse_subband_name(Path(name))
