"""Checks of a mosaic: noise, sources in single tiles and in the catalogue, artefacts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.config import ValidationConfig
from absurd_contimg.products.outputs import SourceCheck
from absurd_contimg.science.catalogue import SkySource, source_vectors, tangent_offsets_arcsec
from absurd_contimg.science.mosaicking import Tile
from absurd_contimg.science.noise import robust_rms
from absurd_contimg.science.restoring_beams import RestoringBeam
from absurd_contimg.science.source_fitting import fit_peak

_PEAK_ERROR = 0.01
"""Of a fitted peak, from pixels of a sixth of the beam, beside the noise."""
_FOUND_FRACTION = 0.3
"""A lower peak near a source is noise or another source."""


@dataclass(frozen=True, slots=True)
class TilePair:
    """The mean flux ratio of the sources that two tiles show, and its error."""

    first: str
    second: str
    n_sources: int
    ratio: float
    error: float

    @property
    def excess(self) -> float:
        """The difference from 1 beyond twice the error."""
        return max(0.0, abs(self.ratio - 1.0) - 2.0 * self.error)


@dataclass(frozen=True, slots=True)
class SourceCount:
    """How many catalogue sources a tile should show, and how many of them it shows."""

    n_expected: int
    n_matched: int


@dataclass(frozen=True, slots=True)
class TileFlux:
    """A source's flux in one tile, and its error from noise."""

    flux_jy: float
    error_jy: float


def measure_tile(
    tile: Tile, sources: Sequence[SkySource], snr_min: float, radius_px: float, response_min: float
) -> dict[str, TileFlux]:
    """The fluxes, corrected for the beam, of the sources that stand out in a tile, by name."""
    measured = {}
    for index, x, y, response in _standing_out(tile, sources, snr_min, response_min):
        source = sources[index]
        peak = fit_peak(tile.pixels, x, y, radius_px)
        if peak is not None and peak.height > _FOUND_FRACTION * source.flux_jy * response:
            flux = peak.height / response
            error = math.hypot(tile.noise_jy / response, _PEAK_ERROR * flux)
            measured[source.name] = TileFlux(flux, error)
    return measured


def count_sources(
    tile: Tile,
    sources: Sequence[SkySource],
    is_isolated: Callable[[int], bool],
    radius_px: float,
    settings: ValidationConfig,
) -> SourceCount:
    """The sources that a tile should show, by the settings for single images, and those it shows.

    Left out are sources so near to the edge or to blank pixels that no peak can be fitted.
    """
    reach = math.ceil(radius_px) + 1
    limits = settings.snr_min, settings.beam_response_min
    n_expected = n_matched = 0
    for index, x, y, response in _standing_out(tile, sources, *limits):
        column, row = round(x), round(y)
        rows, columns = (slice(max(0, k - reach), k + reach + 1) for k in (row, column))
        area = tile.pixels[rows, columns]
        if area.shape != (2 * reach + 1,) * 2 or not np.isfinite(area).all():
            continue
        if not is_isolated(index):
            continue
        n_expected += 1
        peak = fit_peak(tile.pixels, x, y, radius_px)
        least = _FOUND_FRACTION * sources[index].flux_jy * response
        n_matched += peak is not None and peak.height > least
    return SourceCount(n_expected, n_matched)


def _standing_out(
    tile: Tile, sources: Sequence[SkySource], snr_min: float, response_min: float
) -> Iterator[tuple[int, float, float, float]]:
    """Index, column, row and beam response of each source that stands out of a tile's noise."""
    for index, (x, y) in enumerate(_pixels_of(tile.wcs, sources)):
        if not _is_inside(x, y, tile.pixels.shape):
            continue
        response = float(tile.response[round(y), round(x)])
        flux = sources[index].flux_jy * response
        if response >= response_min and flux >= snr_min * tile.noise_jy:
            yield index, x, y, response


def isolation_of(
    catalogue: Sequence[SkySource], beam: RestoringBeam, settings: ValidationConfig
) -> Callable[[int], bool]:
    """Whether the source of an index has no neighbour of comparable flux within some beams."""
    from scipy.spatial import KDTree

    if not catalogue:
        return lambda _index: True
    vectors = source_vectors(catalogue)
    tree = KDTree(vectors)
    reach = math.radians(settings.isolation_beams * beam.major_arcsec / 3600.0)

    def is_isolated(index: int) -> bool:
        near = (catalogue[k] for k in tree.query_ball_point(vectors[index], reach) if k != index)
        return all(other.flux_jy < 0.02 * catalogue[index].flux_jy for other in near)

    return is_isolated


