"""Synthetic observations look like the telescope's, are repeatable and obey the same physics."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from absurd_contimg.config.meanings import field_meanings
from absurd_contimg.errors import SettingError
from absurd_contimg.operations.cli.main import app
from absurd_contimg.science.beam import BeamCentres
from absurd_contimg.science.catalogue import read_catalogue, separation_rad, source_vectors
from absurd_contimg.science.raw_checks import HANDS
from absurd_contimg.science.raw_file import read_raw_header, read_visibilities
from absurd_contimg.science.raw_visibilities import read_uvdata
from absurd_contimg.science.sky_model import direction_cosines, predict
from absurd_contimg.stages.image import aberration_scale
from absurd_contimg.synthesis import SynthesisConfig, SynthesisResult, synthesize
from absurd_contimg.synthesis.array import active_stations, terrestrial_positions_m
from absurd_contimg.synthesis.config import FaultKind
from absurd_contimg.synthesis.sources import make_sky

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


def test_files_have_the_names_and_order_of_the_telescope(ideal: SynthesisResult) -> None:
    """Sixteen files within the jitter; the group is named after the earliest."""
    files = ideal.groups[0].files
    assert len(files) == 16
    assert all(NAME.fullmatch(f.name) for f in files)
    assert min(f.name[:19] for f in files) == ideal.groups[0].group_id
    assert len({f.name[:19] for f in files}) > 1


def test_headers_are_those_of_the_telescope(ideal: SynthesisResult) -> None:
    """sb00 is highest, channels descend, the strip's declination is in radians."""
    tops = []
    for path in ideal.groups[0].files:
        with h5py.File(path) as file:
            header = file["Header"]
            frequencies = header["freq_array"][0]
            assert np.all(np.diff(frequencies) < 0)
            assert header["extra_keywords"]["phase_center_dec"][()] == pytest.approx(np.radians(16))
            assert list(header["polarization_array"][()]) == [-5, -6]
            assert len(np.unique(header["time_array"][()])) == 6
            tops.append(frequencies[0])
    assert np.all(np.diff(tops) < 0)
    assert max(tops) < 1498.75e6


def test_files_are_in_the_form_of_the_telescopes_writer(ideal: SynthesisResult) -> None:
    """One set of baselines for all times, no phase centres, no sidereal time, no flags."""
    with h5py.File(ideal.groups[0].files[0]) as file:
        header = file["Header"]
        uvw = header["uvw_array"][()].reshape(6, -1, 3)
        assert (uvw == uvw[0]).all()
        assert header["phase_type"][()] == b"drift"
        assert not {"phase_center_catalog", "lst_array"} & set(header)
        assert header["antenna_names"][102] == b"103"
        assert header["antenna_numbers"][102] == 102
        assert not file["Data/flags"][()].any()
    assert not list(ideal.output_dir.glob("*incomplete*"))


def test_every_integration_has_its_own_meridian(ideal: SynthesisResult) -> None:
    """Phase centres are at the sidereal time and the strip's apparent declination."""
    header = read_raw_header(ideal.groups[0].files[0])
    uvd = read_uvdata({header.index: header}, header, 1)
    offset = np.angle(np.exp(1j * (uvd.phase_center_app_ra - uvd.lst_array)))
    assert np.degrees(np.abs(offset)).max() * 3600 < 1.0
    declination = np.degrees(uvd.phase_center_app_dec)
    assert declination == pytest.approx(np.full(uvd.Nblts, 16.0), abs=1 / 3600)
    assert len(uvd.phase_center_catalog) == 6


def test_the_last_group_may_end_early(tmp_path: Path) -> None:
    """The correlator stops: two integrations are missing, the last one is not whole."""
    config = SynthesisConfig.tiny(
        n_antennas=5, n_integrations=4, science_groups=0, integrations_lost=2
    )
    header = read_raw_header(synthesize(tmp_path, config).groups[0].files[0])
    _data, flags, samples = read_visibilities(header, HANDS)
    assert len(np.unique(header.times_jd)) == 2
    assert 0.1 < flags.mean() < 0.3
    assert (samples[flags] == 0).all()


def test_four_products_hold_the_same_hands(tmp_path: Path) -> None:
    small = {"n_antennas": 5, "n_integrations": 2, "science_groups": 0}
    hands = []
    for products in (2, 4):
        config = SynthesisConfig.tiny(products=products, **small)
        header = read_raw_header(synthesize(tmp_path / str(products), config).groups[0].files[0])
        hands.append(read_visibilities(header, HANDS)[0])
    assert np.array_equal(*hands)


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


