"""Light curves from images: variables and transients stand out, and constant sources do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sky_images import (
    BEAM_ANGLE_DEG,
    BEAM_ARCSEC,
    CELL_ARCSEC,
    draw_noise,
    draw_sources,
    random_sources,
    sky_wcs,
)

from absurd_contimg.science.catalogue import SkySource
from absurd_contimg.science.light_curves import (
    FluxPoint,
    LightCurvePoint,
    Normalisation,
    make_light_curves,
)
from absurd_contimg.science.noise_map import NoiseMap
from absurd_contimg.science.photometry import PhotometryImage, measure_fluxes
from absurd_contimg.science.restoring_beams import RestoringBeam
from absurd_contimg.science.variability import Variability, measure_variability

SETTINGS = Normalisation(1.0, 5, 10.0, 0.02, 4.3, 0.26)
SHAPE = (700, 700)
N_EPOCHS = 6
RMS = 4e-3


def _statistics(curve: list[LightCurvePoint]) -> Variability:
    fluxes, errors = [p.flux_jy for p in curve], [p.error_jy for p in curve]
    return measure_variability(fluxes, errors, SETTINGS.vs_min, SETTINGS.m_min)


def _epoch_points(
    epoch: int, sources: list[SkySource], apparent: np.ndarray, random: np.random.Generator
) -> list[FluxPoint]:
    """Photometry in an image of sources with noise."""
    wcs = sky_wcs(SHAPE)
    noise = draw_noise(random, SHAPE, RMS * random.uniform(0.8, 1.3), width=1 / np.sqrt(2))
    pixels = noise + apparent
    beam_px = BEAM_ARCSEC[0] / CELL_ARCSEC
    image = PhotometryImage(
        pixels,
        NoiseMap.measure(pixels, 30 * beam_px, 2 * beam_px),
        None,
        wcs,
        RestoringBeam(*BEAM_ARCSEC, BEAM_ANGLE_DEG),
    )
    return [
        FluxPoint(
            sources[k].name,
            sources[k].ra_deg,
            sources[k].dec_deg,
            f"epoch {epoch}",
            60000.0 + epoch,
            flux.flux_jy,
            flux.error_jy,
            not flux.flags,
        )
        for k, flux in measure_fluxes(image, sources, 2.5).items()
        if flux.flux_jy is not None and flux.error_jy is not None
    ]


@pytest.fixture(scope="module")
def points() -> list[FluxPoint]:
    """A night of images with 200 constant sources, a variable and a transient.

    The flux scale of an image errs by 4 % (1 sigma) with a slope of 3 % across it. The variable
    grows by a factor 2; the transient appears in the last three images.
    """
    random = np.random.default_rng(20)
    wcs = sky_wcs(SHAPE)
    constant = random_sources(random, wcs, SHAPE, 200, (0.012, 0.5))
    variable = SkySource("variable", *(float(v) for v in wcs.wcs_pix2world(300, 420, 0)), 0.1)
    transient = SkySource("transient", *(float(v) for v in wcs.wcs_pix2world(610, 333, 0)), 0.06)
    columns = np.mgrid[: SHAPE[0], : SHAPE[1]][1] / SHAPE[1] - 0.5
    still = draw_sources(wcs, SHAPE, constant)
    result = []
    for epoch in range(N_EPOCHS):
        others = [
            replace(variable, flux_jy=0.1 * (1 + epoch / (N_EPOCHS - 1))),
            replace(transient, flux_jy=0.06 if epoch >= N_EPOCHS - 3 else 1e-9),
        ]
        scale = 1.0 + random.normal(0, 0.04) + random.normal(0, 0.03) * columns
        apparent = scale * (still + draw_sources(wcs, SHAPE, others))
        result += _epoch_points(epoch, [*constant, *others], apparent, random)
    return result


def test_variable_and_transient_are_found_and_no_constant_source(points: list[FluxPoint]) -> None:
    """At |Vs| >= 4.3 and |m| > 0.26, of 202 sources in 6 images."""
    curves = make_light_curves(points, SETTINGS)
    assert len(curves) == 202
    flagged = {name for name, curve in curves.items() if _statistics(curve).variable}
    assert flagged == {"variable", "transient"}
    pair = _statistics(curves["variable"]).pair
    assert pair is not None
    assert pair.m == pytest.approx(0.6, abs=0.15)
    etas = [_statistics(curve).eta for name, curve in curves.items() if name not in flagged]
    assert np.median(etas) < 1.3


def test_normalisation_takes_out_the_scale_of_each_image(points: list[FluxPoint]) -> None:
    """Bright sources scatter by 4 % before, and by 1.5 % after it."""
    curves = make_light_curves(points, SETTINGS)
    bright = [c for name, c in curves.items() if name[0] == "S" and c[0].measured_jy > 0.25]
    assert len(bright) > 20
    before, after = (
        np.median([np.std(values) / np.mean(values) for values in fluxes])
        for fluxes in (
            [[p.measured_jy for p in curve] for curve in bright],
            [[p.flux_jy for p in curve] for curve in bright],
        )
    )
    assert before > 0.03
    assert after < 0.017
    assert all(p.n_neighbours >= SETTINGS.neighbours_min for curve in bright for p in curve)


def test_constant_sources_would_be_flagged_without_normalisation(points: list[FluxPoint]) -> None:
    """With scales that err as much as those of a bad calibration: the test above can fail."""
    random = np.random.default_rng(1)
    factors = {f"epoch {k}": random.uniform(0.7, 1.3) for k in range(N_EPOCHS)}
    worse = [
        replace(p, flux_jy=p.flux_jy * factors[p.epoch], error_jy=p.error_jy * factors[p.epoch])
        for p in points
    ]
    alone = make_light_curves(worse, replace(SETTINGS, neighbours_min=10_000))
    assert sum(_statistics(curve).variable for curve in alone.values()) > 100
    together = make_light_curves(worse, SETTINGS)
    flagged = {name for name, curve in together.items() if _statistics(curve).variable}
    assert flagged == {"variable", "transient"}


def test_a_source_without_neighbours_keeps_its_fluxes() -> None:
    """And says that it has none."""
    points = [
        FluxPoint("alone", 10.0, 16.0, f"e{k}", 60000.0 - k, 1.0 + k, 0.1, True) for k in range(3)
    ]
    (curve,) = make_light_curves(points, SETTINGS).values()
    assert [(p.flux_jy, p.n_neighbours, p.scale) for p in curve] == [
        (3.0, 0, 1.0), (2.0, 0, 1.0), (1.0, 0, 1.0),
    ]  # fmt: skip
    assert make_light_curves([], SETTINGS) == {}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.5, 2.0), min_size=2, max_size=5), st.integers(0, 999))
def test_scales_of_any_size_leave_constant_sources_constant(scales: list[float], seed: int) -> None:
    """Without noise all points of a source become equal, whatever the scales of the images."""
    random = np.random.default_rng(seed)
    fluxes = random.uniform(0.1, 1.0, 8)
    points = [
        FluxPoint(
            f"S{k}", 10.0 + 0.05 * k, 16.0, f"e{e}", 60000.0 + e, flux * scale, 1e-3 * scale, True
        )
        for e, scale in enumerate(scales)
        for k, flux in enumerate(fluxes)
    ]
    for curve in make_light_curves(points, replace(SETTINGS, neighbours_min=3)).values():
        values = [p.flux_jy for p in curve]
        assert np.ptp(values) < 1e-2 * np.mean(values)
