"""Forced photometry: unbiased fluxes with right errors, also for neighbours, edges and RA 0 h."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from sky_images import (
    BEAM_ANGLE_DEG,
    BEAM_ARCSEC,
    CELL_ARCSEC,
    draw_noise,
    draw_sources,
    random_sources,
    sky_wcs,
)

from absurd_contimg.errors import InputError
from absurd_contimg.science import photometry
from absurd_contimg.science.catalogue import SkySource
from absurd_contimg.science.noise_map import NoiseMap
from absurd_contimg.science.photometry import (
    BLENDED,
    EDGE,
    INSEPARABLE,
    Flux,
    PhotometryImage,
    TileWeights,
    measure_fluxes,
)
from absurd_contimg.science.restoring_beams import RestoringBeam

BEAM = RestoringBeam(*BEAM_ARCSEC, BEAM_ANGLE_DEG)
BEAM_PX = BEAM_ARCSEC[0] / CELL_ARCSEC
RMS = 4e-3
JOINT_BEAMS = 2.5


def _white(shape: tuple[int, int], rms: float = RMS) -> NoiseMap:
    return NoiseMap(np.full(shape, rms), np.ones((1, 1)))


def _image(
    pixels: NDArray[np.float64], wcs: object, noise: NoiseMap | None = None
) -> PhotometryImage:
    measured = noise or NoiseMap.measure(pixels, 30 * BEAM_PX, 2 * BEAM_PX)
    return PhotometryImage(pixels, measured, None, wcs, BEAM)


def _pulls(fluxes: dict[int, Flux], sources: Sequence[SkySource]) -> NDArray[np.float64]:
    return np.array(
        [(flux.flux_jy - sources[k].flux_jy) / flux.error_jy for k, flux in fluxes.items()]
    )


@pytest.mark.parametrize(
    ("width", "error_over_noise"),
    [(0.0, 0.195), (1.0, math.sqrt(2.0)), (1 / math.sqrt(2.0), math.sqrt(4.0 / 3.0))],
    ids=["white", "beam-correlated", "beam-shaped-correlation"],
)
def test_errors_are_those_of_the_fluxes_whatever_the_correlation(
    width: float, error_over_noise: float
) -> None:
    """Pulls of injected sources have mean 0 within 0.1 and width 1 within 10 %.

    The error over the noise of a pixel is what the integrals of Gaussians say: 1/sqrt(sum k^2),
    sqrt(2) and sqrt(4/3).
    """
    pulls, ratios = [], []
    for seed in range(3):
        random = np.random.default_rng([seed, round(10 * width)])
        shape = (640, 620)
        wcs = sky_wcs(shape)
        sources = random_sources(random, wcs, shape, 200)
        noise = draw_noise(random, shape, RMS, width=width)
        fluxes = measure_fluxes(
            _image(noise + draw_sources(wcs, shape, sources), wcs), sources, JOINT_BEAMS
        )
        assert len(fluxes) == len(sources)
        pulls.append(_pulls(fluxes, sources))
        ratios += [f.error_jy / f.noise_jy for f in fluxes.values() if not f.flags]
    every = np.concatenate(pulls)
    assert abs(every.mean()) < 0.1
    assert abs(every.std() - 1.0) < 0.1
    assert np.median(ratios) == pytest.approx(error_over_noise, rel=0.06)


def test_x_and_y_are_not_exchanged() -> None:
    """vast-pipeline #156: the noise was read at (y, y). Here it differs along both axes."""
    shape = (200, 300)
    wcs = sky_wcs(shape)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    local = RMS * (1.0 + rows / 100.0 + columns / 30.0)
    source = SkySource("S", *(float(v) for v in wcs.wcs_pix2world(240, 50, 0)), 1.0)
    pixels = draw_sources(wcs, shape, [source])
    noise = NoiseMap(local, np.ones((1, 1)))
    response = np.where(columns > 150, 0.5, 1.0)
    image = PhotometryImage(pixels, noise, response, wcs, BEAM)
    flux = measure_fluxes(image, [source], JOINT_BEAMS)[0]
    assert flux.noise_jy == pytest.approx(RMS * (1.0 + 0.5 + 8.0) / 0.5)
    assert flux.flux_jy == pytest.approx(2.0, rel=1e-3)


