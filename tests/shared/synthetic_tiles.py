"""Images of an analytic sky: Gaussians times the mean primary beam, and correlated noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from absurd_contimg.science.beam import airy_power
from absurd_contimg.science.catalogue import SkySource, separation_rad, unit_vectors
from absurd_contimg.science.mosaicking import Tile
from absurd_contimg.science.noise import robust_rms
from absurd_contimg.science.restoring_beams import RestoringBeam, convolved

DISH_M = 4.65
FREQUENCY_HZ = 1.405e9
TILE_STEP_DEG = 1.2893
"""The drift in right ascension within a group."""
BEAM = RestoringBeam(60.0, 43.0, 20.0)


@dataclass(frozen=True, slots=True)
class TilePlan:
    """The geometry of a tile: centre, pixels, restoring beam."""

    ra_deg: float
    dec_deg: float
    size_px: int = 512
    cell_arcsec: float = 12.0
    beam: RestoringBeam = BEAM


def strip(ra_deg: float, dec_deg: float, count: int, **plan: Any) -> list[TilePlan]:
    """Plans of consecutive groups, the middle one at the position."""
    offsets = (np.arange(count) - (count - 1) / 2) * TILE_STEP_DEG
    return [TilePlan((ra_deg + offset) % 360.0, dec_deg, **plan) for offset in offsets]


def tile_wcs(plan: TilePlan) -> WCS:
    """SIN around the centre, as imagers write it."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.cdelt = [-plan.cell_arcsec / 3600.0, plan.cell_arcsec / 3600.0]
    wcs.wcs.crval = [plan.ra_deg, plan.dec_deg]
    wcs.wcs.crpix = [plan.size_px // 2 + 1.0, plan.size_px // 2 + 1.0]
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.set()
    return wcs


def mean_beam(plan: TilePlan, wcs: WCS) -> NDArray[np.float64]:
    """The mean over the drift, computed on every 16th pixel."""
    from scipy.interpolate import RectBivariateSpline  # noqa: PLC0415 - slow import

    axis = np.linspace(0, plan.size_px - 1, plan.size_px // 16 + 1)
    rows, columns = np.meshgrid(axis, axis, indexing="ij")
    ra, dec = wcs.wcs_pix2world(columns.ravel(), rows.ravel(), 0)
    directions = unit_vectors(np.radians(ra), np.radians(dec))
    meridians = plan.ra_deg + (np.arange(8) - 3.5) / 8 * TILE_STEP_DEG
    pointings = unit_vectors(np.radians(meridians), np.radians(np.full(8, plan.dec_deg)))
    responses = [
        airy_power(separation_rad(directions, pointing), FREQUENCY_HZ, DISH_M)
        for pointing in pointings
    ]
    mean = np.mean(responses, axis=0).reshape(rows.shape)
    pixels = np.arange(plan.size_px)
    return np.asarray(RectBivariateSpline(axis, axis, mean)(pixels, pixels))


def correlated_noise(
    plan: TilePlan, wcs: WCS, noise_jy: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Noise with the restoring beam as its correlation, of that robust noise."""
    white = rng.normal(size=(plan.size_px, plan.size_px))
    point = RestoringBeam(1e-3, 1e-3, 0.0)
    smooth = convolved(white, wcs, point, plan.beam)
    return np.asarray(smooth * (noise_jy / robust_rms(smooth)))


def make_tile(
    plan: TilePlan,
    sources: Sequence[SkySource],
    noise_jy: float,
    rng: np.random.Generator,
) -> Tile:
    """The tile; its noise is measured, as the stage does."""
    from scipy.interpolate import RectBivariateSpline  # noqa: PLC0415 - slow import

    wcs = tile_wcs(plan)
    response = mean_beam(plan, wcs)
    pixels = correlated_noise(plan, wcs, noise_jy, rng)
    inverse = np.linalg.inv(plan.beam.covariance)
    half = math.ceil(3.0 * plan.beam.major_arcsec / plan.cell_arcsec)
    spline = RectBivariateSpline(*(np.arange(plan.size_px),) * 2, response, kx=1, ky=1)
    for source in sources:
        x, y = (float(v) for v in wcs.wcs_world2pix(source.ra_deg, source.dec_deg, 0))
        reach = half - 1
        if not (-reach < x < plan.size_px + reach and -reach < y < plan.size_px + reach):
            continue
        columns = np.arange(max(0, round(x) - half), min(plan.size_px, round(x) + half + 1))
        rows = np.arange(max(0, round(y) - half), min(plan.size_px, round(y) + half + 1))
        north, east = np.meshgrid(
            (rows - y) * plan.cell_arcsec, -(columns - x) * plan.cell_arcsec, indexing="ij"
        )
        exponent = inverse[0, 0] * east**2 + 2 * inverse[0, 1] * east * north
        exponent += inverse[1, 1] * north**2
        peak = source.flux_jy * float(spline(y, x)[0, 0])
        pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] += peak * np.exp(
            -0.5 * exponent
        )
    return Tile(pixels, response, wcs, robust_rms(pixels[response >= 0.2]))


def random_sources(
    plans: Sequence[TilePlan], count: int, flux_jy: float, rng: np.random.Generator
) -> list[SkySource]:
    """Sources all along the strip, tile edges included, at least 6 arcmin from each other."""
    first, last = plans[0].ra_deg, plans[-1].ra_deg
    width = (last - first) % 360.0 + 1.6
    sources: list[SkySource] = []
    vectors = np.zeros((0, 3))
    while len(sources) < count:
        ra = (first - 0.8 + rng.uniform(0, width)) % 360.0
        dec = plans[0].dec_deg + rng.uniform(-0.7, 0.7)
        vector = unit_vectors(np.radians(np.array([ra])), np.radians(np.array([dec])))
        if len(vectors) and separation_rad(vectors, vector[0]).min() < math.radians(0.1):
            continue
        vectors = np.concatenate([vectors, vector])
        flux = flux_jy * rng.uniform(1.0, 3.0)
        sources.append(SkySource(f"S{len(sources):03d}", ra, dec, flux))
    return sources
