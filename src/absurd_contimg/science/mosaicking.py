"""The linear mosaic of images: sum(I B / s^2) / sum(B^2 / s^2).

I is an image without primary-beam correction, B its mean primary beam and s its noise, so that each
tile has the weight of its information about a flux. The sum of the weights is the inverse variance
of the mosaic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.science.canvas import Canvas, border_pixels

_CELL_PX = 16
"""Coordinates are computed on a grid of this step and interpolated with cubics (1e-8 px)."""
_PADDING_CELLS = 1
"""Of that grid beyond the box, so that the smallest box has the four points of a cubic. A spline of
the whole grid needs no more; `scipy.ndimage`, which mirrors at the edge, would err by 1.4 px."""
_EDGE_PX = 1e-6
"""A pixel on the border may have a coordinate outside by rounding."""


@dataclass(frozen=True, slots=True)
class Tile:
    """An image (rows, columns) that is not corrected for the beam, its mean beam, its noise."""

    pixels: NDArray[np.float64]
    """Jy/beam; NaN is blank."""
    response: NDArray[np.float64]
    """The mean beam, 1 at its peak; NaN is blank."""
    wcs: Any
    """Celestial, two axes."""
    noise_jy: float


class MosaicSum:
    """The sums of a mosaic, tile by tile; the order of tiles changes only rounding."""

    def __init__(self, canvas: Canvas, response_min: float) -> None:
        """Tiles are blank where their beam is below `response_min`."""
        self._canvas = canvas
        self._response_min = response_min
        self._numerator = np.zeros(canvas.shape)
        self.weights = np.zeros(canvas.shape)
        """Sum of B^2 / s^2, Jy^-2; 0 where there is no tile."""
        self.depth = np.zeros(canvas.shape, dtype=np.uint16)
        """The number of tiles."""

    def add(self, tile: Tile) -> int:
        """Add a tile; the number of pixels of the canvas to which it contributes."""
        box = _box(tile, self._canvas)
        if box is None:
            return 0
        columns, rows = _coordinates(tile, self._canvas, box)
        image, response = _interpolated(tile, columns, rows)
        with np.errstate(invalid="ignore"):
            inside = np.isfinite(image) & (response >= self._response_min)
        scale = np.where(inside, response, 0.0) / tile.noise_jy**2
        self._numerator[box] += np.where(inside, image, 0.0) * scale
        self.weights[box] += np.where(inside, response, 0.0) * scale
        self.depth[box] += inside
        return int(inside.sum())

    def pixels(self) -> NDArray[np.float64]:
        """The mosaic, Jy/beam; NaN where there is no tile."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self._numerator / self.weights)


def plane(data: NDArray[Any]) -> NDArray[np.float64]:
    """The pixels of an image with further axes of length 1, as CASA writes them."""
    return np.asarray(data.reshape(data.shape[-2:]), dtype=float)


_Box = tuple[slice, slice]


def _box(tile: Tile, canvas: Canvas) -> _Box | None:
    """Rows and columns of the canvas around a tile; None if it lies outside."""
    x, y = border_pixels((tile.pixels.shape[0], tile.pixels.shape[1]))
    x, y = canvas.wcs.wcs_world2pix(*tile.wcs.wcs_pix2world(x, y, 0), 0)
    low = [max(0, int(np.floor(axis.min())) - 1) for axis in (y, x)]
    high = [
        min(size, int(np.ceil(axis.max())) + 2)
        for axis, size in zip((y, x), canvas.shape, strict=True)
    ]
    if low[0] >= high[0] or low[1] >= high[1]:
        return None
    return slice(low[0], high[0]), slice(low[1], high[1])


def _coordinates(
    tile: Tile, canvas: Canvas, box: _Box
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Columns and rows of the tile for each pixel of a box of the canvas."""
    from scipy.interpolate import RectBivariateSpline

    axes = [np.arange(part.start, part.stop) for part in box]
    coarse = []
    for axis in axes:
        cells = (axis[-1] - axis[0]) // _CELL_PX + 1 + 2 * _PADDING_CELLS
        coarse.append(axis[0] + _CELL_PX * (np.arange(cells + 1) - _PADDING_CELLS))
    canvas_rows, canvas_columns = np.meshgrid(*coarse, indexing="ij")
    sky = canvas.wcs.wcs_pix2world(canvas_columns.ravel(), canvas_rows.ravel(), 0)
    columns, rows = (
        RectBivariateSpline(*coarse, values.reshape(canvas_rows.shape))(*axes)
        for values in tile.wcs.wcs_world2pix(*sky, 0)
    )
    return columns, rows


def _interpolated(
    tile: Tile, columns: NDArray[np.float64], rows: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Image (with cubics) and beam (linearly: it is smooth) there; NaN outside and at blanks."""
    from scipy.ndimage import binary_dilation, map_coordinates

    height, width = tile.pixels.shape
    blank = ~(np.isfinite(tile.pixels) & np.isfinite(tile.response))
    pixels, response = tile.pixels, tile.response
    if blank.any():
        # A cubic reaches two pixels far: a blank pixel counts up to there.
        pixels = np.where(blank, 0.0, pixels)
        response = np.where(binary_dilation(blank, np.ones((3, 3))), np.nan, response)
    places = np.stack([rows, columns])
    image = map_coordinates(pixels, places, order=3, mode="mirror")
    beam = map_coordinates(response, places, order=1, mode="nearest")
    outside = (rows < -_EDGE_PX) | (rows > height - 1 + _EDGE_PX)
    outside |= (columns < -_EDGE_PX) | (columns > width - 1 + _EDGE_PX)
    image[outside] = np.nan
    return image, beam
