"""Outliers in time and frequency, for each baseline and hand: interference, correlator mistakes.

The search of CASA's tfcrop, step by step, on arrays of many baselines: a sixth of its time. The
tests compare their flags. It differs in one case: where a whole piece of the spectrum has no data,
tfcrop's fit is no number and it searches the baseline in time alone; here the piece is filled in.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_ROUNDS = ((1, 1, 3.0), (3, 1, 3.0), (5, 2, 2.0), (7, 3, 2.0), (7, 3, 2.0))
"""Of fitting a mean spectrum: pieces, their degree, and the cut-off above the fit in sigma.

With `_LINE`, what tfcrop does by default: maxnpieces 7, freqfit poly, timefit line."""
_LINE = ((1, 1, 3.0), (1, 1, 3.0), (1, 1, 2.0), (1, 1, 2.0), (1, 1, 2.0))
"""Of fitting what is left over time."""
_SMOOTHED = 2
"""Channels on either side of one that a fit is averaged over."""
_CLIPS = 5
"""At most: what an outlier hides appears when it is gone."""
_UNCHANGED = 0.1
"""Clipping ends when the standard deviation changed by less, in units of the fit."""
_BASELINES_AT_ONCE = 128

_Values = NDArray[np.floating]
_Flags = NDArray[np.bool_]
_Rounds = tuple[tuple[int, int, float], ...]


def rows_by_time(
    times: NDArray[np.float64], first: NDArray[np.integer], second: NDArray[np.integer]
) -> NDArray[np.intp]:
    """The row of each integration (seconds) and pair of antennas; -1 where there is none."""
    _, integration = np.unique(np.round(times, 3), return_inverse=True)
    pairs = first.astype(np.int64) * (int(second.max()) + 1) + second
    _, baseline = np.unique(pairs, return_inverse=True)
    rows = np.full((int(integration.max()) + 1, int(baseline.max()) + 1), -1)
    rows[integration, baseline] = np.arange(len(times))
    return rows


def flag_outliers(
    amplitudes: NDArray[np.float32], flags: _Flags, rows: NDArray[np.intp], cutoff_sigma: float
) -> None:
    """Flag, in place, what stands out from its own baseline by more than `cutoff_sigma`.

    `amplitudes` and `flags` have the shape (rows, channels, products). `rows` has the row of each
    integration and baseline, or -1 where there is none.
    """
    for start in range(0, rows.shape[1], _BASELINES_AT_ONCE):
        of_block = rows[:, start : start + _BASELINES_AT_ONCE]
        present = of_block >= 0
        # (times, baselines, channels, products): baselines and products side by side, at the end.
        good = (~flags[of_block] & present[..., None, None]).transpose(0, 2, 1, 3)
        shape, series = good.shape, (*good.shape[:2], -1)
        good = np.ascontiguousarray(good).reshape(series)
        values = np.ascontiguousarray(amplitudes[of_block].transpose(0, 2, 1, 3)).reshape(series)
        good = _without_outliers(values, good, cutoff_sigma, _ROUNDS)
        by_time = good.transpose(1, 0, 2), values.transpose(1, 0, 2)
        good = _without_outliers(by_time[1], by_time[0], cutoff_sigma, _LINE).transpose(1, 0, 2)
        flags[of_block[present]] |= ~good.reshape(shape).transpose(0, 2, 1, 3)[present]


def _without_outliers(
    values: _Values, good: _Flags, cutoff_sigma: float, rounds: _Rounds
) -> _Flags:
    """What stays good of the shape (other axis, axis of the fit, series)."""
    np.copyto(values, 0.0, where=~good)
    count = good.sum(axis=0, dtype=np.float32)
    mean = values.sum(axis=0) / np.maximum(count, np.float32(1.0))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        fit = _fit(mean.astype(np.float64), count > 0, rounds).astype(np.float32)
        squares = np.ascontiguousarray((values / fit - np.float32(1.0)).swapaxes(0, 1))
        squares *= squares
        kept = np.array(good.swapaxes(0, 1), order="C")
        length = len(squares)
        _clip(squares.reshape(length, -1), kept.reshape(length, -1), np.float32(cutoff_sigma))
    return kept.swapaxes(0, 1)


def _clip(squares: _Values, good: _Flags, cutoff_sigma: np.float32) -> None:
    """Lower `good`, in place, in columns of squared deviations (used up)."""
    columns = np.arange(squares.shape[1])
    np.copyto(squares, 0.0, where=~good)
    count = good.sum(axis=0, dtype=np.float32)
    before = np.zeros(len(columns), np.float32)
    for _ in range(_CLIPS):
        variance = squares.sum(axis=0) / count
        row, place = np.nonzero(squares > cutoff_sigma**2 * variance)
        squares[row, place] = 0.0
        good[row, columns[place]] = False
        count -= np.bincount(place, minlength=len(columns))
        deviation = np.sqrt(variance)
        left = np.abs(before - deviation) >= _UNCHANGED
        if not left.any():
            return
        before, count, columns = deviation[left], count[left], columns[left]
        squares = squares[:, left]


def _fit(values: _Values, good: _Flags, rounds: _Rounds) -> _Values:
    """Piecewise polynomials along the first axis, without what lies above them."""
    values = _filled(values)
    good = good & (values != 0)
    fit = values.copy()
    for pieces, degree, cutoff_sigma in rounds:
        for first, end in pairwise(_edges(len(values), pieces)):
            # The first channel of the next piece belongs to both.
            part = slice(first, end + 1)
            fit[part] = _polynomial(values[part], good[part], degree)
        for place in range(_SMOOTHED, len(fit) - _SMOOTHED):
            # Those before it are smoothed already.
            fit[place] = fit[place - _SMOOTHED : place + _SMOOTHED + 1].mean(axis=0)
        above = values - fit
        deviation = np.where(good, above, 0.0)
        variance = (deviation**2).sum(axis=0) / np.maximum(good.sum(axis=0), 1)
        good = good & ~(above > cutoff_sigma * np.sqrt(variance))
    return fit


def _edges(length: int, pieces: int) -> list[int]:
    """Pieces of equal length; what is left over goes to the first and the last."""
    size, rest = divmod(length, pieces)
    return [0, *(rest // 2 + n * size for n in range(1, pieces)), length]


def _filled(values: _Values) -> _Values:
    """Zeros, which have no data, replaced by the mean of their neighbours."""
    values = values.copy()
    following, later = np.zeros_like(values), np.zeros(values.shape[1])
    for place in reversed(range(len(values))):
        following[place] = later
        later = np.where(values[place] != 0, values[place], later)
    before = following[0]
    for place, nearest in enumerate(following):
        after = np.where(nearest != 0, nearest, before)
        values[place] = np.where(values[place] != 0, values[place], (before + after) / 2.0)
        before = values[place]
    return values


def _polynomial(values: _Values, good: _Flags, degree: int) -> _Values:
    """Of each column, fitted to what is good: a line through too few, the values through one."""
    basis = np.polynomial.legendre.legvander(np.linspace(-1.0, 1.0, len(values)), degree)
    products = (basis[:, :, None] * basis[:, None, :]).reshape(len(values), -1)
    weights = good.astype(np.float64)
    enough = good.sum(axis=0) > degree
    matrix = (products.T @ weights).T.reshape(-1, degree + 1, degree + 1)[enough]
    right = (basis.T @ (weights * values)).T[enough]
    fit = values.copy()
    fit[:, enough] = basis @ np.linalg.solve(matrix, right[..., None])[..., 0].T
    if degree > 1 and not enough.all():
        fit[:, ~enough] = _polynomial(values[:, ~enough], good[:, ~enough], 1)
    return fit
