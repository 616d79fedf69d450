"""Calibration tables as arrays: reading, quality, export of the total gains."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.config import CalibrationConfig
from absurd_contimg.errors import DataQualityError, OutputError
from absurd_contimg.products.outputs import SolutionQuality
from absurd_contimg.science.measurement_set import open_table


@dataclass(frozen=True, slots=True)
class Solutions:
    """One caltable: means over its intervals, shape (antennas, channels, polarisations)."""

    antennas: tuple[str, ...]
    gains: NDArray[np.complex128]
    flags: NDArray[np.bool_]


def read_solutions(path: Path, remedy: str) -> Solutions:
    """Read a caltable; `OutputError` if it is not finite.

    `DataQualityError` if it is empty or absent: CASA leaves it so when nothing can be solved.
    """
    if not (path / "table.dat").is_file():
        raise DataQualityError(f"CASA found no solutions and made no table {path.name}.", remedy)
    with open_table(path / "ANTENNA") as antennas:
        names = tuple(str(n) for n in antennas.getcol("NAME"))
    with open_table(path) as main:
        if main.nrows() == 0:
            raise DataQualityError(f"the calibration table {path.name} has no solutions.", remedy)
        index = main.getcol("ANTENNA1")
        values = main.getcol("CPARAM").transpose(2, 1, 0)
        flags = main.getcol("FLAG").transpose(2, 1, 0)
    if not np.isfinite(values[~flags]).all():
        raise OutputError(f"the calibration table {path.name} has solutions that are not finite.")
    gains = np.ones((len(names), *values.shape[1:]), np.complex128)
    flagged = np.ones(gains.shape, dtype=bool)
    for antenna in range(len(names)):
        rows = index == antenna
        good = ~flags[rows]
        count = good.sum(axis=0)
        flagged[antenna] = count == 0
        total = np.where(good, values[rows], 0).sum(axis=0)
        gains[antenna] = np.where(count > 0, total / np.maximum(count, 1), 1.0)
    return Solutions(names, gains, flagged)


def with_flags(interpolation: str) -> str:
    """This interpolation in time, and in frequency one in which data without solutions are flagged.

    On the same channels just those are flagged, on others also data next to them (measured).
    """
    return f"{interpolation},linearflag"


def measure_quality(
    bandpass: Solutions, gains: Solutions, antennas: Collection[str], channels: NDArray[np.bool_]
) -> SolutionQuality:
    """Figures of a bandpass and gain table, for the antennas and channels that have data."""
    chosen = [i for i, name in enumerate(bandpass.antennas) if name in antennas]
    all_flags = (bandpass.flags | gains.flags)[chosen]
    flags = all_flags[:, channels]
    values = np.where(flags, np.nan, bandpass.gains[chosen][:, channels])
    amplitude, phase = _channel_scatter(values)
    unsolved = np.all(flags, axis=(1, 2)).tolist()
    return SolutionQuality(
        n_antennas=int((flags.mean(axis=(1, 2)) < 0.5).sum()),
        flagged_fraction=round(float(all_flags.mean()), 6),
        flagged_with_data=round(float(flags.mean()), 6),
        amplitude_scatter=round(amplitude, 6),
        phase_scatter_deg=round(phase, 6),
        unsolved_antennas=tuple(
            bandpass.antennas[i] for i, without in zip(chosen, unsolved, strict=True) if without
        ),
    )


def _channel_scatter(values: NDArray[np.complex128]) -> tuple[float, float]:
    """Noise of a smooth band: second differences of neighbouring channels, over sqrt(6).

    Second differences take out slopes, which delays make. NaN with fewer than three channels.
    """
    if values.shape[1] < 3:
        return float("nan"), float("nan")
    before, here, after = values[:, :-2], values[:, 1:-1], values[:, 2:]
    # Each channel over the geometric mean of its neighbours.
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.log(here / before) - np.log(after / here)
    turned = (ratio.imag + np.pi) % (2.0 * np.pi) - np.pi
    good = np.isfinite(ratio)
    count = good.sum(axis=1)
    if not count.any():
        return float("nan"), float("nan")

    def scatter(values: NDArray[np.float64]) -> float:
        total = np.where(good, values**2, 0.0).sum(axis=1)
        return float(np.median(np.sqrt(total[count > 0] / count[count > 0] / 6.0)))

    return scatter(ratio.real), math.degrees(scatter(turned))


def check_quality(quality: SolutionQuality, settings: CalibrationConfig, origin: str) -> None:
    """Raise `DataQualityError` for the first gate that fails; scatter of NaN passes."""
    gates = (
        ("antennas_min", -quality.n_antennas, -settings.antennas_min),
        ("flagged_fraction_max", quality.flagged_with_data, settings.flagged_fraction_max),
        ("amplitude_scatter_max", quality.amplitude_scatter, settings.amplitude_scatter_max),
        ("phase_scatter_max_deg", quality.phase_scatter_deg, settings.phase_scatter_max_deg),
    )
    for setting, value, limit in gates:
        if value > limit:
            raise DataQualityError(
                f"the solutions from {origin} are not good enough: {abs(value):.4g} against "
                f"calibration.{setting} {abs(limit):.4g}.",
                "Use another calibrator or the nearest older set; see the CASA log for the cause.",
            )


def export_gains(
    path: Path, bandpass: Solutions, gains: Solutions, frequencies_hz: NDArray[np.float64]
) -> None:
    """Write both tables' product as ``.npz``: gains and flags (antennas, channels, 2), and axes."""
    np.savez(
        path,
        antennas=np.array(bandpass.antennas),
        frequencies_hz=frequencies_hz,
        gains=bandpass.gains * gains.gains,
        flags=bandpass.flags | gains.flags,
    )