def test_a_source_at_the_edge_is_measured_on_the_pixels_that_exist() -> None:
    """vast-pipeline #191: the stamp of a source near the edge was placed wrongly."""
    shape = (200, 300)
    wcs = sky_wcs(shape)
    places = [(0.3, 100.2), (299.0, 60.0), (150.4, 0.0), (200.0, 199.0), (4.0, 4.0), (3.0, 196.0)]
    sources = [
        SkySource(f"S{k}", *(float(v) for v in wcs.wcs_pix2world(*place, 0)), 1.0 + k)
        for k, place in enumerate(places)
    ]
    outside = SkySource("outside", *(float(v) for v in wcs.wcs_pix2world(-2.0, 50.0, 0)), 1.0)
    image = _image(draw_sources(wcs, shape, sources), wcs, _white(shape))
    fluxes = measure_fluxes(image, [*sources, outside], JOINT_BEAMS)
    assert sorted(fluxes) == list(range(len(places)))  # and not the one outside
    for index, source in enumerate(sources):
        assert fluxes[index].flux_jy == pytest.approx(source.flux_jy, rel=2e-3)
        assert EDGE in fluxes[index].flags
    # With half of the kernel the error is larger by sqrt 2.
    inner = replace(sources[0], ra_deg=180.0, dec_deg=16.0)
    inner_error = measure_fluxes(image, [inner], JOINT_BEAMS)[0].error_jy
    assert fluxes[0].error_jy == pytest.approx(inner_error * math.sqrt(2), rel=0.15)


def test_the_error_is_not_twice_the_local_noise() -> None:
    """vast-pipeline #400: half the image had another noise, and errors came from there."""
    random = np.random.default_rng(5)
    shape = (512, 1024)
    wcs = sky_wcs(shape)
    noise = draw_noise(random, shape, RMS, width=1 / math.sqrt(2.0))
    noise[:, 512:] *= 3.0
    sources = random_sources(random, wcs, shape, 150, (0.05, 0.2))
    image = PhotometryImage(
        noise + draw_sources(wcs, shape, sources),
        NoiseMap.measure(noise, 10 * BEAM_PX, 2 * BEAM_PX),
        None,
        wcs,
        BEAM,
    )
    fluxes = measure_fluxes(image, sources, JOINT_BEAMS)
    places = image.positions(sources)
    for quiet, side in ((1.0, places[:, 0] < 400), (3.0, places[:, 0] > 624)):
        chosen = {k: f for k, f in fluxes.items() if side[k] and not f.flags}
        errors = [f.error_jy for f in chosen.values()]
        assert np.median(errors) == pytest.approx(1.155 * quiet * RMS, rel=0.1)
        assert abs(_pulls(chosen, sources).std() - 1.0) < 0.25  # of some 50 sources


@pytest.mark.parametrize("ra_deg", [0.0, 359.99, 0.02])
def test_sources_on_both_sides_of_ra_0_h_are_measured_where_they_are(ra_deg: float) -> None:
    """vast-pipeline #711: sources near RA 0 h were written to the wrong place."""
    shape = (300, 300)
    wcs = sky_wcs(shape, ra_deg=ra_deg)
    sources = random_sources(np.random.default_rng(2), wcs, shape, 12, (0.1, 1.0))
    assert {round(s.ra_deg / 360) for s in sources} == {0, 1}
    image = _image(draw_sources(wcs, shape, sources), wcs, _white(shape))
    fluxes = measure_fluxes(image, sources, JOINT_BEAMS)
    for index, source in enumerate(sources):
        assert fluxes[index].flux_jy == pytest.approx(source.flux_jy, rel=3e-3)


