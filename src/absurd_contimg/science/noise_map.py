"""The noise of an image: its local size, and how it is correlated from pixel to pixel.

Both are measured from the image itself, in the presence of sources. The noise of an image from an
interferometer has the correlation of its dirty beam, which no header describes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.science.noise import robust_rms

_CLIP_SIGMA = 4.0
"""Pixels beyond this are sources and are left out, with their surroundings."""
_GOOD_FRACTION_MIN = 0.2
"""Less of the surroundings is left out when fewer pixels than this would remain."""
_CORRELATION_SIDE_MAX = 2048
"""Only the middle of a larger image is used for the correlation."""
_BOX_STEPS = 45
"""A box is sampled so often along half a side: three times in a beam with boxes of 30 beams."""
_BOX_PIXELS_MIN = 16
"""A box with fewer good pixels gives no noise; its neighbours' is used."""


@dataclass(frozen=True, slots=True, eq=False)
class NoiseMap:
    """Local standard deviation on each pixel, and the correlation of two pixels by distance."""

    local: NDArray[np.float64]
    """Not finite where the image is blank."""
    correlation: NDArray[np.float64]
    """Odd sides; 1 in the middle, which stands for distance zero."""

    @classmethod
    def measure(
        cls,
        pixels: NDArray[np.float64],
        box_px: float,
        reach_px: float,
        expected: NDArray[np.float64] | None = None,
    ) -> NoiseMap:
        """Measure the noise in boxes of a size, and the correlation up to a distance.

        Bright pixels are sources and are left out, with all pixels up to that distance if enough
        remain: sources in a tenth of the pixels raise the deviation by a tenth (measured).

        `expected` is the noise up to factors that change slowly, as from a weight plane.
        """
        scale = np.ones(pixels.shape) if expected is None else expected
        good = np.isfinite(pixels) & np.isfinite(scale) & (scale > 0)
        flat = np.where(good, pixels / np.where(good, scale, 1.0), np.nan)
        reach = math.ceil(reach_px)
        free = _source_free(flat / local_noise(flat, box_px), reach)
        flat = np.where(free, flat, np.nan)
        local = local_noise(flat, box_px)
        return cls(np.where(good, local * scale, np.nan), noise_correlation(flat / local, reach))


def local_noise(pixels: NDArray[np.float64], box_px: float) -> NDArray[np.float64]:
    """Robust standard deviation around each pixel.

    Measured in boxes that overlap by half, bilinear between their middles. All pixels have the
    noise of the whole image when no box has enough good pixels; not-a-number without any.
    """
    from scipy.ndimage import distance_transform_edt

    shape = pixels.shape
    counts = [max(1, round(2.0 * side / box_px) - 1) for side in shape]
    middles = [
        (np.arange(count) + 1.0) * side / (count + 1.0)
        for count, side in zip(counts, shape, strict=True)
    ]
    half = [side / (count + 1.0) for count, side in zip(counts, shape, strict=True)]
    step = max(1, int(min(half) / _BOX_STEPS))
    values = np.array(
        [
            [
                _robust_deviation(
                    pixels[
                        round(y - half[0]) : round(y + half[0]) : step,
                        round(x - half[1]) : round(x + half[1]) : step,
                    ]
                )
                for x in middles[1]
            ]
            for y in middles[0]
        ]
    )
    missing = ~(values > 0)
    if missing.all():
        overall = robust_rms(pixels)
        return np.full(shape, overall if overall > 0 else np.nan)
    if missing.any():
        nearest = distance_transform_edt(missing, return_distances=False, return_indices=True)
        values = values[tuple(nearest)]
    # Linear along each axis, and constant beyond the outer middles.
    rows, columns = (
        np.array([np.interp(np.arange(side), middle, unit) for unit in np.eye(len(middle))])
        for side, middle in zip(shape, middles, strict=True)
    )
    return np.asarray(rows.T @ values @ columns)


def noise_correlation(normalised: NDArray[np.float64], reach_px: int) -> NDArray[np.float64]:
    """The correlation of noise of unit size, up to a distance along each axis.

    Blank pixels are left out. Without enough good ones the noise is taken as white.
    """
    from scipy import fft

    side = 2 * reach_px + 1
    white = np.zeros((side, side))
    white[reach_px, reach_px] = 1.0
    middle = tuple(
        slice(max(0, (n - _CORRELATION_SIDE_MAX) // 2), (n + _CORRELATION_SIDE_MAX + 1) // 2)
        for n in normalised.shape
    )
    part = normalised[middle]
    good = np.isfinite(part)
    if np.count_nonzero(good) < side * side:
        return white
    size = [fft.next_fast_len(n + reach_px, real=True) for n in part.shape]
    products, pairs = (
        fft.irfft2(np.abs(fft.rfft2(plane, size)) ** 2, size)
        for plane in (np.where(good, part, 0.0), good.astype(float))
    )
    lags = np.arange(-reach_px, reach_px + 1)
    window = np.ix_(lags, lags)
    correlation = products[window] / np.maximum(pairs[window], 1.0)
    return np.asarray(correlation / correlation[reach_px, reach_px])


def _source_free(normalised: NDArray[np.float64], reach_px: int) -> NDArray[np.bool_]:
    """The finite pixels without the bright ones and their surroundings."""
    from scipy.ndimage import maximum_filter

    finite = np.isfinite(normalised)
    bright = np.abs(np.where(finite, normalised, 0.0)) >= _CLIP_SIGMA
    good: NDArray[np.bool_] = finite & ~bright
    for distance in (reach_px, reach_px // 2):
        far: NDArray[np.bool_] = finite & ~maximum_filter(bright, 2 * distance + 1)
        if np.count_nonzero(far) >= _GOOD_FRACTION_MIN * np.count_nonzero(finite):
            return far
    return good


def _robust_deviation(values: NDArray[np.float64]) -> float:
    enough = np.count_nonzero(np.isfinite(values)) >= _BOX_PIXELS_MIN
    return robust_rms(values) if enough else math.nan
