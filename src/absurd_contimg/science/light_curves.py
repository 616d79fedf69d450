"""Light curves from fluxes of many images, with the flux scale of each taken from its neighbours.

The scale of an image errs by some percent, and differently in different parts of it. For each
source it is the median, over stable sources around it, of their flux over their mean flux.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.science.catalogue import unit_vectors
from absurd_contimg.science.variability import Variability, measure_variability

_ROUNDS = 4
"""Scales and mean fluxes depend on each other; the fourth changes nothing above 1e-3."""
_MEDIAN_ERROR = 1.2533
"""Standard error of a median over that of a mean."""


@dataclass(frozen=True, slots=True)
class FluxPoint:
    """The flux of a source in one image."""

    source: str
    ra_deg: float
    dec_deg: float
    epoch: str
    """The image: the scale is that of an epoch."""
    mjd: float
    flux_jy: float
    error_jy: float
    reliable: bool
    """May serve as a neighbour: no blend, and not at an edge."""
    measured_as: str = ""
    """Its name in the catalogue of this image, where that is another one."""


@dataclass(frozen=True, slots=True)
class LightCurvePoint:
    """A flux divided by the scale of its image; its error contains that of the scale."""

    epoch: str
    mjd: float
    flux_jy: float
    error_jy: float
    scale: float
    n_neighbours: int
    """Sources that the scale is from; with too few it is 1."""
    measured_jy: float
    """Before the division."""
    measured_error_jy: float
    measured_as: str = ""
    """The name of the source in the catalogue with which it was measured."""


@dataclass(frozen=True, slots=True)
class LightCurve:
    """The fluxes of one source in the order of time, and their statistics."""

    source: str
    ra_deg: float
    dec_deg: float
    catalogue_jy: float | None
    points: tuple[LightCurvePoint, ...]
    variability: Variability

    @property
    def names(self) -> Mapping[str, int]:
        """The names under which it was measured, the oldest first, and how often."""
        return Counter(point.measured_as for point in self.points)


@dataclass(frozen=True, slots=True)
class Normalisation:
    """How light curves are normalised."""

    radius_deg: float
    """Neighbours are within this of a source."""
    neighbours_min: int
    """With fewer of them a flux is not divided."""
    snr_min: float
    """Of the neighbours, in each image."""
    relative_error: float
    """Added to all errors in quadrature."""
    vs_min: float
    """A neighbour beyond both gates is not stable."""
    m_min: float


def make_light_curves(
    points: Sequence[FluxPoint], settings: Normalisation
) -> dict[str, list[LightCurvePoint]]:
    """The light curves of all sources, by name, in the order of time."""
    table = _Table.of(points)
    scales, scale_errors = np.ones(len(points)), np.zeros(len(points))
    counts = np.zeros(len(points), dtype=int)
    variable: set[int] = set()
    neighbours = _neighbours(table, settings.radius_deg)
    for _ in range(_ROUNDS):
        means = table.mean_fluxes(scales)
        usable = table.reliable & (table.flux >= settings.snr_min * table.error)
        usable &= table.epochs_of_source[table.source] > 1
        usable &= ~np.isin(table.source, list(variable))
        usable &= means[table.source] > 0
        for rows, nearby in neighbours:
            for row, others in zip(rows, nearby, strict=True):
                chosen = others[usable[others] & (others != row)]
                counts[row] = len(chosen)
                if len(chosen) < settings.neighbours_min:
                    scales[row], scale_errors[row], counts[row] = 1.0, 0.0, 0
                    continue
                ratios = table.flux[chosen] / means[table.source[chosen]]
                errors = np.hypot(table.error[chosen] / table.flux[chosen], settings.relative_error)
                scales[row] = np.median(ratios)
                spread = np.sqrt(np.mean(errors**2)) / np.sqrt(len(chosen))
                scale_errors[row] = _MEDIAN_ERROR * spread
        flux, error = table.normalised(scales, scale_errors, settings.relative_error)
        variable = _variable_sources(table, flux, error, settings)
    curves: dict[str, list[LightCurvePoint]] = defaultdict(list)
    for row in np.lexsort((table.mjd, table.source)):
        point = points[row]
        curves[point.source].append(
            LightCurvePoint(
                point.epoch,
                point.mjd,
                float(flux[row]),
                float(error[row]),
                float(scales[row]),
                int(counts[row]),
                point.flux_jy,
                point.error_jy,
                point.measured_as or point.source,
            )
        )
    return dict(curves)


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Points as columns."""

    source: NDArray[np.int64]
    epoch: NDArray[np.int64]
    vectors: NDArray[np.float64]
    mjd: NDArray[np.float64]
    flux: NDArray[np.float64]
    error: NDArray[np.float64]
    reliable: NDArray[np.bool_]
    epochs_of_source: NDArray[np.int64]

    @classmethod
    def of(cls, points: Sequence[FluxPoint]) -> _Table:
        source, epoch = (
            np.unique(np.array([getattr(point, name) for point in points]), return_inverse=True)[1]
            for name in ("source", "epoch")
        )
        ra, dec, mjd, flux, error = (
            np.array([getattr(point, name) for point in points], dtype=float)
            for name in ("ra_deg", "dec_deg", "mjd", "flux_jy", "error_jy")
        )
        vectors = unit_vectors(np.radians(ra), np.radians(dec))
        reliable = np.array([point.reliable for point in points], dtype=bool)
        counts = np.bincount(source) if len(source) else np.zeros(0, dtype=int)
        return cls(source, epoch, vectors, mjd, flux, error, reliable, counts)

    def mean_fluxes(self, scales: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean normalised flux of each source, weighted by errors."""
        weights = (scales / self.error) ** 2
        sums = np.bincount(self.source, weights * self.flux / scales)
        return np.asarray(sums / np.bincount(self.source, weights))

    def normalised(
        self,
        scales: NDArray[np.float64],
        scale_errors: NDArray[np.float64],
        relative_error: float,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Fluxes and errors."""
        flux = self.flux / scales
        relative = np.hypot(scale_errors / scales, relative_error)
        return flux, np.hypot(self.error / scales, flux * relative)


def _neighbours(
    table: _Table, radius_deg: float
) -> list[tuple[NDArray[np.int64], list[NDArray[np.int64]]]]:
    """For each epoch its rows, and for each of them the rows of the same epoch around it."""
    from scipy.spatial import cKDTree

    chord = 2.0 * np.sin(np.radians(radius_deg) / 2.0)
    result = []
    for epoch in range(int(table.epoch.max()) + 1 if len(table.epoch) else 0):
        rows = np.flatnonzero(table.epoch == epoch)
        tree = cKDTree(table.vectors[rows])
        nearby = tree.query_ball_point(table.vectors[rows], chord)
        result.append((rows, [rows[indices] for indices in nearby]))
    return result


def _variable_sources(
    table: _Table,
    flux: NDArray[np.float64],
    error: NDArray[np.float64],
    settings: Normalisation,
) -> set[int]:
    rows_of: Mapping[int, list[int]] = defaultdict(list)
    for row, source in enumerate(table.source):
        rows_of[int(source)].append(row)
    return {
        source
        for source, rows in rows_of.items()
        if measure_variability(
            flux[rows].tolist(), error[rows].tolist(), settings.vs_min, settings.m_min
        ).variable
    }
