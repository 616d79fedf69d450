"""The canvas of a mosaic: a conic equidistant projection along the strip of declination.

The telescope observes at constant declination, so a mosaic is long in right ascension. Along the
standard parallel this projection keeps the scale at any length; 1.5 deg from it the scale errs by
3e-4. A projection around a point (SIN, TAN) would distort the ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.errors import SettingError

BYTES_PER_PIXEL = 40
"""Numerator, weights and result in double precision, and copies of them while checks run."""
_BORDER_STEP_PX = 16
_PARALLEL_MIN_DEG = 1.0
"""Nearer to the equator a cone is nearly a cylinder, for which the projection is not defined."""
_REACH_MAX_DEG = 170.0
"""Beyond this from the middle, a mosaic would meet its other end."""


@dataclass(frozen=True, slots=True)
class Canvas:
    """Coordinates and size (height, width) in pixels."""

    wcs: Any
    shape: tuple[int, int]

    @property
    def cell_deg(self) -> float:
        """The size of a pixel."""
        return float(self.wcs.wcs.cdelt[1])


@dataclass(frozen=True, slots=True)
class Footprint:
    """Where an image lies on the sky."""

    ra_deg: NDArray[np.float64]
    """Positions along its border, ICRS."""
    dec_deg: NDArray[np.float64]
    centre_ra_deg: float
    centre_dec_deg: float
    cell_deg: float

    @classmethod
    def planned(cls, ra_deg: float, dec_deg: float, size_px: int, cell_arcsec: float) -> Footprint:
        """Of a square image around a position, as the image stage makes it."""
        from astropy.wcs import WCS

        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
        wcs.wcs.cdelt = [-cell_arcsec / 3600.0, cell_arcsec / 3600.0]
        wcs.wcs.crval = [ra_deg, dec_deg]
        wcs.wcs.crpix = [size_px // 2 + 1.0, size_px // 2 + 1.0]
        return cls.of(wcs, (size_px, size_px))

    @classmethod
    def of(cls, wcs: Any, shape: tuple[int, int]) -> Footprint:
        """Of an image with celestial coordinates."""
        x, y = border_pixels(shape)
        ra, dec = wcs.wcs_pix2world(x, y, 0)
        height, width = shape
        centre_ra, centre_dec = wcs.wcs_pix2world((width - 1) / 2.0, (height - 1) / 2.0, 0)
        cell = math.sqrt(abs(float(np.linalg.det(wcs.pixel_scale_matrix))))
        return cls(ra, dec, float(centre_ra), float(centre_dec), cell)


def border_pixels(shape: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Columns and rows of pixels along the border of an image, the corners among them."""
    rows, columns = (
        np.linspace(0.0, size - 1.0, max(2, size // _BORDER_STEP_PX + 1)) for size in shape
    )
    low_row, low_column = np.zeros_like(columns), np.zeros_like(rows)
    x = np.concatenate([columns, columns, low_column, low_column + columns[-1]])
    y = np.concatenate([low_row, low_row + rows[-1], rows, rows])
    return x, y


def circular_mean_deg(angles_deg: Sequence[float]) -> float:
    """The mean direction, in [0, 360): 359 and 1 have the mean 0."""
    angles = np.radians(np.asarray(angles_deg, dtype=float))
    return math.degrees(math.atan2(np.sin(angles).mean(), np.cos(angles).mean())) % 360.0


def plan_canvas(footprints: Sequence[Footprint], pixels_max: int) -> Canvas:
    """The smallest canvas that holds all footprints, with the finest of their pixels.

    Raises `SettingError` where it would have more than `pixels_max` pixels, before memory is taken.
    """
    from astropy.wcs import WCS

    ra_mean = circular_mean_deg([tile.centre_ra_deg for tile in footprints])
    dec_mean = float(np.mean([tile.centre_dec_deg for tile in footprints]))
    cell = min(tile.cell_deg for tile in footprints)
    ra = np.concatenate([tile.ra_deg for tile in footprints])
    dec = np.concatenate([tile.dec_deg for tile in footprints])
    reach = float(np.abs((ra - ra_mean + 180.0) % 360.0 - 180.0).max())
    if reach > _REACH_MAX_DEG:
        raise SettingError(
            f"the mosaic of {len(footprints)} tiles would reach {reach:.0f} deg in right ascension "
            f"to each side of {ra_mean:.1f} deg, and meet its other end.",
            "Make it of fewer tiles.",
        )
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---COD", "DEC--COD"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.cdelt = [-cell, cell]
    parallel = math.copysign(max(abs(dec_mean), _PARALLEL_MIN_DEG), dec_mean)
    wcs.wcs.crval = [ra_mean, parallel]
    wcs.wcs.set_pv([(2, 1, parallel), (2, 2, 0.0)])
    wcs.wcs.crpix = [1.0, 1.0]
    wcs.wcs.set()
    x, y = wcs.wcs_world2pix(ra, dec, 0)
    left, bottom = math.floor(x.min()), math.floor(y.min())
    width, height = math.ceil(x.max()) - left + 1, math.ceil(y.max()) - bottom + 1
    if width * height > pixels_max:
        raise SettingError(
            f"the mosaic of {len(footprints)} tiles would have {width} x {height} pixels, more "
            f"than mosaic.pixels_max ({pixels_max}).",
            "Make it of fewer tiles, or raise mosaic.pixels_max: a pixel takes "
            f"{BYTES_PER_PIXEL} bytes of memory.",
        )
    wcs.wcs.crpix = [1.0 - left, 1.0 - bottom]
    wcs.wcs.set()
    return Canvas(wcs, (height, width))
