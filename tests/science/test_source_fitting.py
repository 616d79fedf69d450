"""Peaks of point sources in images."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from absurd_contimg.science.source_fitting import fit_peak

fraction = st.floats(-0.5, 0.5)


@given(fraction, fraction, st.floats(2.2, 6.0), st.floats(1.0, 1.8), st.floats(0, math.pi))
def test_gaussian_is_measured_exactly_at_any_position(
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
