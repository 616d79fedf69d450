"""Images of point sources in noise, made from an equation of their own.

Nothing of `science.photometry` is used: the beam is drawn from the separation and the position
angle of each pixel on the sky, by spherical trigonometry.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from absurd_contimg.science.catalogue import SkySource

CELL_ARCSEC = 8.0
BEAM_ARCSEC = (69.0, 43.0)
BEAM_ANGLE_DEG = 30.0


def sky_wcs(shape: tuple[int, int], ra_deg: float = 180.0, dec_deg: float = 16.0) -> WCS:
    """A SIN projection with its reference in the middle."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.crval = [ra_deg, dec_deg]
    wcs.wcs.crpix = [shape[1] / 2 + 1, shape[0] / 2 + 1]
    wcs.wcs.cdelt = [-CELL_ARCSEC / 3600, CELL_ARCSEC / 3600]
    return wcs


def draw_sources(
    wcs: WCS, shape: tuple[int, int], sources: Sequence[SkySource]
) -> NDArray[np.float64]:
    """Point sources of their flux, with the beam by separation and position angle on the sky."""
    image = np.zeros(shape)
    for source in sources:
        x, y = (float(v) for v in wcs.wcs_world2pix(source.ra_deg, source.dec_deg, 0))
        rows = np.arange(max(0, round(y) - 25), min(shape[0], round(y) + 26))
        columns = np.arange(max(0, round(x) - 25), min(shape[1], round(x) + 26))
        if not (rows.size and columns.size):
            continue
        grid_x, grid_y = np.meshgrid(columns, rows)
        ra, dec = np.radians(wcs.wcs_pix2world(grid_x, grid_y, 0))
        d_ra, centre = ra - np.radians(source.ra_deg), np.radians(source.dec_deg)
        east = np.cos(dec) * np.sin(d_ra)
        north = np.sin(dec) * np.cos(centre) - np.cos(dec) * np.sin(centre) * np.cos(d_ra)
        distance = np.degrees(np.arcsin(np.hypot(east, north))) * 3600.0
        angle = np.arctan2(east, north) - np.radians(BEAM_ANGLE_DEG)
        along, across = distance * np.cos(angle), distance * np.sin(angle)
        beam = 2.0 ** (-((2 * along / BEAM_ARCSEC[0]) ** 2) - (2 * across / BEAM_ARCSEC[1]) ** 2)
        image[np.ix_(rows, columns)] += source.flux_jy * beam
    return image


def draw_noise(
    random: np.random.Generator, shape: tuple[int, int], rms: float, *, width: float = 0.0
) -> NDArray[np.float64]:
    """Noise of a size: white, or convolved with the beam narrowed by a factor `width`.

    With 1 it is beam-correlated noise; with 1/sqrt(2) its correlation is the beam itself, as in an
    image from an interferometer.
    """
    noise = random.normal(size=shape)
    if width:
        from scipy.signal import fftconvolve  # noqa: PLC0415 - a second for each process of pytest

        size = 65
        wcs = sky_wcs((size, size))
        centre = SkySource("c", *wcs.wcs_pix2world(size // 2, size // 2, 0), 1.0)
        kernel = draw_sources(wcs, (size, size), [centre]) ** (1.0 / width**2)
        noise = fftconvolve(noise, kernel, mode="same")
    return noise * (rms / noise.std())


def random_sources(
    random: np.random.Generator,
    wcs: WCS,
    shape: tuple[int, int],
    count: int,
    flux_jy: tuple[float, float] = (0.01, 1.0),
    margin_px: float = 30.0,
) -> list[SkySource]:
    """Sources at random positions inside a margin, with fluxes even in the logarithm."""
    x = random.uniform(margin_px, shape[1] - 1 - margin_px, count)
    y = random.uniform(margin_px, shape[0] - 1 - margin_px, count)
    ra, dec = wcs.wcs_pix2world(x, y, 0)
    fluxes = np.exp(random.uniform(*np.log(flux_jy), count))
    return [
        SkySource(f"S{k}", float(ra[k]) % 360.0, float(dec[k]), float(fluxes[k]))
        for k in range(count)
    ]