def compare_tiles(tiles: Mapping[str, Mapping[str, TileFlux]]) -> list[TilePair]:
    """All pairs of tiles that show a common source."""
    pairs = []
    for (first, left), (second, right) in itertools.combinations(tiles.items(), 2):
        common = left.keys() & right.keys()
        if not common:
            continue
        ratios, errors = [], []
        for name in sorted(common):
            a, b = left[name], right[name]
            ratios.append(a.flux_jy / b.flux_jy)
            errors.append(ratios[-1] * math.hypot(a.error_jy / a.flux_jy, b.error_jy / b.flux_jy))
        weights = 1.0 / np.square(errors)
        mean = float(np.average(ratios, weights=weights))
        error = float(1.0 / np.sqrt(weights.sum()))
        pairs.append(TilePair(first, second, len(common), mean, error))
    return pairs


def normalised_noise(pixels: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """The noise over 1/sqrt(weight): 1 if the weights are right."""
    covered = weights > 0
    return robust_rms(pixels[covered] * np.sqrt(weights[covered]))


def count_extremes(
    pixels: NDArray[np.float64], weights: NDArray[np.float64], sigma: float
) -> tuple[int, int]:
    """The connected spots above and below that many times 1/sqrt(weight)."""
    from scipy.ndimage import label

    normalised = np.where(weights > 0, np.nan_to_num(pixels) * np.sqrt(weights), 0.0)
    touching = np.ones((3, 3))
    return int(label(normalised > sigma, touching)[1]), int(label(normalised < -sigma, touching)[1])


def check_sources(
    pixels: NDArray[np.float64],
    weights: NDArray[np.float64],
    wcs: Any,
    catalogue: Sequence[SkySource],
    beam: RestoringBeam,
    frequency_hz: float,
    settings: ValidationConfig,
) -> list[SourceCheck]:
    """One row for each catalogue source that a mosaic should show, brightest first.

    Fluxes are those at the catalogue's frequency; the beam response is 1: they are corrected.
    """
    if not catalogue:
        return []
    cell_arcsec = float(wcs.wcs.cdelt[1]) * 3600.0
    radius_px = settings.match_radius_arcsec / cell_arcsec
    is_isolated = isolation_of(catalogue, beam, settings)
    checks = []
    for index, (x, y) in enumerate(_pixels_of(wcs, catalogue)):
        if not _is_inside(x, y, pixels.shape):
            continue
        source = catalogue[index]
        snr = source.flux_jy * math.sqrt(weights[round(y), round(x)])
        if snr < settings.snr_min:
            continue
        position = source.name, source.ra_deg, source.dec_deg, source.flux_jy
        check = SourceCheck(*position, 1.0, snr, is_isolated(index))
        peak = fit_peak(pixels, x, y, radius_px)
        if peak is not None and peak.height > _FOUND_FRACTION * source.flux_jy:
            ra, dec = (float(v) for v in wcs.wcs_pix2world(peak.x, peak.y, 0))
            east, north = tangent_offsets_arcsec(source, ra, dec)
            colour = source.flux_jy / float(source.flux_at(np.array(frequency_hz)))
            check = replace(
                check,
                measured_jy=peak.height * colour,
                flux_ratio=peak.height * colour / source.flux_jy,
                east_arcsec=east,
                north_arcsec=north,
                position_error_arcsec=math.hypot(east, north),
            )
        checks.append(check)
    return sorted(checks, key=lambda c: -c.flux_jy)


def _pixels_of(wcs: Any, sources: Sequence[SkySource]) -> list[tuple[float, float]]:
    """Column and row of each source; not-a-number beyond the projection."""
    if not sources:
        return []
    ra, dec = [s.ra_deg for s in sources], [s.dec_deg for s in sources]
    return list(zip(*(axis.tolist() for axis in wcs.wcs_world2pix(ra, dec, 0)), strict=True))


def _is_inside(x: float, y: float, shape: tuple[int, ...]) -> bool:
    """Whether a pixel is there; not-a-number is outside."""
    return 0 <= x <= shape[1] - 1 and 0 <= y <= shape[0] - 1
