"""Which antennas, parts of the band and baselines of a Measurement Set have unflagged data.

As a program (``python -m``) it reads paths from standard input and writes a line of JSON for each.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from absurd_contimg.errors import UserError
from absurd_contimg.science.measurement_set import (
    channel_frequencies,
    count_flags,
    open_table,
    row_chunks,
)

_PARTS = 16
_SAMPLE = 600
_LIGHT_M_PER_S = 299_792_458.0


@dataclass(frozen=True, slots=True)
class FlagFigures:
    """Fractions, counts of baselines without autocorrelations, and lengths in wavelengths."""

    by_antenna: Mapping[str, float]
    by_part: tuple[float, ...]
    """Of the band, in 16 equal parts, ascending in frequency; fewer for fewer channels."""
    baselines: int
    unflagged_baselines: int
    longest_wavelengths: float | None
    """Of the unflagged baselines, projected, mean over the observation."""
    gap_wavelengths: float | None
    """The largest step between neighbouring lengths of theirs."""
    uv_wavelengths: tuple[tuple[float, float], ...]
    """A sample: (u, v) of unflagged baselines, mean over the observation."""


def measure_flags(ms: Path) -> FlagFigures:
    """Read the flags and coordinates of all rows; `CorruptInputError` if that is not possible."""
    counts = count_flags(ms)
    with open_table(ms) as main:
        first, second = main.getcol("ANTENNA1"), main.getcol("ANTENNA2")
        uvw, row_flags = main.getcol("UVW"), main.getcol("FLAG_ROW")
        usable = np.zeros(main.nrows(), dtype=bool)
        shape = main.getcell("FLAG", 0).shape
        for start, number in row_chunks(main.nrows(), int(np.prod(shape))):
            flags = main.getcol("FLAG", start, number)
            usable[start : start + number] = ~flags.all(axis=(0, 1))
    usable &= ~row_flags
    cross = first != second
    pairs, index = np.unique(np.stack([first[cross], second[cross]]), axis=1, return_inverse=True)
    index = np.asarray(index).ravel()
    n = pairs.shape[1]
    left = np.bincount(index, usable[cross], n) > 0
    rows = np.bincount(index, minlength=n)
    wavelength = _LIGHT_M_PER_S / float(channel_frequencies(ms).mean())
    u, v = (np.bincount(index, uvw[axis][cross], n) / rows / wavelength for axis in (0, 1))
    lengths = np.sort(np.hypot(u, v)[left])
    sample = np.flatnonzero(left)
    sample = sample[:: max(1, len(sample) // _SAMPLE)]
    parts = np.array_split(counts.by_channel, min(_PARTS, len(counts.by_channel)))
    return FlagFigures(
        by_antenna=counts.by_antenna,
        by_part=tuple(float(part.mean()) for part in parts),
        baselines=n,
        unflagged_baselines=int(left.sum()),
        longest_wavelengths=float(lengths[-1]) if len(lengths) else None,
        gap_wavelengths=float(np.diff(lengths).max()) if len(lengths) > 1 else None,
        uv_wavelengths=tuple((round(float(u[k]), 1), round(float(v[k]), 1)) for k in sample),
    )


def main() -> None:
    """Answer each path of standard input at once: what was read stays when this process dies."""
    for line in sys.stdin.buffer:
        path = Path(os.fsdecode(line.rstrip(b"\n")))
        print(json.dumps(_answer(path)), flush=True)


def _answer(path: Path) -> dict[str, Any]:
    try:
        figures = measure_flags(path)
    except ImportError as error:
        return {"problem": f"{error.name} is not installed: the extra casa has it"}
    except (RuntimeError, OSError, ValueError, UserError) as error:
        return {"problem": f"the Measurement Set {path} cannot be read: {error}"}
    return {
        "flagged_by_antenna": dict(figures.by_antenna),
        "flagged_by_subband": figures.by_part,
        "baselines": figures.baselines,
        "unflagged_baselines": figures.unflagged_baselines,
        "longest_wavelengths": figures.longest_wavelengths,
        "gap_wavelengths": figures.gap_wavelengths,
        "uv_wavelengths": figures.uv_wavelengths,
    }


if __name__ == "__main__":
    main()
