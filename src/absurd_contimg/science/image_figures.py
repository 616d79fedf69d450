"""Figures of an image that need no catalogue: noise, extremes, stripes, spots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.science.noise import robust_rms
from absurd_contimg.science.noise_map import local_noise

ANNULUS_WAVELENGTHS = (1000.0, 1350.0)
"""The lengths of baselines at which stripes are looked for (the telescope's own diagnostic)."""
_DIRECTIONS = 36
"""Of 5 deg each: an image is real, so half a turn has all."""
_SPOT_SIGMA = 5.0
_BOX_BEAMS = 10.0
_BOX_PX_MIN = 20.0


@dataclass(frozen=True, slots=True)
class PixelFigures:
    """Figures of one plane, in the unit of its pixels."""

    noise: float
    """1.4826 times the median absolute deviation of the inner half (in each axis)."""
    minimum: float
    maximum: float
    anisotropy: float | None
    """None: the pixels are too few or too coarse for the annulus."""
    positive_spots: int
    """Connected spots beyond 5 times the noise around them; likewise the negative ones."""
    negative_spots: int


def measure_pixels(
    pixels: NDArray[np.float64], cell_arcsec: float, beam_arcsec: float
) -> PixelFigures:
    """The figures of a plane without correction for the primary beam.

    The noise around a pixel is that of a box of 10 beams (major axes): the sidelobes that are left
    of a bright source are no detections. Raises `ValueError` if no pixel is finite.
    """
    from scipy.ndimage import label

    finite = pixels[np.isfinite(pixels)]
    if finite.size == 0:
        raise ValueError("it has no finite pixel")
    height, width = pixels.shape
    inner = pixels[height // 4 : height - height // 4, width // 4 : width - width // 4]
    noise = robust_rms(inner if np.isfinite(inner).any() else pixels)
    plane = np.nan_to_num(pixels)
    touching = np.ones((3, 3))
    box_px = max(_BOX_BEAMS * beam_arcsec / cell_arcsec, _BOX_PX_MIN)
    limit = np.full(plane.shape, np.inf)
    if noise > 0:
        local = local_noise(pixels, box_px)
        limit = np.where(local > 0, _SPOT_SIGMA * local, np.inf)
    return PixelFigures(
        noise,
        float(finite.min()),
        float(finite.max()),
        measure_anisotropy(plane, cell_arcsec),
        int(label(plane > limit, touching)[1]),
        int(label(plane < -limit, touching)[1]),
    )


def measure_anisotropy(pixels: NDArray[np.float64], cell_arcsec: float) -> float | None:
    """Largest over median mean power of the directions in the annulus of the Fourier transform.

    The image is tapered to its edges (Hann), or those would be stripes of their own. About 2 to 3
    for noise and point sources; None for too few pixels in the annulus.
    """
    rows, columns = pixels.shape
    cell_rad = np.radians(cell_arcsec / 3600.0)
    tapered = pixels * np.outer(np.hanning(rows), np.hanning(columns))
    power = np.abs(np.fft.rfft2(tapered)) ** 2
    u = np.fft.rfftfreq(columns, cell_rad)[None, :]
    v = np.fft.fftfreq(rows, cell_rad)[:, None]
    length = np.hypot(u, v)
    chosen = (length >= ANNULUS_WAVELENGTHS[0]) & (length <= ANNULUS_WAVELENGTHS[1])
    angle = np.degrees(np.arctan2(v + 0.0 * u, u + 0.0 * v))[chosen] % 180.0
    direction = np.minimum((angle / (180.0 / _DIRECTIONS)).astype(int), _DIRECTIONS - 1)
    counts = np.bincount(direction, minlength=_DIRECTIONS)
    filled = counts > 0
    if filled.sum() < _DIRECTIONS // 2:
        return None
    sums = np.bincount(direction, power[chosen], _DIRECTIONS)
    means = sums[filled] / counts[filled]
    middle = float(np.median(means))
    return float(means.max()) / middle if middle > 0 else None
