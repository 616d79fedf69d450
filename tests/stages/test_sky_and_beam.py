"""The sky catalogue, the primary beam and its mean: numbers that are known otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from absurd_contimg.errors import CorruptInputError, MissingInputError
from absurd_contimg.science.beam import BeamCentres, airy_power, mean_response
from absurd_contimg.science.catalogue import (
    SkySource,
    read_catalogue,
    separation_rad,
    tangent_offsets_arcsec,
    unit_vectors,
    write_catalogue,
)

sources = st.builds(
    SkySource,
    st.text("abcXYZ 0_+", min_size=1),
    st.floats(0, 360),
    st.floats(-90, 90),
    st.floats(1e-6, 1e3),
    st.floats(-3, 3),
    st.booleans(),
)


@given(st.lists(sources))
def test_a_catalogue_is_read_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, catalogue: list[SkySource]
) -> None:
    """To the last bit: fluxes are compared with it."""
    path = tmp_path_factory.getbasetemp() / "catalogue.csv"
    write_catalogue(path, catalogue)
    assert read_catalogue(path) == catalogue


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("A,1,2,x,0,0", "cannot be read"),
        ("A,1,2,3,0,yes", "calibrator is 0 or 1"),
        ("A,1,95,3,0,0", "out of range"),
        ("A,1,2,nan,0,0", "out of range"),
        ("A,1,2", "cannot be read"),
    ],
)
def test_a_bad_line_of_a_catalogue_is_named(tmp_path: Path, line: str, said: str) -> None:
    """With its number, the file and what to do."""
    path = tmp_path / "c.csv"
    path.write_text(f"name,ra_deg,dec_deg,flux_jy,spectral_index,calibrator\n{line}\n")
    with pytest.raises(CorruptInputError, match=said) as caught:
        read_catalogue(path)
    assert "line 2" in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_catalogue_and_missing_columns_are_named(tmp_path: Path) -> None:
    """Two different remedies."""
    with pytest.raises(MissingInputError, match="does not exist"):
        read_catalogue(tmp_path / "none.csv")
    path = tmp_path / "c.csv"
    path.write_text("name,ra_deg\nA,1\n")
    with pytest.raises(CorruptInputError, match="lacks the columns calibrator, dec_deg"):
        read_catalogue(path)


def test_the_airy_beam_has_known_values() -> None:
    """Of a 4.65 m dish at 1.405 GHz, computed independently (drift-scan figures)."""
    angles = np.radians([0.0, 0.1, 0.3, 0.6, 1.0])
    expected = [1.0, 0.9964, 0.9683, 0.8780, 0.6918]
    assert airy_power(angles, 1.405e9, 4.65) == pytest.approx(expected, abs=2e-3)


def test_the_beams_half_power_width_follows_from_the_dish() -> None:
    """FWHM 1.03 wavelengths over the diameter, first null at 1.22."""
    wavelength_over_dish = 299_792_458.0 / 1.4e9 / 4.65
    half = airy_power(np.array([0.5145 * wavelength_over_dish]), 1.4e9, 4.65)
    null = airy_power(np.array([1.2197 * wavelength_over_dish]), 1.4e9, 4.65)
    assert half[0] == pytest.approx(0.5, abs=2e-3)
    assert null[0] == pytest.approx(0.0, abs=1e-4)


def drift(centre_ra: float = 150.0, dec: float = 16.0, n: int = 24) -> BeamCentres:
    offsets = (np.arange(n) - (n - 1) / 2) * 12.884902 / 86164.0905 * 360.0
    ra = tuple(float(r) for r in (centre_ra + offsets) % 360.0)
    mjd = tuple(60000.0 + i * 12.884902 / 86400 for i in range(n))
    return BeamCentres(mjd, ra, (dec,) * n)


def test_the_mean_beam_of_a_drift_has_known_values() -> None:
    """At declination 16: 0.956, 0.847, 0.679 at 0, 0.6 and 1 deg east (drift-scan figures)."""
    ra = 150.0 + np.array([0.0, 0.6, 1.0]) / np.cos(np.radians(16.0))
    towards = unit_vectors(np.radians(ra), np.radians(np.full(3, 16.0)))
    found = mean_response(towards, drift(), np.linspace(1.32e9, 1.49e9, 8), 4.65)
    assert found == pytest.approx([0.956, 0.847, 0.679], abs=3e-3)


def test_flagged_integrations_are_left_out_of_the_mean() -> None:
    """With only the first integration the beam is centred on it."""
    centres = drift()
    weights = np.zeros(24)
    weights[0] = 0.3
    there = centres.vectors[:1]
    assert mean_response(there, centres, np.array([1.4e9]), 4.65, weights) == pytest.approx([1.0])


@given(st.floats(0, 359.99), st.floats(-80, 80))
def test_the_mean_beam_does_not_know_right_ascension_zero(ra: float, dec: float) -> None:
    """A group across 0 h has the same beam as any other."""
    here, there = drift(ra, dec), drift(0.0, dec)
    a = mean_response(here.vectors[3], here, np.array([1.4e9]), 4.65)
    b = mean_response(there.vectors[3], there, np.array([1.4e9]), 4.65)
    assert a == pytest.approx(b, abs=1e-9)


@given(st.floats(-100, 100), st.floats(-100, 100), st.sampled_from([0.0, 0.001, 180.0, 359.999]))
def test_position_errors_are_small_numbers_everywhere(east: float, north: float, ra: float) -> None:
    """Offsets of arcseconds are recovered, across RA 0 h too."""
    source = SkySource("s", ra, 40.0, 1.0)
    there = ((ra + east / 3600 / np.cos(np.radians(40.0))) % 360.0, 40.0 + north / 3600)
    assert tangent_offsets_arcsec(source, *there) == pytest.approx((east, north), abs=1e-5)


def test_small_angles_keep_their_digits() -> None:
    """A milliarcsecond apart is not zero."""
    angle = np.radians(0.001 / 3600)
    pair = unit_vectors(np.array([1.0, 1.0]), np.array([0.5, 0.5 + angle]))
    assert separation_rad(pair[0], pair[1]) == pytest.approx(angle, rel=1e-3)


def test_beam_centres_are_read_back_and_matched_to_times(tmp_path: Path) -> None:
    """A time outside all integrations means that the file belongs to other data."""
    centres = drift(n=5)
    centres.write(tmp_path / "b.json")
    assert BeamCentres.read(tmp_path / "b.json") == centres
    assert list(centres.indices(np.array(centres.mjd) + 3 / 86400)) == [0, 1, 2, 3, 4]
    with pytest.raises(CorruptInputError, match="does not cover"):
        centres.indices(np.array([59999.9]))
    (tmp_path / "b.json").write_text('{"mjd": [1], "ra_deg": []}')
    with pytest.raises(CorruptInputError, match="cannot be read"):
        BeamCentres.read(tmp_path / "b.json")
