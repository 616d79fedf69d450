"""Calibration tables for the antennas of another Measurement Set.

CASA applies solutions by the antennas' rows in the ANTENNA table and never compares names. These
rows differ between groups: an antenna without data in one of them shifts all that follow it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.errors import DataQualityError
from absurd_contimg.science.antenna_names import station_name
from absurd_contimg.science.measurement_set import open_table, working_copy

_SAME_POSITION_M = 0.05
"""A quarter of a wavelength: solutions hold the phases of the positions used to solve."""


@dataclass(frozen=True, slots=True, eq=False)
class Antennas:
    """An ANTENNA table in the order of its rows: stations, positions (antennas, 3) in metres."""

    names: tuple[str, ...]
    positions_m: NDArray[np.float64]

    @classmethod
    def read(cls, path: Path) -> Antennas:
        """Of a Measurement Set or a calibration table."""
        with open_table(path / "ANTENNA") as table:
            names = tuple(station_name(str(name)) for name in table.getcol("NAME"))
            return cls(names, np.asarray(table.getcol("POSITION")).T)


def match_antennas(solved: Antennas, observed: Antennas) -> NDArray[np.int32]:
    """The row among the observed antennas of each solved antenna; -1 without such an antenna.

    An antenna that has moved against the others counts as another: its solutions do not fit.
    """
    rows = {name: row for row, name in enumerate(observed.names)}
    matches = np.array([rows.get(name, -1) for name in solved.names], dtype=np.int32)
    common = np.flatnonzero(matches >= 0)
    if len(common):
        shifts = observed.positions_m[matches[common]] - solved.positions_m[common]
        # What all antennas share changes no baseline.
        moved = np.linalg.norm(shifts - np.median(shifts, axis=0), axis=1) > _SAME_POSITION_M
        matches[common[moved]] = -1
    return matches


def matched_table(table: Path, ms: Path, folder: Path, antennas_min: int) -> Path:
    """The calibration table if its antennas are those of `ms`, else a renumbered copy in `folder`.

    Antennas of `ms` without solutions have no rows in the copy, so that ``applycal`` flags them
    (measured). `DataQualityError` if some have none, and fewer than `antennas_min` have solutions.
    """
    solved, observed = Antennas.read(table), Antennas.read(ms)
    matches = match_antennas(solved, observed)
    n_matched = int((matches >= 0).sum())
    if n_matched < min(antennas_min, len(observed.names)):
        raise DataQualityError(
            f"{table.name} has solutions for {n_matched} of the {len(observed.names)} antennas of "
            f"{ms.name}, by name and position, fewer than calibration.antennas_min {antennas_min}.",
            "Use a set that was solved with the same antennas at the same places.",
        )
    if np.array_equal(matches, np.arange(len(observed.names))):
        return table
    copy = working_copy(table, folder)
    with open_table(copy, writable=True) as main:
        first, reference = main.getcol("ANTENNA1"), main.getcol("ANTENNA2")
        main.putcol("ANTENNA1", matches[first])
        main.putcol("ANTENNA2", np.where(reference >= 0, matches[reference], -1).astype(np.int32))
        gone = np.flatnonzero(matches[first] < 0).tolist()
        if gone:
            main.removerows(gone)
    with open_table(copy / "ANTENNA", writable=True) as antennas:
        antennas.removerows(list(range(antennas.nrows())))
    with open_table(ms / "ANTENNA") as antennas:
        antennas.copyrows(str(copy / "ANTENNA"))
    return copy