def test_visibilities_agree_with_the_stages_formula(ideal: SynthesisResult) -> None:
    """Delays on the Earth and (u, v, w) on the sky are two ways to one answer."""
    sources = read_catalogue(ideal.catalog)
    header = read_raw_header(ideal.groups[0].files[5])
    uvd = read_uvdata({header.index: header}, header, 1)
    frequencies, uvw, data = uvd.freq_array, uvd.uvw_array, uvd.data_array[:, :, 0]
    times, first, integration = np.unique(uvd.time_array, return_index=True, return_inverse=True)
    catalogue = uvd.phase_center_catalog
    ids = uvd.phase_center_id_array[first]
    ra = [float(np.degrees(catalogue[i]["cat_lon"])) for i in ids]
    dec = [float(np.degrees(catalogue[i]["cat_lat"])) for i in ids]
    centres = BeamCentres(tuple(times - 2400000.5), tuple(ra), tuple(dec))
    expected = np.empty_like(data)
    for t in range(len(times)):
        cosines = direction_cosines(
            [s.ra_deg for s in sources], [s.dec_deg for s in sources], ra[t], dec[t]
        )
        # The sky has differential aberration, the formula has not: 0.1 Jy without this.
        cosines /= aberration_scale(ra[t], dec[t], centres.mjd[t])
        rows = integration == t
        expected[rows] = predict(
            uvw[rows],
            np.full(rows.sum(), t),
            frequencies,
            sources,
            cosines,
            centres,
            np.zeros((len(times), 3)),
            4.65,
        )
    assert np.abs(data - expected).max() < 0.005
    assert np.abs(data).max() > 9.0


def test_random_sources_are_apart_and_take_the_place_of_the_designed_sky() -> None:
    """In the calibrator's group and in the science group, at other places for another seed."""
    sky = make_sky(SynthesisConfig.tiny(random_sources=14))
    assert [s.name for s in sky if not s.name.startswith(("F", "G1R"))] == ["CAL0"]
    field = [s for s in sky if not s.calibrator]
    assert len(field) == 28
    assert all(0.4 <= s.flux_jy <= 1.0 for s in field)
    vectors = source_vectors(sky)
    for index, vector in enumerate(vectors):
        others = np.delete(vectors, index, axis=0)
        assert np.degrees(separation_rad(others, vector)).min() > 0.079
    assert make_sky(SynthesisConfig.tiny(random_sources=14, seed=2))[1:] != sky[1:]


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
def test_any_number_of_stations_can_be_active(count: int) -> None:
    """Each once, with outriggers among them: a reference antenna of the default list is there."""
    stations = active_stations(count)
    assert len(set(stations)) == count
    assert 103 in stations


def test_faults_are_in_their_subbands(tmp_path: Path) -> None:
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
        cross = file["Header"]["ant_1_array"][()] != file["Header"]["ant_2_array"][()]
        assert not file["Data"]["nsamples"][cross].any()
    with h5py.File(by_index[order.index(FaultKind.STUCK)][0]) as file:
        assert np.unique(file["Data"]["visdata"][cross]).tolist() == [1.0]


def test_inconsistent_settings_are_refused() -> None:
    """A fault in a group that is not observed would never land."""
    with pytest.raises(ValueError, match="names group 5 of 2"):
        SynthesisConfig.tiny(faults=[{"kind": "nan", "group": 5, "subband": 0}])
    with pytest.raises(ValueError, match="nothing to observe"):
        SynthesisConfig.tiny(calibrator_group=False, science_groups=0)


@pytest.mark.parametrize("preset", ["tiny", "demo", "full"])
def test_the_groups_of_a_preset_are_of_one_night(preset: str) -> None:
    """Those of the small one were of two, and half of them in each report of a night."""
    config: SynthesisConfig = getattr(SynthesisConfig, preset)()
    starts = [
        config.start + timedelta(seconds=config.group_offset_s(group))
        for group in range(config.n_groups)
    ]
    assert len({start.date() for start in starts}) == 1


@pytest.mark.parametrize("target", ["/dev/null", "/dev/full/below"])
def test_target_that_is_no_folder_is_refused(target: str) -> None:
    with pytest.raises(SettingError, match="is no folder"):
        synthesize(Path(target), SynthesisConfig.tiny())


def test_options_and_faults_are_listed_with_their_meanings() -> None:
    shown = CliRunner().invoke(app, ["synth", "--list"]).stdout
    for name, meaning in field_meanings(SynthesisConfig).items():
        assert re.search(rf"^ ?{name}\b", shown, re.MULTILINE)
        assert meaning, name
    for kind in FaultKind:
        assert f"{kind}:GROUP:SUBBAND" in shown
    presets = " ".join(shown.partition("preset")[2].split())
    assert "demo nothing: the defaults" in presets
    assert "full n_antennas=96, channels_per_subband=48" in presets
