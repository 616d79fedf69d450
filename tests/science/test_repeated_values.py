"""What repeats exactly is flagged, cell by cell, and nothing that has noise is."""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from absurd_contimg.science.raw_checks import HANDS
from absurd_contimg.science.raw_file import RawHeader, read_raw_header, read_visibilities
from absurd_contimg.science.repeated_values import flag_repeated_values

sys.path.append(str(Path(__file__).parents[1] / "shared"))
from raw_files import N_ANTENNAS, N_CHANNELS, N_TIMES, write_file

N_CROSS = N_ANTENNAS * (N_ANTENNAS - 1) // 2


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> RawHeader:
    return read_raw_header(write_file(tmp_path_factory.mktemp("raw")))


def noise(header: RawHeader, seed: int) -> np.ndarray:
    parts = np.random.default_rng(seed).normal(size=(2, *header.shape))
    return (parts[0] + 1j * parts[1]).astype(np.complex64)


def flagged(header: RawHeader, data: np.ndarray, missing: np.ndarray | None = None) -> np.ndarray:
    """What is flagged beside what is missing; the share says as much."""
    before = np.zeros(data.shape, bool) if missing is None else missing
    flags, samples = before.copy(), np.ones(data.shape, np.float32)
    share = flag_repeated_values(header, data, flags, samples)
    new = flags & ~before
    assert not data[new].any()
    assert not samples[new].any()
    assert share == pytest.approx(new.sum() / (N_CROSS * N_TIMES * N_CHANNELS * 2))
    return new


def test_a_file_of_one_number_is_flagged_between_antennas(header: RawHeader) -> None:
    data, flags, samples = read_visibilities(header, HANDS)
    assert flag_repeated_values(header, data, flags, samples) == 1.0
    assert np.array_equal(flags.all(axis=(1, 2)), header.first != header.second)


_CELLS = st.tuples(st.integers(0, N_CHANNELS - 1), st.integers(0, 1))


@given(
    seed=st.integers(0, 99),
    stuck=st.sets(st.tuples(st.integers(0, N_CROSS - 1), _CELLS), max_size=5),
    lost=st.floats(0, 0.3),
)
def test_baselines_that_never_change_are_flagged_and_noise_is_not(
    header: RawHeader, seed: int, stuck: set[tuple[int, tuple[int, int]]], lost: float
) -> None:
    """Whatever is missing between; a single value left cannot repeat."""
    data, missing, cross = _observation(header, seed, lost)
    expected = np.zeros(data.shape, bool)
    for baseline, cell in stuck:
        where = (cross[:, baseline], *cell)
        data[where] = 7.0
        expected[where] = ~missing[where] & ((~missing[where]).sum() > 1)
    assert np.array_equal(flagged(header, data, missing), expected)


@given(
    seed=st.integers(0, 99),
    patterns=st.sets(st.tuples(st.integers(0, N_TIMES - 1), _CELLS), max_size=5),
    lost=st.floats(0, 0.3),
)
def test_integrations_that_are_the_same_on_all_baselines_are_flagged(
    header: RawHeader, seed: int, patterns: set[tuple[int, tuple[int, int]]], lost: float
) -> None:
    """A test pattern that changes with time; two values left may agree by chance."""
    data, missing, cross = _observation(header, seed, lost)
    expected = np.zeros(data.shape, bool)
    for time, cell in patterns:
        where = (cross[time], *cell)
        data[where] = 3.0 + time
        expected[where] = ~missing[where] & ((~missing[where]).sum() > 2)
    assert np.array_equal(flagged(header, data, missing), expected)


def _observation(
    header: RawHeader, seed: int, lost: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise, what of it is missing, and rows between antennas by time and baseline."""
    missing = np.random.default_rng(seed + 1).random(header.shape) < lost
    cross = np.flatnonzero(header.first != header.second).reshape(N_TIMES, N_CROSS)
    return noise(header, seed), missing, cross


def test_rows_may_be_in_any_order(tmp_path: Path) -> None:
    path = write_file(tmp_path)
    with h5py.File(path, "r+") as file:
        order = np.random.default_rng(5).permutation(len(file["Header/time_array"]))
        for name in ("time_array", "integration_time", "ant_1_array", "ant_2_array", "uvw_array"):
            file[f"Header/{name}"][...] = file[f"Header/{name}"][()][order]
    shuffled = read_raw_header(path)
    data = noise(shuffled, 1)
    pair = np.minimum(shuffled.first, shuffled.second) * 9 + np.maximum(
        shuffled.first, shuffled.second
    )
    data[pair == 2, 1, 0] = 4.0  # antennas 0 and 2
    new = flagged(shuffled, data)
    assert np.array_equal(np.argwhere(new)[:, 0], np.flatnonzero(pair == 2))
