"""Bandwidth smearing and the sampling of a band."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from absurd_contimg.science.response import _Smearing, sample_frequencies


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
