"""The mosaic of tiles against an analytic sky, its own algebra, and `reproject`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_erosion
from synthetic_tiles import (
    TilePlan,
    make_tile,
    random_sources,
    strip,
    tile_wcs,
)

from absurd_contimg.errors import SettingError
from absurd_contimg.science.canvas import Canvas, Footprint, circular_mean_deg, plan_canvas
from absurd_contimg.science.catalogue import SkySource, tangent_offsets_arcsec
from absurd_contimg.science.mosaicking import MosaicSum, Tile, plane
from absurd_contimg.science.noise import robust_rms
from absurd_contimg.science.source_fitting import fit_peak

CUTOFF = 0.2
PIXELS_MAX = 8192**2


def canvas_of(tiles: Sequence[Tile]) -> Canvas:
    return plan_canvas([Footprint.of(t.wcs, t.pixels.shape) for t in tiles], PIXELS_MAX)


def mosaic_of(tiles: Sequence[Tile], canvas: Canvas | None = None) -> MosaicSum:
    total = MosaicSum(canvas or canvas_of(tiles), CUTOFF)
    for tile in tiles:
        assert total.add(tile) > 0
    return total


def small_tile(seed: int = 1, ra_deg: float = 0.2, dec_deg: float = 54.0) -> Tile:
    plan = TilePlan(ra_deg, dec_deg, size_px=96, cell_arcsec=60.0)
    rng = np.random.default_rng(seed)
    return Tile(
        rng.normal(size=(96, 96)), rng.uniform(0.25, 1.0, (96, 96)), tile_wcs(plan), 0.5 + seed
    )


@pytest.mark.parametrize(("ra_deg", "dec_deg"), [(0.1, 16.0), (0.1, 54.0), (200.0, 71.6)])
def test_fluxes_positions_and_noise_are_those_of_the_sky(ra_deg: float, dec_deg: float) -> None:
    """Sources above 100 sigma all along a strip, in one tile, two or three, at edges of tiles."""
    rng = np.random.default_rng([7, int(dec_deg)])
    plans = strip(ra_deg, dec_deg, 3)
    sources = random_sources(plans, 40, 0.8, rng)
    tiles = [make_tile(plan, sources, 0.002, rng) for plan in plans]
    canvas = canvas_of(tiles)
    total = mosaic_of(tiles, canvas)
    pixels = total.pixels()
    ratios, offsets, in_one = [], [], []
    for source in sources:
        x, y = (float(v) for v in canvas.wcs.wcs_world2pix(source.ra_deg, source.dec_deg, 0))
        assert source.flux_jy * np.sqrt(total.weights[round(y), round(x)]) > 100
        peak = fit_peak(pixels, x, y, 3.0)
        assert peak is not None, source
        ratios.append(peak.height / source.flux_jy)
        ra, dec = (float(v) for v in canvas.wcs.wcs_pix2world(peak.x, peak.y, 0))
        offsets.append(np.hypot(*tangent_offsets_arcsec(source, ra, dec)))
        in_one.append(total.depth[round(y), round(x)] == 1)
    assert any(in_one) or dec_deg > 60  # there, tiles overlap by three quarters
    assert not all(in_one)
    assert abs(np.mean(ratios) - 1.0) < 0.01
    assert np.std(ratios) < 0.02
    assert max(offsets) < 0.5
    # No step between what one tile shows and what several do.
    single, fluxes = np.array(in_one), np.array(ratios)
    if single.any():
        assert abs(fluxes[single].mean() / fluxes[~single].mean() - 1) < 0.01
    normalised = pixels * np.sqrt(total.weights)
    assert robust_rms(normalised[total.depth > 0]) == pytest.approx(1.0, abs=0.1)


def test_a_source_has_the_same_flux_in_each_tile() -> None:
    rng = np.random.default_rng(3)
    plans = strip(0.0, 16.0, 2)
    sources = random_sources(plans, 40, 1.0, rng)
    tiles = [make_tile(plan, sources, 0.002, rng) for plan in plans]
    fluxes = []
    for tile in tiles:
        pixels = mosaic_of([tile], canvas_of(tiles)).pixels()
        wcs = canvas_of(tiles).wcs
        places = [wcs.wcs_world2pix(s.ra_deg, s.dec_deg, 0) for s in sources]
        peaks = [fit_peak(pixels, float(x), float(y), 3.0) for x, y in places]
        fluxes.append([np.nan if peak is None else peak.height for peak in peaks])
    ratios = np.array(fluxes[0]) / np.array(fluxes[1])
    ratios = ratios[np.isfinite(ratios)]
    assert len(ratios) >= 5
    assert np.abs(ratios - 1.0).max() < 0.03


def test_one_tile_on_its_own_pixels_is_the_image_over_the_beam() -> None:
    tile = small_tile()
    total = mosaic_of([tile], Canvas(tile.wcs, (96, 96)))
    np.testing.assert_allclose(total.pixels(), tile.pixels / tile.response, atol=1e-6)
    weights = tile.response**2 / tile.noise_jy**2
    np.testing.assert_allclose(total.weights, weights, atol=1e-6)
    assert np.all(total.depth == 1)


@settings(max_examples=5, deadline=None)
@given(factor=st.floats(-5, 5), order=st.permutations(range(3)))
def test_a_mosaic_is_linear_and_the_order_of_tiles_does_not_matter(
    factor: float, order: list[int]
) -> None:
    tiles = [small_tile(seed, ra_deg=359.2 + 0.8 * seed) for seed in range(3)]
    canvas = canvas_of(tiles)
    total = mosaic_of(tiles, canvas)
    scaled = [replace(tiles[k], pixels=factor * tiles[k].pixels) for k in order]
    again = mosaic_of(scaled, canvas)
    np.testing.assert_allclose(again.pixels(), factor * total.pixels(), atol=1e-9)
    np.testing.assert_allclose(again.weights, total.weights, rtol=1e-12)


def test_the_sum_of_two_skies_is_the_sum_of_their_mosaics() -> None:
    tiles = [small_tile(1, 0.0), small_tile(2, 0.8)]
    others = [replace(t, pixels=t.pixels[::-1] ** 2) for t in tiles]
    both = [replace(t, pixels=t.pixels + o.pixels) for t, o in zip(tiles, others, strict=True)]
    expected = mosaic_of(tiles).pixels() + mosaic_of(others).pixels()
    np.testing.assert_allclose(mosaic_of(both).pixels(), expected, atol=1e-9)


def test_equal_tiles_double_the_weight_and_a_noisy_one_counts_less() -> None:
    tile = small_tile()
    noisy = replace(tile, noise_jy=3.0 * tile.noise_jy, pixels=tile.pixels + tile.response)
    canvas = Canvas(tile.wcs, (96, 96))
    single, total = mosaic_of([tile], canvas), mosaic_of([tile, noisy], canvas)
    np.testing.assert_allclose(total.weights, single.weights * (1 + 1 / 9))
    np.testing.assert_allclose(total.pixels() - single.pixels(), 0.1, atol=1e-6)


def test_blank_pixels_and_blank_weights_do_not_spread() -> None:
    """A NaN in the image or in the beam blanks three pixels around it, of this tile only."""
    tile, other = small_tile(1), small_tile(2)
    holes = tile.pixels.copy(), tile.response.copy()
    holes[0][40, 30] = np.nan
    holes[1][70, 60] = np.inf
    damaged = replace(tile, pixels=holes[0], response=holes[1])
    canvas = Canvas(tile.wcs, (96, 96))
    whole = mosaic_of([tile], canvas).pixels()
    alone = mosaic_of([damaged], canvas)
    blank = ~np.isfinite(alone.pixels())
    assert blank[40, 30]
    assert blank[70, 60]
    assert blank.sum() <= 2 * 25
    assert np.array_equal(blank, alone.weights == 0)
    # A cubic spline has a tail of 0.27 for each pixel.
    rows, columns = np.nonzero(~blank)
    far = (np.hypot(rows - 40, columns - 30) > 12) & (np.hypot(rows - 70, columns - 60) > 12)
    difference = (alone.pixels() - whole)[rows[far], columns[far]]
    assert np.abs(difference).max() < 1e-3
    assert np.isfinite(mosaic_of([damaged, other], canvas).pixels()).all()


def test_nothing_is_where_the_beam_is_below_the_cutoff_or_no_tile_is() -> None:
    tile = small_tile()
    weak = replace(tile, response=np.where(np.arange(96) < 40, 0.1, tile.response))
    total = mosaic_of([weak], Canvas(tile.wcs, (96, 96)))
    assert np.isnan(total.pixels()[:, :38]).all()
    assert np.isfinite(total.pixels()[:, 42:]).all()
    elsewhere = small_tile(ra_deg=90.0)
    assert MosaicSum(Canvas(tile.wcs, (96, 96)), CUTOFF).add(elsewhere) == 0


def test_headers_with_four_axes_give_the_same_coordinates() -> None:
    header = tile_wcs(TilePlan(359.9, 16.0)).to_header()
    for key, value in {"CTYPE3": "FREQ", "CRVAL3": 1.4e9, "CTYPE4": "STOKES", "CRVAL4": 1}.items():
        header[key] = value
    header["WCSAXES"] = 4
    celestial = WCS(header).celestial
    assert plane(np.zeros((1, 1, 5, 7))).shape == (5, 7)
    expected = Footprint.of(tile_wcs(TilePlan(359.9, 16.0)), (512, 512))
    np.testing.assert_allclose(Footprint.of(celestial, (512, 512)).ra_deg, expected.ra_deg)


def test_right_ascensions_have_a_circular_mean() -> None:
    assert circular_mean_deg([359.0, 3.0]) == pytest.approx(1.0)
    tiles = [Footprint.of(tile_wcs(plan), (512, 512)) for plan in strip(0.0, 16.0, 10)]
    across = plan_canvas(tiles, PIXELS_MAX)
    beside = plan_canvas(
        [Footprint.of(tile_wcs(plan), (512, 512)) for plan in strip(180.0, 16.0, 10)], PIXELS_MAX
    )
    assert across.shape == beside.shape
    assert (across.wcs.wcs.crval[0] + 180.0) % 360.0 == pytest.approx(180.0, abs=0.01)


@pytest.mark.parametrize(
    ("ras", "reason"),
    [((10.0, 130.0), "more than mosaic.pixels_max"), ((0.0, 175.0, 350.0), "its other end")],
)
def test_a_canvas_that_is_too_large_is_refused_before_memory_is_taken(
    ras: tuple[float, ...], reason: str
) -> None:
    plans = [TilePlan(ra, 16.0, 1280, 8.0) for ra in ras]
    footprints = [Footprint.of(tile_wcs(plan), (1280, 1280)) for plan in plans]
    with pytest.raises(SettingError, match=reason):
        plan_canvas(footprints, PIXELS_MAX)


@pytest.mark.parametrize("dec_deg", [-0.2, 16.0, -30.0, 71.6])
def test_pixels_of_the_canvas_keep_their_size(dec_deg: float) -> None:
    """To 1e-3, from one end of a night of sixty tiles to the other."""
    footprints = [Footprint.of(tile_wcs(p), (512, 512)) for p in strip(0.0, dec_deg, 60)]
    canvas = plan_canvas(footprints, 4 * PIXELS_MAX)
    height, width = canvas.shape
    inside = 0
    for x in np.linspace(50, width - 50, 25):
        for y in np.linspace(50, height - 50, 25):
            corners = canvas.wcs.wcs_pix2world([x, x + 1, x], [y, y, y + 1], 0)
            ra, dec = np.radians(corners)
            if abs(np.degrees(dec[0]) - dec_deg) > 1.0:
                continue
            inside += 1
            vectors = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], 1)
            area = np.linalg.norm(np.cross(vectors[1] - vectors[0], vectors[2] - vectors[0]))
            assert area == pytest.approx(np.radians(canvas.cell_deg) ** 2, rel=1e-3)
    assert inside >= 9


@pytest.mark.parametrize("dec_deg", [16.0, 71.6])
def test_interpolated_coordinates_are_those_of_the_projections(dec_deg: float) -> None:
    """A tile whose pixels are its columns or rows; on the whole canvas, and on ten pixels."""
    plan = TilePlan(0.0, dec_deg, 128, 60.0)
    wcs = tile_wcs(plan)
    rows, columns = np.mgrid[:128, :128].astype(float)
    whole = plan_canvas(
        [Footprint.of(tile_wcs(p), (128, 128)) for p in strip(2.0, dec_deg, 4)], 10**7
    )
    corner = Canvas(wcs.deepcopy(), (10, 10))
    corner.wcs.wcs.crpix -= [60.3, 70.6]
    for canvas in (whole, corner):
        for index, values in enumerate((columns, rows)):
            tile = Tile(values, np.ones((128, 128)), wcs, 1.0)
            mosaic = mosaic_of([tile], canvas).pixels()
            y, x = np.nonzero(np.isfinite(mosaic))
            assert len(x) >= 100
            exact = wcs.wcs_world2pix(*canvas.wcs.wcs_pix2world(x, y, 0), 0)
            inside = np.all([(axis > 4) & (axis < 123) for axis in exact], axis=0)
            np.testing.assert_allclose(mosaic[y, x][inside], exact[index][inside], atol=2e-3)


def reprojected(tile: Tile, canvas: Canvas) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from reproject import reproject_interp  # noqa: PLC0415 - slow import

    planes = np.stack([tile.pixels, tile.response])
    result, _ = reproject_interp(
        (planes, tile.wcs), canvas.wcs, shape_out=canvas.shape, order="bicubic",
        roundtrip_coords=False,
    )  # fmt: skip
    return result[0], result[1]


@pytest.mark.parametrize(("ra_deg", "dec_deg"), [(0.0, 16.0), (120.0, 71.6)])
def test_it_agrees_with_reproject(ra_deg: float, dec_deg: float) -> None:
    """To 1e-3 of the peak."""
    rng = np.random.default_rng(5)
    plans = strip(ra_deg, dec_deg, 2, size_px=256, cell_arcsec=16.0)
    sources = [SkySource("A", ra_deg, dec_deg + 0.2, 1.0), *random_sources(plans, 6, 0.2, rng)]
    tiles = [make_tile(plan, sources, 0.001, rng) for plan in plans]
    canvas = canvas_of(tiles)
    total = mosaic_of(tiles, canvas)
    numerator, weights = np.zeros(canvas.shape), np.zeros(canvas.shape)
    rim = np.zeros(canvas.shape, bool)
    for tile in tiles:
        image, beam = reprojected(tile, canvas)
        inside = np.isfinite(image) & (beam >= CUTOFF)
        rim |= binary_dilation(inside, iterations=2) & ~binary_erosion(inside, iterations=4)
        numerator += np.where(inside, image * beam, 0.0) / tile.noise_jy**2
        weights += np.where(inside, beam**2, 0.0) / tile.noise_jy**2
    with np.errstate(invalid="ignore"):
        oracle = numerator / weights
    # Within four pixels of a tile's edge the two continue the tile in different ways.
    both = np.isfinite(oracle) & np.isfinite(total.pixels()) & ~rim
    assert both.sum() > 0.9 * np.isfinite(total.pixels()).sum()
    np.testing.assert_allclose(total.pixels()[both], oracle[both], atol=1e-3 * np.nanmax(oracle))
    np.testing.assert_allclose(total.weights[both], weights[both], rtol=1e-3)


def test_the_canvas_survives_its_fits_header() -> None:
    footprints = [Footprint.of(tile_wcs(p), (512, 512)) for p in strip(0.0, 54.0, 3)]
    canvas = plan_canvas(footprints, PIXELS_MAX)
    header = fits.Header.fromstring(canvas.wcs.to_header(relax=True).tostring())
    sky = canvas.wcs.wcs_pix2world(17.0, 400.0, 0)
    np.testing.assert_allclose(WCS(header).celestial.wcs_pix2world(17.0, 400.0, 0), sky)
