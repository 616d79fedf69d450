"""Measurement Sets: what a stage says about one, and how its columns are read and checked.

`MeasurementSet` is the JSON that travels between stages. The functions below it open tables
through casatools and are for child processes; import this module anywhere, it loads CASA only
when they are called. Arrays have CASA's order: (polarisations, channels, rows).
"""

# CASA, pyuvdata and astropy take seconds to import and may be missing: where they are used.
# ruff: noqa: PLC0415

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.core.records import Json
from absurd_contimg.errors import CorruptInputError, InputError, MissingInputError
from absurd_contimg.products.files import copy_writable

_CHUNK_VALUES = 8_000_000
"""Visibilities held at once when a whole column is read."""


@dataclass(frozen=True, slots=True)
class MeasurementSet:
    """One Measurement Set of one group, phased to one centre."""

    path: str
    beam_centres: str
    """JSON file of `beam.BeamCentres`."""
    n_rows: int
    n_channels: int
    channel_width_hz: float
    """As converted, before the data were rephased; averaging after calibration leaves it."""
    n_antennas: int
    start_mjd: float
    end_mjd: float
    mid_mjd: float
    ra_deg: float
    """Phase centre, ICRS."""
    dec_deg: float
    declination_deg: float
    """Apparent declination of the strip."""
    stand_ins: tuple[int, ...] = ()
    """Sub-bands that were missing and are there as flagged zeros."""
    flagged_fraction: float = 0.0

    def to_json(self) -> dict[str, Json]:
        """For a stage's outputs."""
        return {**asdict(self), "stand_ins": list(self.stand_ins)}

    @classmethod
    def from_outputs(cls, outputs: Mapping[str, Json], name: str) -> Self:
        """The Measurement Set that an earlier stage provided under this name."""
        data = outputs[name]
        if not isinstance(data, Mapping):
            raise InputError(f"the output {name} describes no Measurement Set but is {data!r}.")
        known: dict[str, Any] = {f.name: data[f.name] for f in fields(cls) if f.name in data}
        one = cls(**{**known, "stand_ins": tuple(known.get("stand_ins", ()))})
        if not (Path(one.path) / "table.dat").is_file():
            raise MissingInputError(
                f"the Measurement Set {one.path} is missing or has no table.dat.",
                "Run the group again from the stage that makes it.",
            )
        return one

    def moved(self, **changes: Any) -> Self:
        """A copy with other values."""
        return replace(self, **changes)


@contextmanager
def open_table(path: Path, *, writable: bool = False) -> Iterator[Any]:
    """A casacore table through casatools, closed at the end."""
    from casatools import table

    tool = table()
    if not tool.open(str(path), nomodify=not writable):
        raise CorruptInputError(f"the table {path} cannot be opened.", "Make it again.")
    try:
        yield tool
    finally:
        tool.close()
        tool.done()


def working_copy(ms: MeasurementSet, folder: Path) -> Path:
    """Copy a committed Measurement Set to a folder, where tasks may write into it."""
    return copy_writable(Path(ms.path), folder / Path(ms.path).name)


def row_chunks(n_rows: int, values_per_row: int) -> Iterator[tuple[int, int]]:
    """(first row, number of rows) of pieces small enough to be held in memory."""
    step = max(1, _CHUNK_VALUES // max(1, values_per_row))
    for first in range(0, n_rows, step):
        yield first, min(step, n_rows - first)


@dataclass(frozen=True, slots=True)
class FlagCounts:
    """How much of a Measurement Set is flagged."""

    total: float
    """Fraction of all visibilities."""
    by_antenna: Mapping[str, float]
    """Fraction of each antenna's visibilities, for antennas that have any."""
    by_time: Mapping[float, float]
    """Unflagged fraction of each integration, by its MJD."""
    by_channel: NDArray[np.float64]
    """Fraction of each channel."""


def count_flags(path: Path) -> FlagCounts:
    """Read FLAG and FLAG_ROW of all rows."""
    with open_table(path / "ANTENNA") as antennas:
        names = [str(n) for n in antennas.getcol("NAME")]
    with open_table(path) as main:
        first, second = main.getcol("ANTENNA1"), main.getcol("ANTENNA2")
        times = main.getcol("TIME") / 86400.0
        row_flags = main.getcol("FLAG_ROW")
        shape = main.getcell("FLAG", 0).shape
        flagged, channels = np.empty(main.nrows()), np.zeros(shape[1])
        for start, count in row_chunks(main.nrows(), int(np.prod(shape))):
            flags = main.getcol("FLAG", start, count) | row_flags[start : start + count]
            flagged[start : start + count] = flags.mean(axis=(0, 1))
            channels += flags.mean(axis=0).sum(axis=1)
    n = np.bincount(first, minlength=len(names)) + np.bincount(second, minlength=len(names))
    bad = np.bincount(first, flagged, len(names)) + np.bincount(second, flagged, len(names))
    steps, which = np.unique(np.round(times, 7), return_inverse=True)
    good = 1.0 - np.bincount(which, flagged) / np.bincount(which)
    return FlagCounts(
        total=float(flagged.mean()),
        by_antenna={name: float(bad[i] / n[i]) for i, name in enumerate(names) if n[i]},
        by_time={float(t): float(g) for t, g in zip(steps, good, strict=True)},
        by_channel=channels / len(flagged),
    )


def channel_frequencies(path: Path) -> NDArray[np.float64]:
    """Channel centres in Hz of the one spectral window."""
    with open_table(path / "SPECTRAL_WINDOW") as window:
        if window.nrows() != 1:
            raise CorruptInputError(
                f"{path} has {window.nrows()} spectral windows instead of one.",
                "Convert the group again.",
            )
        return np.asarray(window.getcell("CHAN_FREQ", 0), dtype=float)


def divisor_up_to(n_channels: int, most: int, width_hz: float, width_max_hz: float) -> int:
    """How many channels to average: the largest divisor within both limits, at least 1."""
    fitting = [
        k
        for k in range(1, most + 1)
        if n_channels % k == 0 and (k == 1 or k * width_hz <= width_max_hz)
    ]
    return max(fitting)
