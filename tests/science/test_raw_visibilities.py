"""Raw files as pyuvdata objects: both forms, any order of antennas, phased to the meridian."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from absurd_contimg.config import ConversionConfig, SiteConfig
from absurd_contimg.errors import CorruptInputError
from absurd_contimg.science.antenna_names import station_name
from absurd_contimg.science.earth_orientation import use_bundled_tables
from absurd_contimg.science.raw_checks import check_header
from absurd_contimg.science.raw_file import read_raw_header
from absurd_contimg.science.raw_group import read_raw_group
from absurd_contimg.science.raw_visibilities import read_uvdata

sys.path.append(str(Path(__file__).parents[1] / "shared"))
from raw_files import N_ANTENNAS, N_CHANNELS, N_TIMES, write_file, write_group

N_CROSS = N_ANTENNAS * (N_ANTENNAS - 1) // 2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file in the writer's form with visibilities that all differ."""
    use_bundled_tables()
    written = write_file(tmp_path)
    with h5py.File(written, "r+") as file:
        data = file["Data/visdata"]
        rng = np.random.default_rng(3)
        data[...] = rng.normal(size=data.shape) + 1j * rng.normal(size=data.shape)
    return written


def read(path: Path, factor: int = 1) -> Any:
    header = read_raw_header(path)
    check_header(header, SiteConfig())
    return read_uvdata({header.index: header}, header, factor)


def test_the_converters_form_holds_the_same_data(path: Path, tmp_path: Path) -> None:
    """pyuvdata's own file of the same observation, with phase centres, flags and sidereal times."""
    writer = read(path)
    converted = tmp_path / "converted" / path.name
    converted.parent.mkdir()
    writer.write_uvh5(converted, run_check=False, check_autos=False)
    converter = read(converted)
    assert np.array_equal(converter.data_array, writer.data_array)
    assert np.array_equal(converter.ant_1_array, writer.ant_1_array)
    assert np.abs(converter.uvw_array - writer.uvw_array).max() < 1e-6
    assert np.abs(converter.lst_array - writer.lst_array).max() < 1e-9
    assert converter.telescope.antenna_names.tolist() == writer.telescope.antenna_names.tolist()


def test_a_baseline_written_the_other_way_round_is_the_same_baseline(path: Path) -> None:
    before = read(path)
    with h5py.File(path, "r+") as file:
        first, second = file["Header/ant_1_array"][()], file["Header/ant_2_array"][()]
        file["Header/ant_1_array"][...] = second
        file["Header/ant_2_array"][...] = first
        file["Header/uvw_array"][...] = -file["Header/uvw_array"][()]
        file["Data/visdata"][...] = file["Data/visdata"][()].conj()
    after = read(path)
    assert np.array_equal(after.data_array, before.data_array)
    assert np.array_equal(after.ant_1_array, before.ant_1_array)
    assert (before.ant_1_array < before.ant_2_array).all()


def test_rows_are_in_order_of_time_and_baseline_whatever_the_file(path: Path) -> None:
    before = read(path)
    with h5py.File(path, "r+") as file:
        order = np.random.default_rng(5).permutation(file["Header/time_array"].shape[0])
        for name in ("time_array", "integration_time", "ant_1_array", "ant_2_array", "uvw_array"):
            values = file[f"Header/{name}"][()]
            file[f"Header/{name}"][...] = values[order]
        for name in ("visdata", "flags", "nsamples"):
            values = file[f"Data/{name}"][()]
            file[f"Data/{name}"][...] = values[order]
    after = read(path)
    assert np.array_equal(after.data_array, before.data_array)
    assert before.data_array.shape == (N_TIMES * N_CROSS, N_CHANNELS, 2)
    assert (np.diff(before.time_array) >= 0).all()


def test_channels_ascend_and_are_averaged_without_what_is_missing(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        data = file["Data/visdata"]
        channels = np.arange(1, N_CHANNELS + 1)[None, None, :, None]
        data[...] = channels + 1j * data[()].imag  # what repeats exactly would be flagged
        file["Data/nsamples"][:, 0, 0] = 0.0
    whole, averaged = read(path), read(path, factor=2)
    assert (np.diff(whole.freq_array) > 0).all()
    assert whole.data_array[0, :, 0].real.tolist() == [4.0, 3.0, 2.0, 0.0]
    assert averaged.data_array[0, :, 0].real.tolist() == [3.5, 2.0]
    assert averaged.nsample_array[0, :, 0].tolist() == [1.0, 0.5]
    assert not averaged.flag_array.any()
    assert averaged.freq_array[0] == pytest.approx(whole.freq_array[:2].mean())


def test_sub_bands_that_differ_within_the_tolerances_are_joined(tmp_path: Path) -> None:
    """They have the times, the places and the grid of one of them."""
    paths = write_group(tmp_path, 2)
    with h5py.File(paths[1], "r+") as file:
        header = file["Header"]
        for key, difference in (
            ("time_array", 0.3 / 86400.0),
            ("integration_time", 5e-3),
            ("antenna_positions", 0.02),
            ("freq_array", 1e5),
            ("phase_center_app_dec", 5e-6),
            ("altitude", 0.05),
        ):
            header[key][...] = header[key][()] + difference
    group = read_raw_group(paths, ConversionConfig(subbands_min=2), SiteConfig())
    joined = read_uvdata(group.subbands, group.reference, 1)
    assert np.ptp(np.diff(joined.freq_array)) < 1e-3
    assert len(joined.freq_array) == 2 * N_CHANNELS
    for index, channels in ((1, np.s_[:N_CHANNELS]), (0, np.s_[N_CHANNELS:])):
        alone = read_uvdata({index: group.subbands[index]}, group.reference, 1)
        assert np.array_equal(joined.data_array[:, channels], alone.data_array)


def test_a_time_beyond_the_tables_of_the_earths_rotation_is_refused(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["Header/time_array"][...] += 20 * 365
    with pytest.raises(CorruptInputError, match="update astropy-iers-data"):
        read(path)


def test_antennas_without_data_are_left_out(path: Path) -> None:
    """The header lists 117 stations, of which 96 have receivers."""
    with h5py.File(path, "r+") as file:
        header = file["Header"]
        for key, more in (
            ("antenna_names", np.array([b"88", b"89"])),
            ("antenna_numbers", np.array([87, 88])),
            ("antenna_positions", np.array([[40.0, 2.0, 7.0], [80.0, 2.0, 9.0]])),
        ):
            values = header[key][()]
            del header[key]
            header[key] = np.concatenate([values, more])
        header["Nants_telescope"][()] = N_ANTENNAS + 2
    assert read(path).telescope.antenna_names.tolist() == [f"DSA{n:03d}" for n in range(1, 6)]


def test_sidereal_times_of_another_place_are_refused(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["Header/lst_array"] = np.full(file["Header/time_array"].shape, 1.0)
    with pytest.raises(CorruptInputError, match="lst_array says 1"):
        read(path)


@pytest.mark.parametrize("name", ["103", "DSA103", "DSA-103", "dsa-103", " 103 ", "DSA_103"])
def test_a_station_has_one_name(name: str) -> None:
    assert station_name(name) == "DSA103"


def test_another_name_stays_as_it_is() -> None:
    assert station_name("outrigger east") == "outrigger east"
