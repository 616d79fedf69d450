"""Measuring peaks, judging solutions, choosing calibrators, smearing: pure functions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from absurd_contimg.config import (
    BeamConfig,
    CalibrationConfig,
    ConversionConfig,
    ImagingConfig,
    PathsConfig,
    PipelineConfig,
)
from absurd_contimg.errors import DataQualityError, NoCalibratorError, SettingError
from absurd_contimg.products.outputs import SourceCheck
from absurd_contimg.science.beam import BeamCentres
from absurd_contimg.science.calibrators import candidates, choose_calibrator
from absurd_contimg.science.catalogue import SkySource
from absurd_contimg.science.imagers import check_imager
from absurd_contimg.science.response import _Smearing, sample_frequencies
from absurd_contimg.science.solutions import Solutions, check_quality, measure_quality
from absurd_contimg.science.source_fitting import fit_peak
from absurd_contimg.stages.image import robust_rms
from absurd_contimg.synthesis import compare_sources

fraction = st.floats(-0.5, 0.5)


@given(fraction, fraction, st.floats(2.2, 6.0), st.floats(1.0, 1.8), st.floats(0, math.pi))
def test_a_gaussian_is_measured_exactly_wherever_it_lies(
    dx: float, dy: float, fwhm: float, ratio: float, angle: float
) -> None:
    """Between pixels too, with three pixels across the beam: the brightest pixel is 20 % low."""
    y, x = np.mgrid[0:41, 0:41].astype(float)
    u, v = x - 20 - dx, y - 20 - dy
    along, across = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
    image = 3.0 * np.exp(-4 * np.log(2) * ((along / fwhm / ratio) ** 2 + (across / fwhm) ** 2))
    peak = fit_peak(image, 20, 20, 3.0)
    assert peak is not None
    assert peak.height == pytest.approx(3.0, rel=1e-6)
    assert (peak.x, peak.y) == pytest.approx((20 + dx, 20 + dy), abs=1e-6)


def test_no_peak_is_found_where_there_is_none() -> None:
    """At the rim, in a blank area, on a slope that leads out of the search area."""
    assert fit_peak(np.ones((20, 20)), 1, 10, 3.0) is None
    assert fit_peak(np.full((20, 20), np.nan), 10, 10, 3.0) is None
    assert fit_peak(np.tile(np.arange(1.0, 21.0), (20, 1)), 10, 10, 3.0) is None
    assert fit_peak(np.full((20, 20), -1.0), 10, 10, 3.0) is None


def test_noise_is_measured_between_sources() -> None:
    """A bright source and blank pixels do not count."""
    values = np.random.default_rng(1).normal(0, 0.01, 100_000)
    values[:100], values[100:200] = 50.0, np.nan
    assert robust_rms(values) == pytest.approx(0.01, rel=0.02)
    assert robust_rms(np.array([np.nan])) == 0.0


def test_smearing_is_that_of_a_beam_spread_along_the_radius() -> None:
    """Against the mean of a Gaussian over the spread, done numerically."""
    smearing = _Smearing(0.002, 0.0, 30 / 3600, 20 / 3600, 0.0)
    north = np.array([0.5, 1.0, 2.0])
    for distance, loss in zip(north, smearing.loss(np.zeros(3), north, 0.002), strict=True):
        offsets = distance * 0.002 * np.linspace(-0.5, 0.5, 10_001)
        expected = np.exp(-4 * np.log(2) * (offsets / (30 / 3600)) ** 2).mean()
        assert loss == pytest.approx(expected, abs=1e-4)
    east = smearing.loss(north, np.zeros(3), 0.002)
    assert np.all(east < smearing.loss(np.zeros(3), north, 0.002))
    assert smearing.loss(np.zeros(1), np.zeros(1), 0.002) == pytest.approx([1.0])


@given(st.integers(1, 40), st.integers(1, 12))
def test_sampled_frequencies_have_the_bands_mean_and_lie_inside(n: int, count: int) -> None:
    """However many channels there are."""
    band = 1.3e9 + 1e6 * np.arange(n)
    sampled = sample_frequencies(band, count)
    assert len(sampled) == min(n, count)
    assert sampled.min() >= band.min()
    assert sampled.max() <= band.max()


def made(scatter: float, flagged: float = 0.0, antennas: int = 20) -> tuple[Solutions, Solutions]:
    rng = np.random.default_rng(3)
    names = tuple(f"A{i}" for i in range(antennas))
    band = np.linspace(-1, 1, 64)[None, :, None]
    smooth = (1 + 0.1 * np.cos(3 * band)) * np.exp(3j * band * rng.normal(size=(antennas, 1, 2)))
    noise = rng.normal(size=(2, antennas, 64, 2)) * scatter
    flags = rng.random((antennas, 64, 2)) < flagged
    bandpass = Solutions(names, smooth * (1 + noise[0] + 1j * noise[1]), flags)
    ones = np.ones((antennas, 1, 2), complex)
    return bandpass, Solutions(names, ones, np.zeros(ones.shape, dtype=bool))


ALL = np.ones(64, dtype=bool)


@pytest.mark.parametrize("scatter", [0.003, 0.03])
def test_scatter_is_measured_in_spite_of_delays_and_ripple(scatter: float) -> None:
    """The gate looks at noise, not at the shape of the band."""
    bandpass, gains = made(scatter)
    quality = measure_quality(bandpass, gains, bandpass.antennas, ALL)
    assert quality.amplitude_scatter == pytest.approx(scatter, rel=0.1)
    assert quality.phase_scatter_deg == pytest.approx(math.degrees(scatter), rel=0.1)
    check_quality(quality, CalibrationConfig(), "it")


@pytest.mark.parametrize(
    ("solutions", "setting"),
    [
        (made(0.2), "amplitude_scatter_max"),
        (made(0.01, flagged=0.4), "flagged_fraction_max"),
        (made(0.01, antennas=8), "antennas_min"),
    ],
)
def test_bad_solutions_are_refused_with_the_gate(
    solutions: tuple[Solutions, Solutions], setting: str
) -> None:
    """Each gate by its setting's name, so that an operator can find it."""
    quality = measure_quality(*solutions, solutions[0].antennas, ALL)
    with pytest.raises(DataQualityError, match=f"calibration.{setting}"):
        check_quality(quality, CalibrationConfig(), "CAL0")


