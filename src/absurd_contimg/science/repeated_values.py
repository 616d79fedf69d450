"""Visibilities that repeat one number, as of a stuck node, a test pattern or a file never filled.

Each visibility has noise of its own, so what is exactly the same at all times of a baseline, or on
all baselines at a time, was not measured.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.science.raw_file import RawHeader

_BASELINES_MIN = 3
"""Fewer may agree by chance, in the whole numbers of a fixed-point correlator."""
_SAMPLE = 16
"""Baselines that are looked at first: if they differ at a time, the others need no look."""

Mask = NDArray[np.bool_]


def flag_repeated_values(header: RawHeader, data: Any, flags: Mask, samples: Any) -> float:
    """Flag what repeats, and set it to zero, in what `read_visibilities` gives; the share of it.

    The share is of all visibilities between two antennas. Each channel and product is judged on its
    own, by what is not flagged. With noise this looks at two integrations and a few baselines.
    """
    rows = _cross_rows(header)
    n_repeated = 0

    def flag(where: NDArray[np.int64], repeats: Mask) -> None:
        nonlocal n_repeated
        new = repeats & ~flags[where]
        n_repeated += int(new.sum())
        flags[where] |= new
        data[where] = np.where(new, 0, data[where])
        samples[where] = np.where(new, 0, samples[where])

    baselines, repeats = _repeats_in_time(data, flags, rows)
    for at_time in rows[:, baselines] if repeats.any() else ():
        flag(at_time, repeats)
    for at_time in rows:
        if (same := _repeats_over_baselines(data, flags, at_time)).any():
            flag(at_time, same)
    return n_repeated / (rows.size * math.prod(header.shape[1:]))


def _cross_rows(header: RawHeader) -> NDArray[np.int64]:
    """Rows between two antennas, shape (integrations, baselines)."""
    number, middles = header.integrations()
    low, high = np.minimum(header.first, header.second), np.maximum(header.first, header.second)
    cross = np.flatnonzero(low != high)
    order = cross[np.lexsort((high[cross], low[cross], number[cross]))]
    return np.asarray(order.reshape(len(middles), -1))


def _repeats_in_time(
    data: Any, flags: Mask, rows: NDArray[np.int64]
) -> tuple[NDArray[np.intp], Mask]:
    """Baselines (places in `rows`) and, of each, the cells that never change over two or more."""
    baselines = np.arange(rows.shape[1])
    first = data[rows[0]]
    counts = (~flags[rows[0]]).astype(np.int16)
    repeats = np.ones(first.shape, bool)
    for at_time in rows[1:]:
        values, bad = data[at_time[baselines]], flags[at_time[baselines]]
        first = np.where(counts == 0, values, first)
        repeats &= bad | (values == first)
        counts += ~bad
        if not (left := repeats.any(axis=(1, 2))).all():
            baselines, first, counts, repeats = (
                each[left] for each in (baselines, first, counts, repeats)
            )
    return baselines, repeats & (counts > 1)


def _repeats_over_baselines(data: Any, flags: Mask, at_time: NDArray[np.int64]) -> Mask:
    """Of each channel and product, whether all baselines hold the same at a time."""
    step = max(1, len(at_time) // _SAMPLE)
    if not _all_same(data[at_time[::step]], flags[at_time[::step]]).any():
        return np.zeros(data.shape[1:], bool)
    bad = flags[at_time]
    enough = (~bad).sum(axis=0) >= _BASELINES_MIN
    return np.asarray(_all_same(data[at_time], bad) & enough)


def _all_same(values: Any, bad: Mask) -> Mask:
    """Along the first axis, of what is not bad."""
    first = np.take_along_axis(values, np.argmin(bad, axis=0)[None], axis=0)
    return np.asarray((bad | (values == first)).all(axis=0))
