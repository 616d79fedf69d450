"""Forming observation groups: none is split, neighbours do not merge, the order has no effect."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_extent import examples
from sqlalchemy import update

from absurd_contimg.errors import InputError
from absurd_contimg.products.subband_files import SubbandName, parse_subband_name
from absurd_contimg.registry import Registry
from absurd_contimg.registry.grouping import TOLERANCE_SECONDS, group_name
from absurd_contimg.registry.models import ObservationGroup

START = 1_769_380_000


@st.composite
def observations(draw: st.DrawFn) -> list[list[SubbandName]]:
    """Some observations 309 s or more apart, their sub-bands within the tolerance."""
    drawn = []
    time = START
    for _ in range(draw(st.integers(1, 4))):
        jitters = draw(st.lists(st.integers(0, TOLERANCE_SECONDS), min_size=1, max_size=5))
        drawn.append([named(time + jitter, index) for index, jitter in enumerate(jitters)])
        time += draw(st.integers(309, 3_000))
    return drawn


def named(time: int, subband: int) -> SubbandName:
    return SubbandName(time, subband, Path(f"/in/{group_name(time)}_sb{subband:02}.hdf5"))


@settings(max_examples=examples(25), deadline=None)
@given(truth=observations(), seed=st.integers(0, 1_000), size=st.integers(1, 6))
def test_every_observation_is_one_group_in_whatever_order_its_files_arrive(
    truth: list[list[SubbandName]], seed: int, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The registry sees a few files at a time; a group has the name of its earliest file."""
    files = list(itertools.chain(*truth))
    random.Random(seed).shuffle(files)
    registry = Registry(tmp_path_factory.mktemp("registry") / "registry.sqlite3")
    for first in range(0, len(files), size):
        registry.register_files(file.path for file in files[first : first + size])
    groups = {group.group_id: set(group.files) for group in registry.groups()}
    assert groups == {
        group_name(min(file.timestamp_seconds for file in observation)): {
            file.path for file in observation
        }
        for observation in truth
    }


@pytest.mark.parametrize("suffix", ["hdf5", "uvh5"])
def test_names_are_read(suffix: str) -> None:
    """Both suffixes are in use."""
    name = parse_subband_name(Path(f"/in/2026-01-25T22:26:05_sb03.{suffix}"))
    assert (group_name(name.timestamp_seconds), name.subband) == ("2026-01-25T22:26:05", 3)


def test_the_name_of_a_leap_second_is_the_second_after() -> None:
    name = parse_subband_name(Path("2016-12-31T23:59:60_sb03.hdf5"))
    assert group_name(name.timestamp_seconds) == "2017-01-01T00:00:00"


@pytest.mark.parametrize(
    "name",
    ["2026-01-25T22:26:05_sb3.hdf5", "2026-13-25T22:26:05_sb03.hdf5", "x_sb03.hdf5",
     "2026-01-25T22:26:05_sb03.hdf5.part", "2026-01-25T22:26:05_sb\u0660\u0663.hdf5",
     "0001-01-01T00:00:00_sb03.hdf5", "2026-01-25T22:26:60_sb03.hdf5",
     "9999-12-31T23:59:59_sb03.hdf5", "9999-12-31T23:59:60_sb03.hdf5"],
)  # fmt: skip
def test_other_names_are_refused(name: str) -> None:
    """The error shows the name that was expected."""
    with pytest.raises(InputError, match="YYYY-MM-DD"):
        parse_subband_name(Path(name))


def test_renamed_group_keeps_what_is_known_of_it(registry: Registry) -> None:
    """And a closed group keeps its name: its files are fixed."""
    paths = [named(START + second, second).path for second in (20, 10, 0)]
    registry.register_files(paths[:1])
    _set_group(registry, mid_mjd=61065.9, declination_deg=16.0)
    registry.register_files(paths[:2])
    (row,) = registry.rows(ObservationGroup)
    assert row["group_id"] == group_name(START + 10)
    assert (row["mid_mjd"], row["declination_deg"]) == (61065.9, 16.0)
    assert row["ingest_state"] == "collecting"
    _set_group(registry, closed_at="2026-01-25T23:00:00+00:00", ingest_state="closed")
    assert set(registry.register_files(paths).values()) == {group_name(START + 10)}


def _set_group(registry: Registry, **values: object) -> None:
    with registry.database.writing() as session:
        session.execute(update(ObservationGroup).values(**values))
