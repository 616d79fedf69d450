"""Forced photometry: fluxes at known positions, with the restoring beam as the kernel.

The estimator is F = sum(d k / n^2) / sum(k^2 / n^2) with data d, kernel k and local noise n.
Sources close to one another are fitted together, which is the same estimator for several kernels.
All of it is linear, so the errors follow from the noise and its correlation, which is measured.

Arrays are indexed ``[y, x]``; positions are (x, y) from 0, x to the right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.errors import InputError
from absurd_contimg.science.beam import airy_power
from absurd_contimg.science.catalogue import (
    SkySource,
    separation_rad,
    source_vectors,
    tangent_offsets_arcsec,
)
from absurd_contimg.science.noise_map import NoiseMap
from absurd_contimg.science.restoring_beams import RestoringBeam

_STAMP_BEAMS = 2.0
"""Half the side of a stamp in major axes; the kernel is 1.5e-5 there."""
_COVERAGE_MIN = 0.5
"""Below this part of the kernel's squared sum on good pixels nothing is measured."""
_COVERAGE_WHOLE = 0.99
_EIGENVALUE_MIN = 0.01
"""Of a joint fit with kernels of unit norm: reached by two sources a tenth of a beam apart."""
_JOINT_SOURCES_MAX = 2000

_TILE_REACH_ARCSEC = 1.6 * 3600.0
"""Beyond this from its centre a tile is blank: the mean beam of a 4.65 m dish is below 0.2."""

EDGE = "edge"
"""Flag: more than 1 % of the kernel is beyond the image or on blank pixels."""
BLENDED = "blended"
"""Flag: fitted together with neighbours."""
INSEPARABLE = "inseparable"
"""Flag: too near to a neighbour for two fluxes; none is given."""


@dataclass(frozen=True, slots=True)
class TileWeights:
    """The tiles of a mosaic: a source is smeared around the centre of each that shows it."""

    centres: tuple[tuple[float, float], ...]
    """Right ascension and declination, degrees."""
    noise_jy: tuple[float, ...]
    dish_diameter_m: float
    frequency_hz: float

    def spread_arcsec2(self, ra_deg: float, dec_deg: float) -> NDArray[np.float64]:
        """Mean square distance from the centres in (east, north), by the weights in the mosaic."""
        place = SkySource("", ra_deg, dec_deg, 1.0)
        total, spread = 0.0, np.zeros((2, 2))
        for (tile_ra, tile_dec), noise in zip(self.centres, self.noise_jy, strict=True):
            centre = SkySource("", tile_ra, tile_dec, 1.0)
            offset = np.array(tangent_offsets_arcsec(centre, ra_deg, dec_deg))
            distance = separation_rad(source_vectors([place]), source_vectors([centre]))
            beam = float(airy_power(distance, self.frequency_hz, self.dish_diameter_m)[0])
            if math.hypot(*offset) < _TILE_REACH_ARCSEC:
                total += (beam / noise) ** 2
                spread += (beam / noise) ** 2 * np.outer(offset, offset)
        return spread / total if total > 0 else spread