def test_a_source_with_a_neighbour_at_one_beam_is_within_3_sigma() -> None:
    """At 1 beam to all sides, with neighbours up to 50 times as bright."""
    pulls = []
    for seed in range(3):
        random = np.random.default_rng([seed, 3])
        shape = (640, 640)
        wcs = sky_wcs(shape)
        sources = []
        for k in range(36):
            x, y = 60 + 100 * (k % 6) + random.uniform(), 60 + 100 * (k // 6) + random.uniform()
            angle = random.uniform(0, 2 * np.pi)
            beside = x + BEAM_PX * np.cos(angle), y + BEAM_PX * np.sin(angle)
            for place, flux in (((x, y), 0.05), (beside, 0.05 * random.uniform(1, 50))):
                ra, dec = (float(v) for v in wcs.wcs_pix2world(*place, 0))
                sources.append(SkySource(f"S{len(sources)}", ra, dec, flux))
        noise = draw_noise(random, shape, RMS, width=1 / math.sqrt(2.0))
        image = _image(
            noise + draw_sources(wcs, shape, sources),
            wcs,
            NoiseMap.measure(noise, 30 * BEAM_PX, 2 * BEAM_PX),
        )
        fluxes = measure_fluxes(image, sources, JOINT_BEAMS)
        assert all(f.flags == (BLENDED,) and f.n_neighbours == 1 for f in fluxes.values())
        pulls.append(_pulls(fluxes, sources))
    every = np.concatenate(pulls)
    assert np.mean(np.abs(every) < 3.0) > 0.985
    assert abs(every.mean()) < 0.15
    assert abs(every.std() - 1.0) < 0.1


def test_a_neighbour_is_left_out_by_a_single_fit() -> None:
    """Without the joint fit the flux errs by the neighbour's: the other test can fail."""
    shape = (200, 200)
    wcs = sky_wcs(shape)
    sources = [
        SkySource(name, *(float(v) for v in wcs.wcs_pix2world(*place, 0)), flux)
        for name, place, flux in (
            ("S", (100.0, 100.0), 0.1),
            ("bright along the beam", (100 - 0.8 * BEAM_PX, 100 + 0.8 * 3**0.5 * BEAM_PX), 10.0),
        )
    ]
    image = _image(draw_sources(wcs, shape, sources), wcs, _white(shape))
    joint = measure_fluxes(image, sources, JOINT_BEAMS)[0].flux_jy
    single = measure_fluxes(image, sources[:1], JOINT_BEAMS)[0].flux_jy
    assert joint == pytest.approx(0.1, abs=0.01)
    assert single > 0.12


def test_two_sources_at_one_place_get_no_flux_and_spoil_none() -> None:
    """The flux of two names for one source cannot be divided; a third beside them is right."""
    shape = (200, 200)
    wcs = sky_wcs(shape)
    pair = SkySource("A", *(float(v) for v in wcs.wcs_pix2world(100, 100, 0)), 1.0)
    third = SkySource("C", *(float(v) for v in wcs.wcs_pix2world(100, 110, 0)), 0.3)
    image = _image(draw_sources(wcs, shape, [pair, third]), wcs, _white(shape))
    twin = replace(pair, name="B", ra_deg=pair.ra_deg + 1e-6)
    fluxes = measure_fluxes(image, [pair, twin, third], JOINT_BEAMS)
    for index in (0, 1):
        assert fluxes[index].flux_jy is None
        assert INSEPARABLE in fluxes[index].flags
    assert fluxes[2].flux_jy == pytest.approx(0.3, rel=0.01)
    assert fluxes[2].flags == (BLENDED,)


def test_blank_pixels_count_neither_as_zero_nor_as_noise() -> None:
    """A few of them leave the flux right; where most are blank there is none."""
    shape = (200, 200)
    wcs = sky_wcs(shape)
    sources = [
        SkySource(f"S{k}", *(float(v) for v in wcs.wcs_pix2world(50 + 50 * k, 100, 0)), 1.0)
        for k in range(3)
    ]
    pixels = draw_sources(wcs, shape, sources)
    pixels[98:103, 52:54] = np.nan
    pixels[95:106, 95:106] = np.nan
    fluxes = measure_fluxes(_image(pixels, wcs, _white(shape)), sources, JOINT_BEAMS)
    assert fluxes[0].flux_jy == pytest.approx(1.0, rel=2e-3)
    assert fluxes[0].flags == (EDGE,)
    assert fluxes[1].flux_jy is None
    assert fluxes[1].flags == (EDGE,)
    assert fluxes[2].flags == ()
    pixels[:] = np.nan
    assert measure_fluxes(_image(pixels, wcs), sources, JOINT_BEAMS) == {}


def test_fluxes_are_divided_by_the_response_of_their_position() -> None:
    """A source below the least response is fitted as a neighbour, and not measured itself."""
    shape = (200, 200)
    wcs = sky_wcs(shape)
    columns = np.mgrid[: shape[0], : shape[1]][1]
    response = np.where(columns < 105, 0.5, 0.1)
    places = ((100, 100, 1.0), (109, 100, 5.0))
    sources = [
        SkySource(str(x), *(float(v) for v in wcs.wcs_pix2world(x, y, 0)), flux)
        for x, y, flux in places
    ]
    apparent = [replace(s, flux_jy=s.flux_jy * r) for s, r in zip(sources, (0.5, 0.1), strict=True)]
    pixels = draw_sources(wcs, shape, apparent)
    image = PhotometryImage(pixels, _white(shape), response, wcs, BEAM)
    fluxes = measure_fluxes(image, sources, JOINT_BEAMS, response_min=0.2)
    assert list(fluxes) == [0]
    assert fluxes[0].flux_jy == pytest.approx(1.0, rel=3e-3)
    assert fluxes[0].noise_jy == pytest.approx(RMS / 0.5)


def test_the_beam_turns_with_north_where_it_follows_it() -> None:
    """Far from the reference of a mosaic, north is not along a column of pixels."""
    shape = (120, 6000)
    wcs = sky_wcs(shape, dec_deg=54.0)
    source = SkySource("S", *(float(v) for v in wcs.wcs_pix2world(300, 60, 0)), 1.0)
    pixels = draw_sources(wcs, shape, [source])
    turned = PhotometryImage(pixels, _white(shape), None, wcs, BEAM, beam_follows_north=True)
    fixed = replace(turned, beam_follows_north=False)
    assert measure_fluxes(turned, [source], JOINT_BEAMS)[0].flux_jy == pytest.approx(1.0, rel=2e-3)
    assert abs(measure_fluxes(fixed, [source], JOINT_BEAMS)[0].flux_jy - 1.0) > 3e-3


def test_too_many_sources_in_one_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalogue that is denser than the beam is an error, not a matrix without bound."""
    monkeypatch.setattr(photometry, "_JOINT_SOURCES_MAX", 5)
    shape = (100, 100)
    wcs = sky_wcs(shape)
    sources = random_sources(np.random.default_rng(1), wcs, shape, 30)
    with pytest.raises(InputError, match="denser than the beam"):
        measure_fluxes(_image(np.zeros(shape), wcs, _white(shape)), sources, JOINT_BEAMS)


def test_a_smeared_source_is_measured_with_a_wider_kernel() -> None:
    """The mean of a source along a radial line, whose peak the response has: within 0.3 %."""
    shape = (700, 700)
    wcs = sky_wcs(shape)
    x, y, relative = 640.0, 600.0, 0.008
    steps = (np.arange(41) - 20) / 41.0 * relative
    parts = [
        SkySource("S", *(float(v) for v in wcs.wcs_pix2world(*place, 0)), 1.0 / len(steps))
        for place in ((350 + (x - 350) * (1 + f), 350 + (y - 350) * (1 + f)) for f in steps)
    ]
    pixels = draw_sources(wcs, shape, parts)
    response = np.full(shape, pixels.max())
    source = SkySource("S", *(float(v) for v in wcs.wcs_pix2world(x, y, 0)), 1.0)
    image = PhotometryImage(pixels, _white(shape), response, wcs, BEAM)
    plain = measure_fluxes(image, [source], JOINT_BEAMS)[0].flux_jy
    assert plain > 1.01
    smeared = replace(image, smearing=relative)
    assert measure_fluxes(smeared, [source], JOINT_BEAMS)[0].flux_jy == pytest.approx(1.0, abs=3e-3)
    # As in a mosaic of that tile and one beside it, which shows the source badly.
    noise_jy = (1.0, 1000.0)
    tiles = TileWeights(((180.0, 16.0), (181.0, 16.0)), noise_jy, 4.65, 1.405e9)
    mosaic = replace(smeared, beam_follows_north=True, tiles=tiles)
    assert measure_fluxes(mosaic, [source], JOINT_BEAMS)[0].flux_jy == pytest.approx(1.0, abs=3e-3)
