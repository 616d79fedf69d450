"""The primary beam and its mean over a drift, against figures from elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from drift_scan import drift
from hypothesis import given
from hypothesis import strategies as st

from absurd_contimg.errors import CorruptInputError
from absurd_contimg.science.beam import BeamCentres, airy_power, mean_response
from absurd_contimg.science.catalogue import unit_vectors


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


def test_the_mean_beam_of_a_drift_has_known_values() -> None:
    """At declination 16: 0.956, 0.847, 0.679 at 0, 0.6 and 1 deg east (drift-scan figures)."""
    ra = 150.0 + np.array([0.0, 0.6, 1.0]) / np.cos(np.radians(16.0))
    towards = unit_vectors(np.radians(ra), np.radians(np.full(3, 16.0)))
    response = mean_response(towards, drift(), np.linspace(1.32e9, 1.49e9, 8), 4.65)
    assert response == pytest.approx([0.956, 0.847, 0.679], abs=3e-3)


def test_flagged_integrations_are_left_out_of_the_mean() -> None:
    """With only the first integration the beam is centred on it."""
    centres = drift()
    weights = np.zeros(24)
    weights[0] = 0.3
    there = centres.vectors[:1]
    assert mean_response(there, centres, np.array([1.4e9]), 4.65, weights) == pytest.approx([1.0])


@given(st.floats(0, 359.99), st.floats(-80, 80))
def test_mean_beam_is_continuous_at_right_ascension_zero(ra: float, dec: float) -> None:
    """A group across 0 h has the same beam as any other."""
    here, there = drift(ra, dec), drift(0.0, dec)
    a = mean_response(here.vectors[3], here, np.array([1.4e9]), 4.65)
    b = mean_response(there.vectors[3], there, np.array([1.4e9]), 4.65)
    assert a == pytest.approx(b, abs=1e-9)


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