@dataclass(frozen=True, slots=True, eq=False)
class PhotometryImage:
    """An image to measure in."""

    pixels: NDArray[np.float64]
    """Jy/beam; not finite where blank."""
    noise: NoiseMap
    response: NDArray[np.float64] | None
    """Apparent over true flux on each pixel; None: 1 everywhere."""
    wcs: Any
    beam: RestoringBeam
    beam_follows_north: bool = False
    """The beam's angle counts from north at each source, as in a mosaic; else from that at the
    reference position, because an image is restored with one kernel."""
    smearing: float = 0.0
    """The radial width of smearing over the distance from the reference position. The response
    contains the loss of the peak; this widens the kernel, or fluxes 1 deg out would be 2 % high
    (measured with a beam of 30 by 22 arcsec and channels of 3.9 MHz)."""
    tiles: TileWeights | None = None
    """Of a mosaic: where its sources are smeared from."""

    def positions(self, sources: Sequence[SkySource]) -> NDArray[np.float64]:
        """Pixel positions, shape (n, 2); not-a-number beyond the horizon of the projection."""
        return self._pixels_at(*_degrees(sources))

    def kernel_shapes(self, sources: Sequence[SkySource]) -> NDArray[np.float64]:
        """The beam at each source in pixels, shape (n, 2, 2)."""
        # A boxcar of this width has a twelfth of its square as the variance.
        variance = self.smearing**2 / 12.0
        if self.beam_follows_north:
            covariances = np.repeat(self.beam.covariance[None], len(sources), axis=0)
            if self.tiles is not None and variance > 0:
                spreads = [self.tiles.spread_arcsec2(s.ra_deg, s.dec_deg) for s in sources]
                covariances = covariances + variance * np.array(spreads)
            return _shape_in_pixels(covariances, self._pixels_per_degree(*_degrees(sources)))
        ra, dec = (np.array([value]) for value in self.wcs.wcs.crval)
        shape = _shape_in_pixels(self.beam.covariance, self._pixels_per_degree(ra, dec))
        radius = self.positions(sources) - (self.wcs.wcs.crpix - 1.0)
        spread = variance * radius[:, :, None] * radius[:, None, :]
        return np.asarray(np.linalg.inv(2.0 * (np.linalg.inv(2.0 * shape) + spread)))

    def _pixels_per_degree(
        self, ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        step = 1.0 / 360.0
        here = self._pixels_at(ra_deg, dec_deg)
        east = self._pixels_at(ra_deg + step / np.cos(np.radians(dec_deg)), dec_deg)
        north = self._pixels_at(ra_deg, dec_deg + step)
        return np.stack([east - here, north - here], axis=-1) / step

    def _pixels_at(
        self, ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        return np.stack(self.wcs.wcs_world2pix(ra_deg, dec_deg, 0), axis=-1)


@dataclass(frozen=True, slots=True)
class Flux:
    """The flux at a position, corrected for the response; None where it cannot be measured."""

    flux_jy: float | None
    error_jy: float | None
    noise_jy: float
    """Local noise of a pixel, corrected for the response."""
    response: float
    n_neighbours: int
    """Sources that were fitted together with it."""
    flags: tuple[str, ...]


def measure_fluxes(
    image: PhotometryImage,
    sources: Sequence[SkySource],
    joint_fit_beams: float,
    response_min: float = 0.0,
) -> dict[int, Flux]:
    """The fluxes of sources inside the image, by their index.

    Sources within `joint_fit_beams` major axes of one another are fitted together. Those with a
    smaller response than `response_min` are fitted as neighbours and left out of the answer.
    Raises `InputError` when too many sources would have to be fitted together.
    """
    positions = image.positions(sources) if sources else np.empty((0, 2))
    height, width = image.pixels.shape
    # Not-a-number is outside.
    inside = np.all((positions >= -0.5) & (positions < (width - 0.5, height - 0.5)), axis=1)
    indices = np.flatnonzero(inside)
    if indices.size == 0:
        return {}
    shapes = image.kernel_shapes([sources[index] for index in indices])
    stamps = [
        stamp
        for index, shape in zip(indices, shapes, strict=True)
        if (stamp := _Stamp.cut(image, int(index), positions[index], shape)) is not None
    ]
    major_px = _major_px(shapes[0])
    fluxes: dict[int, Flux] = {}
    for stamps_together in _blends(stamps, joint_fit_beams * major_px):
        fluxes.update(_fit(stamps_together, image.noise.correlation))
    return {k: fluxes[k] for k in sorted(fluxes) if fluxes[k].response >= response_min}


def subtract_sources(
    image: PhotometryImage, sources: Sequence[SkySource], fluxes: Mapping[int, Flux]
) -> NDArray[np.float64]:
    """The pixels without the measured sources, which `fluxes` has by their index."""
    measured = {index: flux for index, flux in fluxes.items() if flux.flux_jy is not None}
    chosen = [sources[index] for index in measured]
    residual = image.pixels.copy()
    if not chosen:
        return residual
    height, width = residual.shape
    places = zip(image.positions(chosen), image.kernel_shapes(chosen), strict=True)
    for flux, (position, shape) in zip(measured.values(), places, strict=True):
        rows, columns, kernel = _kernel(position, shape)
        inside_y, inside_x = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
        apparent = (flux.flux_jy or 0.0) * flux.response
        box = np.ix_(rows[inside_y], columns[inside_x])
        residual[box] -= apparent * kernel[np.ix_(inside_y, inside_x)]
    return residual


@dataclass(frozen=True, slots=True, eq=False)
class _Stamp:
    """The pixels around one source; kernel and data are divided by the noise, 0 where blank."""

    index: int
    position: NDArray[np.float64]
    origin: tuple[int, int]
    """Row and column of the first pixel."""
    kernel: NDArray[np.float64]
    data: NDArray[np.float64]
    coverage: float
    """Part of the kernel's squared sum that lies on good pixels."""
    noise: float
    response: float

    @classmethod
    def cut(
        cls,
        image: PhotometryImage,
        index: int,
        position: NDArray[np.float64],
        shape: NDArray[np.float64],
    ) -> _Stamp | None:
        """The stamp of a source, cut off at the image's edge; None without a good pixel."""
        rows, columns, whole = _kernel(position, shape)
        column, row = (round(float(value)) for value in position)
        height, width = image.pixels.shape
        inside_y, inside_x = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
        box = np.ix_(rows[inside_y], columns[inside_x])
        kernel = whole[np.ix_(inside_y, inside_x)]
        data, noise = image.pixels[box], image.noise.local[box]
        good = np.isfinite(data) & np.isfinite(noise) & (noise > 0)
        if not good.any():
            return None
        coverage = float(np.sum(kernel[good] ** 2) / np.sum(whole**2))
        inverse = np.where(good, 1.0 / np.where(good, noise, 1.0), 0.0)
        response = 1.0 if image.response is None else float(image.response[row, column])
        return cls(
            index,
            position,
            (int(rows[inside_y][0]), int(columns[inside_x][0])),
            kernel * inverse,
            np.where(good, data, 0.0) * inverse,
            coverage,
            float(image.noise.local[row, column]),
            response if math.isfinite(response) else 0.0,
        )


def _blends(stamps: Sequence[_Stamp], radius_px: float) -> Iterator[list[_Stamp]]:
    """The stamps in sets that are connected by distances up to a radius."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    if not stamps:
        return
    tree = cKDTree(np.array([stamp.position for stamp in stamps]))
    pairs = tree.query_pairs(radius_px, output_type="ndarray")
    size = len(stamps)
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(size, size))
    count, labels = connected_components(graph, directed=False)
    order = np.argsort(labels, kind="stable")
    for members in np.split(order, np.cumsum(np.bincount(labels, minlength=count))[:-1]):
        if len(members) > _JOINT_SOURCES_MAX:
            raise InputError(
                f"{len(members)} catalogue sources would have to be fitted together: the "
                "catalogue is denser than the beam can separate.",
                "Give a catalogue without the faintest sources.",
            )
        yield [stamps[member] for member in members]


def _fit(stamps: Sequence[_Stamp], correlation: NDArray[np.float64]) -> dict[int, Flux]:
    """Fluxes of sources that are fitted together (or of a single one)."""
    from scipy.signal import fftconvolve

    neighbours = len(stamps) - 1
    fluxes = {stamp.index: _flux(stamp, neighbours, (EDGE,)) for stamp in stamps}
    covered = [stamp for stamp in stamps if stamp.coverage >= _COVERAGE_MIN]
    if not covered:
        return fluxes
    half = correlation.shape[0] // 2
    size = len(covered)
    normal, variance = np.zeros((size, size)), np.zeros((size, size))
    for column, stamp in enumerate(covered):
        correlated = fftconvolve(stamp.kernel, correlation)
        origin = stamp.origin[0] - half, stamp.origin[1] - half
        for row, other in enumerate(covered):
            normal[row, column] = _overlap(other.kernel, other.origin, stamp.kernel, stamp.origin)
            variance[row, column] = _overlap(other.kernel, other.origin, correlated, origin)
    scale = 1.0 / np.sqrt(np.diag(normal))
    eigenvalues, vectors = np.linalg.eigh(normal * np.outer(scale, scale))
    kept = eigenvalues >= _EIGENVALUE_MIN
    # Without the others only the sum of inseparable sources is fitted, which is well known.
    inverse = (vectors[:, kept] / eigenvalues[kept]) @ vectors[:, kept].T * np.outer(scale, scale)
    solution = inverse @ np.array([np.sum(stamp.kernel * stamp.data) for stamp in covered])
    errors = np.sqrt(np.diag(inverse @ variance @ inverse))
    inseparable = np.sum(vectors[:, ~kept] ** 2, axis=1) > 1e-3
    for place, stamp in enumerate(covered):
        flags = [BLENDED] if neighbours else []
        flags += [EDGE] if stamp.coverage < _COVERAGE_WHOLE else []
        if inseparable[place]:
            fluxes[stamp.index] = _flux(stamp, neighbours, (*flags, INSEPARABLE))
        else:
            measured = float(solution[place]), float(errors[place])
            fluxes[stamp.index] = _flux(stamp, neighbours, tuple(flags), *measured)
    return fluxes


def _major_px(shape: NDArray[np.float64]) -> float:
    """The full width of the kernel along its major axis, in pixels."""
    return 2.0 * math.sqrt(math.log(2.0) / float(np.linalg.eigvalsh(shape).min()))


def _kernel(
    position: NDArray[np.float64], shape: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Rows, columns and values of the kernel around a position; they may leave the image."""
    half = math.ceil(_STAMP_BEAMS * _major_px(shape))
    column, row = (round(float(value)) for value in position)
    rows = np.arange(row - half, row + half + 1)
    columns = np.arange(column - half, column + half + 1)
    y, x = np.meshgrid(rows - position[1], columns - position[0], indexing="ij")
    exponent = shape[0, 0] * x**2 + 2.0 * shape[0, 1] * x * y + shape[1, 1] * y**2
    return rows, columns, np.exp(-exponent)


def _flux(
    stamp: _Stamp,
    n_neighbours: int,
    flags: tuple[str, ...],
    apparent_jy: float | None = None,
    error_jy: float | None = None,
) -> Flux:
    response = stamp.response
    if apparent_jy is None or error_jy is None or not response > 0:
        noise = stamp.noise / response if response > 0 else math.nan
        return Flux(None, None, noise, response, n_neighbours, flags)
    values = apparent_jy / response, error_jy / response, stamp.noise / response
    return Flux(*values, response, n_neighbours, flags)


def _overlap(
    first: NDArray[np.float64],
    first_origin: tuple[int, int],
    second: NDArray[np.float64],
    second_origin: tuple[int, int],
) -> float:
    """The sum of the product of two arrays where they overlap."""
    slices = []
    for axis in (0, 1):
        begin = max(first_origin[axis], second_origin[axis])
        end = min(first_origin[axis] + first.shape[axis], second_origin[axis] + second.shape[axis])
        if begin >= end:
            return 0.0
        slices.append(
            [slice(begin - o[axis], end - o[axis]) for o in (first_origin, second_origin)]
        )
    (first_rows, second_rows), (first_columns, second_columns) = slices
    return float(np.sum(first[first_rows, first_columns] * second[second_rows, second_columns]))


def _shape_in_pixels(
    covariance: NDArray[np.float64], pixels_per_degree: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Matrices Q (..., 2, 2): the kernel is exp(-p Q p) at a distance p (x, y) in pixels.

    The covariance is in (east, north), arcsec^2; `pixels_per_degree` (..., 2, 2) has a column
    (x, y) for a degree to the east, and to the north.
    """
    sky = np.linalg.inv(covariance / 3600.0**2) / 2.0
    degrees_per_pixel = np.linalg.inv(pixels_per_degree)
    return np.asarray(np.swapaxes(degrees_per_pixel, -1, -2) @ sky @ degrees_per_pixel)


def _degrees(sources: Sequence[SkySource]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return (
        np.array([source.ra_deg for source in sources], dtype=float),
        np.array([source.dec_deg for source in sources], dtype=float),
    )
