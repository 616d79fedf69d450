"""Synthetic observations look like the telescope's, are repeatable and obey the same physics."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from absurd_contimg.science.beam import BeamCentres
from absurd_contimg.science.catalogue import read_catalogue
from absurd_contimg.science.sky_model import direction_cosines, predict
from absurd_contimg.stages.image import aberration_scale
from absurd_contimg.synthesis import SynthesisConfig, SynthesisResult, synthesize
from absurd_contimg.synthesis.array import active_stations, terrestrial_positions_m
from absurd_contimg.synthesis.config import FaultKind

NAME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d_sb\d\d\.hdf5")


@pytest.fixture(scope="session")
def ideal(tmp_path_factory: pytest.TempPathFactory) -> SynthesisResult:
    """No noise, all gains one: what is in the files is the sky through the beam."""
    config = SynthesisConfig.tiny(
        sefd_jy=0.0,
        gain_scatter=0.0,
        gain_phase_max_deg=0.0,
        delay_max_ns=0.0,
        bandpass_ripple=0.0,
        science_groups=0,
    )
    return synthesize(tmp_path_factory.mktemp("ideal"), config)


def test_files_are_named_and_ordered_as_the_telescope_does(ideal: SynthesisResult) -> None:
    """Sixteen files within the jitter; the group is named after the earliest."""
    files = ideal.groups[0].files
    assert len(files) == 16
    assert all(NAME.fullmatch(f.name) for f in files)
    assert min(f.name[:19] for f in files) == ideal.groups[0].group_id
    assert len({f.name[:19] for f in files}) > 1


def test_headers_say_what_the_telescope_says(ideal: SynthesisResult) -> None:
    """sb00 is highest, channels descend, the strip's declination is in radians."""
    tops = []
    for path in ideal.groups[0].files:
        with h5py.File(path) as file:
            header = file["Header"]
            frequencies = header["freq_array"][()]
            assert np.all(np.diff(frequencies) < 0)
            assert header["extra_keywords"]["phase_center_dec"][()] == pytest.approx(np.radians(16))
            assert list(header["polarization_array"][()]) == [-5, -6]
            assert len(np.unique(header["time_array"][()])) == 6
            tops.append(frequencies[0])
    assert np.all(np.diff(tops) < 0)
    assert max(tops) < 1498.75e6


def test_every_integration_has_its_own_meridian(ideal: SynthesisResult) -> None:
    """Phase centres are at the sidereal time and the strip's apparent declination."""
    with h5py.File(ideal.groups[0].files[0]) as file:
        header = file["Header"]
        times, rows = np.unique(header["time_array"][()], return_index=True)
        offset = header["phase_center_app_ra"][()][rows] - header["lst_array"][()][rows]
        assert np.abs(np.degrees(np.angle(np.exp(1j * offset)))).max() * 3600 < 1.0
        dec = np.degrees(header["phase_center_app_dec"][()][rows])
        assert dec == pytest.approx(np.full(len(times), 16.0), abs=1 / 3600)
        assert header["Nphase"][()] == 6


def test_same_seed_gives_the_same_data_and_another_does_not(tmp_path: Path) -> None:
    """Pixels of two runs can only be compared when their data are equal to the bit."""
    small = {"n_antennas": 5, "n_integrations": 2, "science_groups": 0}

    def data(name: str, seed: int) -> np.ndarray:
        made = synthesize(tmp_path / name, SynthesisConfig.tiny(seed=seed, **small))
        with h5py.File(made.groups[0].files[3]) as file:
            return np.asarray(file["Data"]["visdata"][()])

    first = data("a", 7)
    assert np.array_equal(first, data("b", 7))
    assert not np.array_equal(first, data("c", 8))


