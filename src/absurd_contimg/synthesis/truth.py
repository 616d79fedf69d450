"""The injected gains and sources, and the comparison of recovered ones with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.products.outputs import SourceCheck
from absurd_contimg.synthesis.instrument import Instrument


def write_truth(path: Path, instrument: Instrument, frequencies_hz: NDArray[np.float64]) -> None:
    """Write the injected gains as ``.npz``: antennas, frequencies_hz, gains (ant, chan, pol)."""
    np.savez(
        path,
        antennas=np.array(instrument.antennas),
        frequencies_hz=frequencies_hz,
        gains=instrument.gains(frequencies_hz),
    )


@dataclass(frozen=True, slots=True)
class GainComparison:
    """Errors of solved gains: amplitudes relative, phases in degrees without the common one."""

    channel_amplitude: float
    """Standard deviation over antennas, channels and polarisations."""
    channel_phase_deg: float
    amplitude_mean: float
    """Mean ratio of the amplitudes; 1 when the flux scale is right."""
    band_amplitude: float
    """Of the mean ratio over all channels."""
    band_phase_deg: float
    flagged_fraction: float

    def within(self, amplitude: float = 0.02, phase_deg: float = 1.0) -> bool:
        """Whether the per-channel scatter and the flux scale are within limits."""
        return (
            self.channel_amplitude <= amplitude
            and self.channel_phase_deg <= phase_deg
            and abs(self.amplitude_mean - 1.0) <= amplitude
        )


def compare_gains(truth: Path, solved: Path) -> GainComparison:
    """Compare injected gains with those that ``calibrate_solve`` exported.

    `solved` is ``gains.npz`` or its folder. Solved gains are the conjugates, because conversion
    to a Measurement Set conjugates the visibilities.
    """
    path = solved / "gains.npz" if solved.is_dir() else solved
    with np.load(truth) as t, np.load(path) as s:
        order = [list(t["antennas"]).index(name) for name in s["antennas"]]
        injected = _onto(t["frequencies_hz"], t["gains"][order], s["frequencies_hz"])
        ratio = np.where(s["flags"], np.nan, s["gains"].conj() / injected)
    common = np.nanmean(ratio / np.abs(ratio), axis=0, keepdims=True)
    ratio = ratio * (common / np.abs(common)).conj()
    band = np.nanmean(ratio, axis=1)
    return GainComparison(
        channel_amplitude=float(np.nanstd(np.abs(ratio))),
        channel_phase_deg=float(np.degrees(np.nanstd(np.angle(ratio)))),
        amplitude_mean=float(np.nanmean(np.abs(ratio))),
        band_amplitude=float(np.nanstd(np.abs(band))),
        band_phase_deg=float(np.degrees(np.nanstd(np.angle(band)))),
        flagged_fraction=float(np.isnan(ratio).mean()),
    )


def _onto(
    fine_hz: NDArray[np.float64], gains: NDArray[np.complex128], coarse_hz: NDArray[np.float64]
) -> NDArray[np.complex128]:
    """Means of fine channels around each coarse one; shapes (ant, chan, pol)."""
    nearest = np.abs(fine_hz[:, None] - coarse_hz[None, :]).argmin(axis=1)
    return np.stack([gains[:, nearest == c].mean(axis=1) for c in range(len(coarse_hz))], axis=1)


@dataclass(frozen=True, slots=True)
class SourceComparison:
    """The sources that an image must reproduce, and their largest errors."""

    n_sources: int
    n_missing: int
    flux_error_max: float
    """Largest relative error of a flux."""
    position_error_max_arcsec: float
    rows: tuple[SourceCheck, ...]

    def within(self, flux: float = 0.06, position_arcsec: float = 1.5) -> bool:
        """Whether every source is detected, with flux and position within the limits."""
        return (
            self.n_sources > 0
            and self.n_missing == 0
            and self.flux_error_max <= flux
            and self.position_error_max_arcsec <= position_arcsec
        )


FLUX_MIN_JY = 0.5
"""Fainter sources say little about an image of the demo."""


def compare_sources(
    sources: Sequence[SourceCheck], flux_min_jy: float = FLUX_MIN_JY
) -> SourceComparison:
    """Judge the source table of the ``validate`` stage for sources at least this bright."""
    rows = tuple(row for row in sources if row.flux_jy >= flux_min_jy)
    detected = [(row, row.measured_jy) for row in rows if row.measured_jy is not None]
    ratios = np.array([measured / row.flux_jy for row, measured in detected])
    errors = np.array([row.position_error_arcsec for row, _ in detected], dtype=float)
    return SourceComparison(
        n_sources=len(rows),
        n_missing=len(rows) - len(detected),
        flux_error_max=float(np.abs(ratios - 1.0).max()) if detected else float("inf"),
        position_error_max_arcsec=float(errors.max()) if detected else float("inf"),
        rows=rows,
    )
