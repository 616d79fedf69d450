"""Sources that stand out in an image and are not in the catalogue."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.science.catalogue import SkySource, separation_rad, source_vectors
from absurd_contimg.science.cross_match import cross_match
from absurd_contimg.science.photometry import Flux, PhotometryImage, subtract_sources
from absurd_contimg.science.source_fitting import fit_peak

_NEIGHBOURHOOD_BEAMS = 5.0
"""Cleaning leaves errors of a bright source within this many major axes."""
_ARTEFACT_FRACTION = 0.05
"""They are fainter than this part of it (measured: 2 %)."""
_SIDELOBE_FRACTION = 0.01
"""Anywhere in the image they are fainter than this part of the brightest source (measured beside a
calibrator of 10 Jy with 28 antennas: 0.65 %)."""
_OUTSIDE_DEG = 0.6
"""Sidelobes of a source beyond the rim, which is not cleaned, reach so far into the image."""
_OUTSIDE_FRACTION = 0.2
"""They are fainter than this part of it, both corrected for the response (measured at 1.4 deg, 28
antennas: 17 %)."""


def find_uncatalogued(
    image: PhotometryImage,
    sources: Sequence[SkySource],
    fluxes: Mapping[int, Flux],
    sigma_min: float,
    response_min: float,
    count_max: int,
) -> list[SkySource]:
    """Peaks of at least so many times the local noise, the most significant first.

    The measured catalogue sources are subtracted first. A peak within one major axis of a
    catalogue source belongs to it; one that is much fainter than another source, or than one just
    beyond the rim, is an artefact.
    Fluxes are peaks, corrected for the response, and names are those of the positions.
    """
    residual = subtract_sources(image, sources, fluxes)
    with np.errstate(invalid="ignore"):
        significance = np.nan_to_num(residual / image.noise.local, nan=0.0)
    if image.response is not None:
        significance = np.where(image.response >= response_min, significance, 0.0)
    beam_px = image.beam.major_arcsec / 3600.0 / float(np.min(np.abs(image.wcs.wcs.cdelt)))
    peaks = []
    for row, column in _maxima(significance, sigma_min, round(beam_px)):
        peak = fit_peak(residual, column, row, 1.0)
        if peak is None:
            continue
        ra, dec = (float(v) for v in image.wcs.wcs_pix2world(peak.x, peak.y, 0))
        response = 1.0 if image.response is None else float(image.response[row, column])
        name = position_name(ra, dec)
        peaks.append(SkySource(name, ra % 360.0, dec, peak.height / response))
    alone = [
        source
        for source, match in zip(
            peaks, cross_match(peaks, sources, image.beam.major_arcsec), strict=True
        )
        if not match.candidates
    ]
    reach_arcsec = _NEIGHBOURHOOD_BEAMS * image.beam.major_arcsec
    bright = [
        replace(sources[k], flux_jy=flux.flux_jy) for k, flux in fluxes.items() if flux.flux_jy
    ]
    beyond = [source for k, source in enumerate(sources) if k not in fluxes]
    return [
        source
        for source in alone
        if not _is_artefact(source, bright, reach_arcsec) and not _is_sidelobe(source, beyond)
    ][:count_max]


def position_name(ra_deg: float, dec_deg: float) -> str:
    """A name such as ``J004244.3+411609`` (hours, minutes, seconds; truncated as the IAU asks)."""
    tenths = math.floor((ra_deg % 360.0) / 15.0 * 36000.0)
    seconds = math.floor(abs(dec_deg) * 3600.0)
    hours, minutes = tenths // 36000, tenths // 600 % 60
    sign = "-" if dec_deg < 0 else "+"
    return (
        f"J{hours:02d}{minutes:02d}{tenths % 600 / 10:04.1f}"
        f"{sign}{seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}"
    )


def _maxima(
    significance: NDArray[np.float64], sigma_min: float, beam_px: int
) -> list[tuple[int, int]]:
    """Row and column of the local maxima, the highest first."""
    from scipy.ndimage import maximum_filter

    size = 2 * (beam_px // 2) + 1
    highest = significance == maximum_filter(significance, size)
    rows, columns = np.nonzero(highest & (significance >= sigma_min))
    order = np.argsort(-significance[rows, columns], kind="stable")
    return [(int(rows[k]), int(columns[k])) for k in order]


def _is_artefact(peak: SkySource, bright: Sequence[SkySource], reach_arcsec: float) -> bool:
    if not bright:
        return False
    distances = np.degrees(separation_rad(source_vectors(bright), source_vectors([peak])[0]))
    fluxes = np.array([source.flux_jy for source in bright])
    near = distances * 3600.0 < reach_arcsec
    limits = np.where(near, _ARTEFACT_FRACTION, _SIDELOBE_FRACTION) * fluxes
    return bool(peak.flux_jy < limits.max())


def _is_sidelobe(peak: SkySource, beyond: Sequence[SkySource]) -> bool:
    """Of a source that is not in the image, or where the response is too small to measure it."""
    if not beyond:
        return False
    distances = np.degrees(separation_rad(source_vectors(beyond), source_vectors([peak])[0]))
    fluxes = np.array([source.flux_jy for source in beyond])
    return bool(np.any((distances < _OUTSIDE_DEG) & (peak.flux_jy < _OUTSIDE_FRACTION * fluxes)))
