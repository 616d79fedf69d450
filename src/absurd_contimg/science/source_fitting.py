"""Fitting peak flux and position of a point source near a known position in an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Peak:
    """A fitted maximum: pixel coordinates (x to the right, y up, from 0) and its height."""

    x: float
    y: float
    height: float


def fit_peak(
    image: NDArray[np.floating], x: float, y: float, radius_px: float, half: int = 1
) -> Peak | None:
    """The brightest pixel within a radius of (x, y), refined by a paraboloid.

    A quadratic in two dimensions is fitted by least squares to the logarithm of the
    (2 half + 1)^2 pixels around the maximum, which is exact for a Gaussian. None when the
    search area leaves the image, is blank or its maximum lies on its rim.
    """
    size_y, size_x = image.shape
    reach = int(np.ceil(radius_px)) + half
    column, row = round(x), round(y)
    if not (reach <= column < size_x - reach and reach <= row < size_y - reach):
        return None
    offset = np.arange(-reach, reach + 1)
    distance = np.hypot(offset[:, None], offset[None, :])
    area = image[row - reach : row + reach + 1, column - reach : column + reach + 1]
    searched = np.where(distance <= radius_px, area, -np.inf)
    if not np.isfinite(searched.max()):
        return None
    peak_row, peak_column = np.unravel_index(int(np.argmax(searched)), searched.shape)
    r, c = row - reach + int(peak_row), column - reach + int(peak_column)
    box = image[r - half : r + half + 1, c - half : c + half + 1]
    if box.max() > image[r, c] or box.min() <= 0:
        return None
    return _paraboloid(np.asarray(box, dtype=float), c, r, half)


def _paraboloid(box: NDArray[np.float64], column: int, row: int, half: int) -> Peak | None:
    grid = np.arange(-half, half + 1, dtype=float)
    dy, dx = (a.ravel() for a in np.meshgrid(grid, grid, indexing="ij"))
    terms = np.stack([np.ones_like(dx), dx, dy, dx * dx, dx * dy, dy * dy], axis=1)
    # Weighted by the values: noise of a logarithm grows as the value falls.
    weight = box.ravel()
    solution, *_ = np.linalg.lstsq(
        terms * weight[:, None], np.log(box).ravel() * weight, rcond=None
    )
    constant, gx, gy, hxx, hxy, hyy = solution
    hessian = np.array([[2 * hxx, hxy], [hxy, 2 * hyy]])
    if np.any(np.linalg.eigvalsh(hessian) >= 0):
        return None
    shift = -np.linalg.solve(hessian, [gx, gy])
    if np.abs(shift).max() > half + 0.5:
        return None
    height = float(np.exp(constant + 0.5 * (gx * shift[0] + gy * shift[1])))
    return Peak(column + float(shift[0]), row + float(shift[1]), height)