def test_visibilities_agree_with_the_formula_of_the_stages(ideal: SynthesisResult) -> None:
    """Delays on the Earth and (u, v, w) on the sky are two ways to one answer."""
    sources = read_catalogue(ideal.catalog)
    with h5py.File(ideal.groups[0].files[5]) as file:
        header = file["Header"]
        frequencies = header["freq_array"][()][::-1]
        times, rows, which = np.unique(
            header["time_array"][()], return_index=True, return_inverse=True
        )
        uvw = header["uvw_array"][()].astype(float)
        data = file["Data"]["visdata"][()][:, ::-1, 0]
        catalogue = header["phase_center_catalog"]
        ids = header["phase_center_id_array"][()][rows]
        ra = [float(np.degrees(catalogue[str(i)]["cat_lon"][()])) for i in ids]
        dec = [float(np.degrees(catalogue[str(i)]["cat_lat"][()])) for i in ids]
    centres = BeamCentres(tuple(times - 2400000.5), tuple(ra), tuple(dec))
    expected = np.empty_like(data)
    for t in range(len(times)):
        cosines = direction_cosines(
            [s.ra_deg for s in sources], [s.dec_deg for s in sources], ra[t], dec[t]
        )
        # The sky has differential aberration, the formula has not: 0.1 Jy without this.
        cosines /= aberration_scale(ra[t], dec[t], centres.mjd[t])
        mine = which == t
        expected[mine] = predict(
            uvw[mine],
            np.full(mine.sum(), t),
            frequencies,
            sources,
            cosines,
            centres,
            np.zeros((len(times), 3)),
            4.65,
        )
    assert np.abs(data - expected).max() < 0.005
    assert np.abs(data).max() > 9.0


def test_full_array_has_the_described_stations() -> None:
    """96 of 117 stations, 47 east-west, 35 north-south, 14 outriggers, baselines to 2.6 km."""
    stations = active_stations(96)
    assert len(set(stations)) == 96
    assert sum(n <= 51 for n in stations) == 47
    assert sum(n >= 103 for n in stations) == 14
    positions = terrestrial_positions_m(stations)
    longest = np.linalg.norm(positions[:, None] - positions[None], axis=-1).max()
    assert 2000 < longest < 2707


@pytest.mark.parametrize("count", range(4, 97))
def test_any_number_of_stations_can_be_had(count: int) -> None:
    """Each once, with outriggers among them: a reference antenna of the default list is there."""
    stations = active_stations(count)
    assert len(set(stations)) == count
    assert 103 in stations


def test_faults_are_where_they_were_ordered(tmp_path: Path) -> None:
    """Each fault hits its sub-band and no other."""
    faults = [
        {"kind": kind, "group": 0, "subband": number} for number, kind in enumerate(FaultKind)
    ]
    config = SynthesisConfig.tiny(n_antennas=5, n_integrations=2, science_groups=0, faults=faults)
    files = synthesize(tmp_path, config).groups[0].files
    by_index: dict[int, list[Path]] = {}
    for path in files:
        by_index.setdefault(int(path.stem[-2:]), []).append(path)
    order = list(FaultKind)
    assert order.index(FaultKind.MISSING) not in by_index
    assert len(by_index[order.index(FaultKind.DUPLICATED)]) == 2
    for kind in (FaultKind.TRUNCATED, FaultKind.NOT_HDF5):
        with pytest.raises(OSError, match=r"truncated|signature"):
            h5py.File(by_index[order.index(kind)][0])
    with h5py.File(by_index[order.index(FaultKind.NAN)][0]) as file:
        assert np.isnan(file["Data"]["visdata"][()]).any()
        assert not file["Data"]["flags"][()].any()
    with h5py.File(by_index[order.index(FaultKind.SHIFTED)][0]) as file:
        shifted = file["Header"]["time_array"][()][0]
    with h5py.File(by_index[15][0]) as file:
        assert (shifted - file["Header"]["time_array"][()][0]) * 86400 == pytest.approx(
            12.884902, abs=1e-3
        )
    with h5py.File(by_index[order.index(FaultKind.ALL_FLAGGED)][0]) as file:
        assert file["Data"]["flags"][()].all()


def test_settings_that_make_no_sense_are_refused() -> None:
    """A fault in a group that is not observed would never land."""
    with pytest.raises(ValueError, match="names group 5 of 2"):
        SynthesisConfig.tiny(faults=[{"kind": "nan", "group": 5, "subband": 0}])
    with pytest.raises(ValueError, match="nothing to observe"):
        SynthesisConfig.tiny(calibrator_group=False, science_groups=0)
