"""Restoring beams: the smallest multiple of their mean that contains all, and convolution to it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_tiles import TilePlan, make_tile, tile_wcs

from absurd_contimg.science.catalogue import SkySource
from absurd_contimg.science.restoring_beams import RestoringBeam, common_beam, convolved
from absurd_contimg.science.source_fitting import fit_peak

beams = st.builds(
    lambda major, ratio, angle: RestoringBeam(major, major * ratio, angle),
    st.floats(30, 90),
    st.floats(0.4, 1.0),
    st.floats(0, 179.9),
)


@given(beam=beams)
def test_a_beam_is_its_covariance(beam: RestoringBeam) -> None:
    again = RestoringBeam.of_covariance(beam.covariance)
    assert again.major_arcsec == pytest.approx(beam.major_arcsec)
    assert again.minor_arcsec == pytest.approx(beam.minor_arcsec)
    np.testing.assert_allclose(again.covariance, beam.covariance, atol=1e-6)


@given(members=st.lists(beams, min_size=1, max_size=6))
def test_the_common_beam_contains_every_beam(members: list[RestoringBeam]) -> None:
    common, differ = common_beam(members, tolerance=0.02)
    if differ:
        for beam in members:
            kernel = common.covariance - beam.covariance
            assert np.linalg.eigvalsh(kernel).min() > -1e-6
    else:
        for beam in members:
            assert beam.major_arcsec == pytest.approx(common.major_arcsec, rel=0.05)


def test_beams_within_the_tolerance_stay() -> None:
    members = [RestoringBeam(60.0, 43.0, 20.0), RestoringBeam(60.6, 42.8, 20.3)]
    common, differ = common_beam(members, tolerance=0.02)
    assert not differ
    assert 60.0 < common.major_arcsec < 60.6
    assert common_beam(members, tolerance=0.001)[1]


def test_an_angle_counts_from_north_through_east() -> None:
    """A beam along the east has its variance there."""
    covariance = RestoringBeam(60.0, 30.0, 90.0).covariance
    assert covariance[0, 0] == pytest.approx(4 * covariance[1, 1])


@pytest.mark.parametrize("angle_deg", [0.0, 35.0, 120.0])
def test_a_convolved_source_has_the_new_beam_and_its_flux(angle_deg: float) -> None:
    old, new = RestoringBeam(60.0, 43.0, 20.0), RestoringBeam(90.0, 70.0, angle_deg)
    plan = TilePlan(10.0, 30.0, size_px=256, beam=old)
    sources = [SkySource("A", 10.05, 30.04, 1.0)]
    rng = np.random.default_rng(1)
    tile = make_tile(plan, sources, 1e-6, rng)
    expected = make_tile(TilePlan(10.0, 30.0, size_px=256, beam=new), sources, 1e-6, rng)
    smooth = convolved(tile.pixels, tile_wcs(plan), old, new)
    np.testing.assert_allclose(smooth, expected.pixels, atol=5e-3)
    x, y = (float(v) for v in tile.wcs.wcs_world2pix(10.05, 30.04, 0))
    peak = fit_peak(smooth, x, y, 3.0)
    assert peak is not None
    assert peak.height == pytest.approx(float(tile.response[round(y), round(x)]), rel=2e-3)


def test_a_kernel_narrower_than_a_pixel_and_none_at_all_are_right() -> None:
    beam = RestoringBeam(60.0, 43.0, 20.0)
    plan = TilePlan(10.0, 30.0, size_px=128, beam=beam)
    tile = make_tile(plan, [SkySource("A", 10.0, 30.0, 1.0)], 1e-6, np.random.default_rng(1))
    np.testing.assert_allclose(convolved(tile.pixels, tile.wcs, beam, beam), tile.pixels, atol=1e-9)
    wider = RestoringBeam(60.5, 43.4, 20.0)
    peak = convolved(tile.pixels, tile.wcs, beam, wider).max()
    assert peak == pytest.approx(tile.pixels.max(), rel=1e-3)


def test_blank_pixels_spread_as_far_as_the_kernel_and_no_further() -> None:
    beam = RestoringBeam(60.0, 43.0, 20.0)
    plan = TilePlan(10.0, 30.0, size_px=128, beam=beam)
    pixels = np.ones((128, 128))
    pixels[60, 60] = np.nan
    smooth = convolved(pixels, tile_wcs(plan), beam, RestoringBeam(80.0, 60.0, 20.0))
    blank = ~np.isfinite(smooth)
    assert 9 <= blank.sum() <= 13**2
    ratio = (80 * 60) / (60 * 43)
    np.testing.assert_allclose(smooth[~blank], ratio, rtol=0.05)
