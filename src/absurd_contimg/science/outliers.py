"""Outliers in time and frequency, one baseline at a time: interference, and correlator mistakes.

The method of CASA's tfcrop (mean spectrum, piecewise polynomials, a line over time, cut-offs in
standard deviations), on arrays; tfcrop itself is the oracle in the tests.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_PIECES_MAX = 7
"""Of the spectrum, as in tfcrop."""
_PIECE_CHANNELS_MIN = 8
_PIECE_DEGREE = 3
_ROUNDS = 5
"""Of clipping: what an outlier hides is found when it is gone."""
_FIT_SIGMA = 3.0
_SIGMA_OF_MAD = 1.4826
_SMALLEST_OF_MEAN = 0.01
"""What a fit may fall to, relative to the mean."""
_SINGULAR = 1e-6
"""Of a fit's matrix, where hardly any channel is left; its values are flagged anyway."""
_BASELINES_AT_ONCE = 64
"""So that a block's arrays stay in the processor's cache."""

_Reals = NDArray[np.float32]
_Flags = NDArray[np.bool_]


def rows_by_time(
    times: NDArray[np.float64], first: NDArray[np.integer], second: NDArray[np.integer]
) -> NDArray[np.intp]:
    """The row of each integration (seconds) and pair of antennas; -1 where there is none."""
    _, integration = np.unique(np.round(times, 3), return_inverse=True)
    _, baseline = np.unique(np.stack([first, second]), axis=1, return_inverse=True)
    baseline = baseline.ravel()
    rows = np.full((int(integration.max()) + 1, int(baseline.max()) + 1), -1)
    rows[integration, baseline] = np.arange(len(times))
    return rows


def flag_outliers(
    amplitudes: _Reals, flags: _Flags, rows: NDArray[np.intp], cutoff_sigma: float
) -> None:
    """Flag, in place, what stands out from its own baseline by more than `cutoff_sigma`.

    `amplitudes` and `flags` have the shape (rows, channels, products). `rows` has the row of each
    integration and baseline, or -1 where there is none.
    """
    for first in range(0, rows.shape[1], _BASELINES_AT_ONCE):
        of_block = rows[:, first : first + _BASELINES_AT_ONCE]
        present = of_block >= 0
        good = ~flags[of_block] & present[..., None, None]
        # From (times, baselines, channels, products) to series of (times, channels).
        order = (1, 3, 0, 2)
        shape = np.array(good.shape)[list(order)]
        series = (shape[0] * shape[1], shape[2], shape[3])
        good = np.ascontiguousarray(good.transpose(order)).reshape(series)
        values = np.ascontiguousarray(amplitudes[of_block].transpose(order)).reshape(series)
        _clip_series(values, good, cutoff_sigma)
        good = good.reshape(shape).transpose(2, 0, 3, 1)
        flags[of_block[present]] |= ~good[present]


def _clip_series(values: _Reals, good: _Flags, cutoff_sigma: float) -> None:
    """Lower `good` in place; `values` (series, times, channels) are used up."""
    values[~good] = 0.0
    weights = good.sum(axis=1, dtype=np.float32)
    spectrum = values.sum(axis=1) / np.maximum(weights, 1.0)
    count = values.shape[2]
    pieces = max(1, min(_PIECES_MAX, count // _PIECE_CHANNELS_MIN))
    edges = np.linspace(0, count, pieces + 1).astype(int)
    for first, end in pairwise(edges):
        part = slice(first, end)
        spectrum[:, part] = _smooth(spectrum[:, part], weights[:, part] > 0, _PIECE_DEGREE)
    values /= spectrum[:, None, :]
    _clip(values, good, cutoff_sigma)
    weights = good.sum(axis=2, dtype=np.float32)
    over_time = values.sum(axis=2) / np.maximum(weights, 1.0)
    values /= _smooth(over_time, weights > 0, 1)[:, :, None]
    _clip(values, good, cutoff_sigma)


def _clip(values: _Reals, good: _Flags, cutoff_sigma: float) -> None:
    """Lower `good`, and clear the values, of what is too far from the mean of its series."""
    changed = np.arange(len(values))
    for _ in range(_ROUNDS):
        now, usable = values[changed], good[changed]
        count = np.maximum(usable.sum(axis=(1, 2), dtype=np.float32), 1.0)
        mean = now.sum(axis=(1, 2)) / count
        now -= mean[:, None, None]
        now[~usable] = 0.0
        limit = cutoff_sigma * np.sqrt(np.einsum("stc,stc->s", now, now) / count)
        bad = np.abs(now) > limit[:, None, None]
        hit = bad.any(axis=(1, 2))
        if not hit.any():
            return
        changed = changed[hit]
        usable = usable[hit] & ~bad[hit]
        good[changed] = usable
        values[changed] *= usable


def _smooth(values: _Reals, good: _Flags, degree: int) -> _Reals:
    """A polynomial along each row, fitted to its good places without outliers."""
    places = np.linspace(-1.0, 1.0, values.shape[1])
    basis = np.polynomial.legendre.legvander(places, degree)
    products = (basis[:, :, None] * basis[:, None, :]).reshape(len(places), -1)
    ridge = _SINGULAR * np.eye(degree + 1)
    good = _near(values - _median(values, good), good)  # else the fit might follow an outlier
    for _ in range(_ROUNDS):
        weights = good.astype(np.float64)
        matrix = (weights @ products).reshape(len(values), degree + 1, degree + 1) + ridge
        right = (weights * values) @ basis
        fit = np.linalg.solve(matrix, right[..., None])[..., 0] @ basis.T
        kept = _near(values - fit, good)
        if np.array_equal(kept, good):
            break
        good = kept
    used = np.maximum(weights.sum(axis=1), 1.0)
    mean = (values * weights).sum(axis=1) / used
    smallest = np.maximum(_SMALLEST_OF_MEAN * mean, np.finfo(np.float32).tiny)
    return np.asarray(np.maximum(fit, smallest[:, None]), np.float32)


def _near(deviation: NDArray[np.floating], good: _Flags) -> _Flags:
    """What is good, and near to zero compared with the others of its row."""
    deviation = np.abs(deviation)
    near: _Flags = deviation <= _FIT_SIGMA * _SIGMA_OF_MAD * _median(deviation, good)
    return good & near


def _median(values: NDArray[np.floating], good: _Flags) -> NDArray[np.floating]:
    """Of the good values of each row, the larger one of two in the middle; as a column."""
    ordered = np.sort(np.where(good, values, np.inf), axis=1)
    return np.take_along_axis(ordered, good.sum(axis=1, keepdims=True) // 2, axis=1)