def test_antennas_without_data_do_not_count_as_flagged_solutions() -> None:
    """Six dead antennas of twenty are not a bad calibration."""
    bandpass, gains = made(0.01)
    bandpass.flags[:6] = True
    assert measure_quality(
        bandpass, gains, bandpass.antennas, ALL
    ).flagged_fraction == pytest.approx(0.3)
    assert measure_quality(bandpass, gains, bandpass.antennas[6:], ALL).flagged_fraction == 0.0


def test_channels_without_data_do_not_count_either() -> None:
    """Four stand-ins of sixteen sub-bands leave a good calibration good."""
    bandpass, gains = made(0.01)
    bandpass.flags[:, 16:32] = True
    present = ALL.copy()
    present[16:32] = False
    assert measure_quality(
        bandpass, gains, bandpass.antennas, ALL
    ).flagged_fraction == pytest.approx(0.25)
    assert measure_quality(bandpass, gains, bandpass.antennas, present).flagged_fraction == 0.0


def field(ra: float, dec: float = 16.0) -> BeamCentres:
    offsets = (np.arange(24) - 11.5) * 0.05383
    ras = tuple(float(r) for r in (ra + offsets) % 360)
    return BeamCentres(tuple(60000 + i / 6700 for i in range(24)), ras, (dec,) * 24)


CALIBRATION = CalibrationConfig()
BEAM = BeamConfig()


@given(st.floats(0, 359.99), st.floats(-0.64, 0.64))
def test_a_calibrator_that_transits_is_found_at_any_right_ascension(
    ra: float, offset: float
) -> None:
    """Across 0 h as anywhere."""
    there = SkySource("C", (ra + offset) % 360, 16.2, 5.0, calibrator=True)
    found = choose_calibrator("auto", [there], field(ra), CALIBRATION, BEAM)
    assert found is not None
    assert found.source is there


def test_the_brightest_through_the_beam_is_taken_and_no_other_source() -> None:
    """A brighter source that is no calibrator, and a brighter one off the axis, do not count."""
    good = SkySource("good", 150.1, 16.1, 3.0, calibrator=True)
    others = [
        SkySource("plain", 150.0, 16.0, 50.0),
        SkySource("faint", 150.0, 16.0, 0.1, calibrator=True),
        SkySource("off", 150.0, 16.95, 3.2, calibrator=True),
        SkySource("later", 151.5, 16.0, 90.0, calibrator=True),
    ]
    found = choose_calibrator("auto", [*others, good], field(150.0), CALIBRATION, BEAM)
    assert found is not None
    assert found.source is good
    assert choose_calibrator("auto", others[:2], field(150.0), CALIBRATION, BEAM) is None
    assert candidates(others, field(150.0), BEAM)[0].source.name == "later"
    with pytest.raises(NoCalibratorError, match="does not transit during the group"):
        choose_calibrator("later", others, field(150.0), CALIBRATION, BEAM)
    with pytest.raises(NoCalibratorError, match="calibrator_flux_min_jy"):
        choose_calibrator("faint", others, field(150.0), CALIBRATION, BEAM)


def test_settings_are_checked(tmp_path_factory: pytest.TempPathFactory) -> None:
    """An unknown name, a value out of bounds and a contradiction are refused by name."""
    paths = PathsConfig.below(tmp_path_factory.getbasetemp())
    with pytest.raises(ValueError, match="nitre"):
        PipelineConfig.model_validate({"paths": paths, "imaging": {"nitre": 5}})
    with pytest.raises(ValueError, match="cell_arcsec"):
        PipelineConfig.model_validate({"paths": paths, "imaging": {"cell_arcsec": -1}})
    with pytest.raises(ValueError, match="subbands_min 17 exceeds"):
        PipelineConfig(paths=paths, conversion=ConversionConfig(subbands_min=17))
    assert PipelineConfig.tiny(paths).digest() != PipelineConfig.demo(paths).digest()


def test_an_imager_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is done, with both ways out."""
    monkeypatch.setenv("PATH", "/nowhere")
    check_imager(ImagingConfig())
    with pytest.raises(SettingError, match=r"no wsclean on the PATH.*apt-get.*tclean"):
        check_imager(ImagingConfig(imager="wsclean"))


def test_a_missing_or_wrong_source_fails_the_comparison() -> None:
    """The demo's gate: every source of 0.5 Jy within 6 % and 1.5 arcsec."""
    good = SourceCheck("a", 0.0, 16.0, 1.0, 0.9, 50.0, True, 1.03, position_error_arcsec=0.5)
    assert compare_sources([good]).within()
    assert compare_sources([good, replace(good, flux_jy=0.1)]).n_sources == 1
    assert not compare_sources([replace(good, measured_jy=1.07)]).within()
    assert not compare_sources([replace(good, position_error_arcsec=1.6)]).within()
    missing = replace(good, measured_jy=None, position_error_arcsec=None)
    assert not compare_sources([good, missing]).within()
    assert not compare_sources([]).within()
