"""The response of an image to a point source: the mean beam times the loss to smearing.

Dividing an image by it gives fluxes (docs/telescope.md#primary-beam, #imaging).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.config import PipelineConfig
from absurd_contimg.products.outputs import MeasurementSet
from absurd_contimg.science.beam import BeamCentres, mean_response
from absurd_contimg.science.catalogue import unit_vectors
from absurd_contimg.science.measurement_set import channel_frequencies, count_flags

_GRID_STEP_PX = 16
"""Evaluated on every 16th pixel, interpolated with cubics: error below 1e-5 of the peak."""


def peak_response(header: Any, ms: MeasurementSet, config: PipelineConfig) -> NDArray[np.float32]:
    """The response on every pixel of an image; mostly flagged channels are left out."""
    centres = BeamCentres.read(ms.beam_centres)
    counts = count_flags(ms.path)
    weights = np.zeros(len(centres.mjd))
    times = np.array(list(counts.by_time))
    weights[centres.indices(times)] = list(counts.by_time.values())
    grid = _Grid.of(header)
    frequencies = channel_frequencies(ms.path)
    unflagged = frequencies[counts.by_channel < 0.5]
    smearing = _Smearing.of(header, ms, frequencies) if config.imaging.correct_smearing else None

    def at_correlation(integration: int) -> NDArray[np.float64]:
        if smearing is None:
            return np.ones(grid.east_deg.shape)
        east, north = grid.offset(centres.ra_deg[integration], centres.dec_deg[integration])
        return smearing.loss(grid.east_deg - east, grid.north_deg - north, smearing.correlated)

    band = unflagged if len(unflagged) else frequencies
    sampled = sample_frequencies(band, config.beam.n_frequencies)
    dish = config.beam.dish_diameter_m
    coarse = mean_response(grid.directions, centres, sampled, dish, weights, at_correlation)
    if smearing is not None:
        coarse = coarse * smearing.loss(grid.east_deg, grid.north_deg, smearing.averaged)
    return grid.fill(coarse)


def smearing_width(header: Any, ms: MeasurementSet, config: PipelineConfig) -> float:
    """The relative width over which sources are smeared along the radius; 0 if not corrected.

    It widens a source as much as `peak_response` says that its peak is lower.
    """
    if not config.imaging.correct_smearing:
        return 0.0
    smearing = _Smearing.of(header, ms, channel_frequencies(ms.path))
    return math.hypot(smearing.correlated, smearing.averaged)


def effective_frequency(ms: Path) -> float:
    """Mean frequency in Hz of unflagged data: the frequency of an image's fluxes."""
    good = 1.0 - count_flags(ms).by_channel
    return float(np.average(channel_frequencies(ms), weights=good if good.any() else None))


def sample_frequencies(frequencies_hz: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """At most `count` frequencies that represent a band: the means of equal parts of it."""
    parts = np.array_split(np.sort(frequencies_hz), min(count, len(frequencies_hz)))
    return np.array([part.mean() for part in parts])


@dataclass(frozen=True, slots=True)
class _Grid:
    """A coarse grid over an image; its corners are the image's corner pixels."""

    shape: tuple[int, int]
    wcs: Any
    header: Any
    east_deg: NDArray[np.float64]
    """Offsets from the phase centre in the image's plane."""
    north_deg: NDArray[np.float64]
    directions: NDArray[np.float64]

    @classmethod
    def of(cls, header: Any) -> Self:
        from astropy.wcs import WCS

        shape = (int(header["NAXIS2"]), int(header["NAXIS1"]))
        axes = [np.linspace(0, n - 1, max(8, n // _GRID_STEP_PX + 1)) for n in shape]
        rows, columns = np.meshgrid(*axes, indexing="ij")
        wcs = WCS(header).celestial
        ra, dec = wcs.wcs_pix2world(columns, rows, 0)
        directions = unit_vectors(np.radians(ra), np.radians(dec))
        return cls(shape, wcs, header, *_plane_offsets(header, columns, rows), directions)

    def offset(self, ra_deg: float, dec_deg: float) -> tuple[float, float]:
        """East and north of a position in the image's plane, degrees."""
        column, row = self.wcs.wcs_world2pix(ra_deg, dec_deg, 0)
        east, north = _plane_offsets(self.header, np.asarray(column), np.asarray(row))
        return float(east), float(north)

    def fill(self, coarse: NDArray[np.float64]) -> NDArray[np.float32]:
        """Values on all pixels, by cubic interpolation."""
        from scipy.ndimage import map_coordinates

        axes = [np.linspace(0, c - 1, n) for c, n in zip(coarse.shape, self.shape, strict=True)]
        pixels = np.meshgrid(*axes, indexing="ij")
        values = map_coordinates(coarse, pixels, order=3, mode="nearest")
        return np.asarray(values, dtype=np.float32)


def _plane_offsets(
    header: Any, columns: NDArray[np.float64], rows: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    east = (columns + 1 - float(header["CRPIX1"])) * float(header["CDELT1"])
    north = (rows + 1 - float(header["CRPIX2"])) * float(header["CDELT2"])
    return east, north


@dataclass(frozen=True, slots=True)
class _Smearing:
    """Smearing by the correlator around each meridian, then by averaging around the centre."""

    correlated: float
    """Width of a channel over the frequency, before rephasing."""
    averaged: float
    """Added by later averaging: k channels of width w have the variance of one of k w, less that
    of one of w, so sqrt(k^2 - 1) w."""
    major_deg: float
    minor_deg: float
    angle_rad: float

    @classmethod
    def of(cls, header: Any, ms: MeasurementSet, frequencies_hz: NDArray[np.float64]) -> Self:
        middle = float(frequencies_hz.mean())
        width = float(np.diff(frequencies_hz).mean()) if len(frequencies_hz) > 1 else 0.0
        native = min(ms.channel_width_hz, width)
        added = math.sqrt(max(0.0, width**2 - native**2))
        major, minor, angle = (float(header[key]) for key in ("BMAJ", "BMIN", "BPA"))
        return cls(native / middle, added / middle, major, minor, math.radians(angle))

    def loss(
        self, east_deg: NDArray[np.float64], north_deg: NDArray[np.float64], relative_width: float
    ) -> NDArray[np.float64]:
        """The remaining fraction of a peak at offsets from the centre of smearing.

        For a Gaussian beam it is erf(k) sqrt(pi) / (2 k) with k = sqrt(ln 2) spread / FWHM, where
        spread is distance times relative width, and FWHM the beam's width along the radius
        (Bridle & Schwab in "Synthesis Imaging in Radio Astronomy II").
        """
        from scipy.special import erf

        # Angle between radius and major axis, both counted from north through east.
        angle = np.arctan2(east_deg, north_deg) - self.angle_rad
        fwhm = 1.0 / np.hypot(np.cos(angle) / self.major_deg, np.sin(angle) / self.minor_deg)
        spread = np.hypot(east_deg, north_deg) * relative_width
        k = np.maximum(math.sqrt(math.log(2.0)) * spread / fwhm, 1e-6)
        return np.asarray(erf(k) * math.sqrt(math.pi) / (2.0 * k))
