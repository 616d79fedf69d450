"""The noise of an image is measured right beside sources, blank pixels and steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sky_images import draw_noise, draw_sources, random_sources, sky_wcs

from absurd_contimg.science.noise_map import NoiseMap, local_noise, noise_correlation

SHAPE = (400, 500)


def test_local_noise_follows_a_slope_and_ignores_sources() -> None:
    """Noise that doubles along one axis, with sources of up to 250 times the noise in it."""
    random = np.random.default_rng(1)
    wcs = sky_wcs(SHAPE)
    slope = np.linspace(1.0, 2.0, SHAPE[1])[None, :] * np.ones(SHAPE)
    sources = random_sources(random, wcs, SHAPE, 20)
    pixels = draw_noise(random, SHAPE, 4e-3) * slope + draw_sources(wcs, SHAPE, sources)
    local = NoiseMap.measure(pixels, 120.0, 17.0).local
    inner = np.s_[60:-60, 60:-60]
    assert local[inner] / slope[inner] == pytest.approx(4e-3, rel=0.1)


def test_expected_noise_gives_its_shape_and_blank_pixels_have_none() -> None:
    """A step of the weight plane is a step of the noise, at the very pixel."""
    random = np.random.default_rng(2)
    expected = np.ones(SHAPE)
    expected[:, 250:] = 5.0
    pixels = draw_noise(random, SHAPE, 2e-3) * expected
    pixels[:40] = np.nan
    expected[60:70] = np.nan
    noise = NoiseMap.measure(pixels, 120.0, 10.0, expected)
    assert noise.local[200, 251] / noise.local[200, 249] == pytest.approx(5.0, rel=0.01)
    assert noise.local[200, 100] == pytest.approx(2e-3, rel=0.1)
    assert np.isnan(noise.local[:40]).all()
    assert np.isnan(noise.local[60:70]).all()


@pytest.mark.parametrize(("width", "narrowing"), [(1.0, 2.0), (1 / math.sqrt(2.0), 1.0)])
def test_correlation_is_that_of_the_noise_beside_bright_sources(
    width: float, narrowing: float
) -> None:
    """Along a row it falls as the beam does (or as the beam widened by sqrt 2)."""
    random = np.random.default_rng(3)
    wcs = sky_wcs(SHAPE)
    sources = random_sources(random, wcs, SHAPE, 8, (0.5, 2.0))
    pixels = draw_noise(random, SHAPE, 1.0, width=width)
    pixels += 250 * draw_sources(wcs, SHAPE, sources)
    pixels[:, 100:110] = np.nan
    correlation = NoiseMap.measure(pixels, 200.0, 16.0).correlation
    assert correlation.shape == (33, 33)
    assert correlation[16, 16] == 1.0
    size = (65, 65)
    wcs = sky_wcs(size)
    centre = random_sources(random, wcs, size, 1, (0.999, 1.0), margin_px=32.0)
    beam = draw_sources(wcs, size, centre)[16:49, 16:49] ** (1.0 / narrowing)
    assert correlation == pytest.approx(beam, abs=0.12)


def test_an_image_without_enough_pixels_has_white_noise() -> None:
    """As has a blank one, whose noise is not a number."""
    correlation = noise_correlation(np.full((20, 20), 0.1), 16)
    assert correlation.sum() == correlation[16, 16] == 1.0
    assert np.isnan(local_noise(np.full(SHAPE, np.nan), 50.0)).all()
    assert np.isnan(local_noise(np.zeros(SHAPE), 50.0)).all()
