"""Measurement Sets through CASA, loaded when called: arrays (polarisations, channels, rows)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.errors import CorruptInputError, MissingInputError
from absurd_contimg.whole_files import copy_folder

_CHUNK_VALUES = 8_000_000
"""Visibilities held at once when a whole column is read."""


def check_table(
    path: Path,
    kind: str = "Measurement Set",
    remedy: str = "Run the group again from the stage that makes it.",
) -> None:
    """Raise `MissingInputError` if a table is not on disk."""
    if not (path / "table.dat").is_file():
        raise MissingInputError(f"the {kind} {path} is missing or has no table.dat.", remedy)


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


def working_copy(path: Path, folder: Path) -> Path:
    """A copy that tasks can write: with a read-only table CASA fails even to solve."""
    copy = folder / path.name
    copy_folder(path, copy)
    return copy


def row_chunks(n_rows: int, values_per_row: int) -> Iterator[tuple[int, int]]:
    """(first row, number of rows) of pieces small enough to be held in memory."""
    step = max(1, _CHUNK_VALUES // max(1, values_per_row))
    for first in range(0, n_rows, step):
        yield first, min(step, n_rows - first)


@dataclass(frozen=True, slots=True)
class FlagCounts:
    """Flagged fractions of all, of antennas with data, of channels; what is left by MJD."""

    total: float
    by_antenna: Mapping[str, float]
    by_time: Mapping[float, float]
    """Unflagged fraction of each integration."""
    by_channel: NDArray[np.float64]


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
    steps, index = np.unique(np.round(times, 7), return_inverse=True)
    good = 1.0 - np.bincount(index, flagged) / np.bincount(index)
    return FlagCounts(
        total=float(flagged.mean()),
        by_antenna={name: float(bad[i] / n[i]) for i, name in enumerate(names) if n[i]},
        by_time={float(t): float(g) for t, g in zip(steps, good, strict=True)},
        by_channel=channels / len(flagged),
    )


def whole_subbands(channels: NDArray[np.bool_], n_subbands: int) -> tuple[int, ...]:
    """The sub-bands all of whose channels are set; channels ascend in frequency, 0 is the last."""
    by_subband = channels.reshape(n_subbands, -1)[::-1]
    return tuple(i for i, part in enumerate(by_subband) if part.all())


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
    divisors = (k for k in range(1, most + 1) if n_channels % k == 0)
    return max(k for k in divisors if k == 1 or k * width_hz <= width_max_hz)
