"""Variability of a light curve, and sources that were not there before.

The statistics are those of VAST and of Mooley et al. (2016): modulation index V and eta over all
epochs, Vs and m of two epochs. Fluxes and errors are in Jy; lists of them go by epoch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class EpochPair:
    """Two epochs compared, by their indices."""

    first: int
    second: int
    vs: float
    """Difference (second less first) over its error."""
    m: float
    """Difference over the mean flux, in [-2, 2]; negative fluxes count as zero."""


@dataclass(frozen=True, slots=True)
class Variability:
    """The statistics of a light curve; None: too few epochs."""

    n_epochs: int
    mean_jy: float | None
    """Weighted by the errors."""
    modulation: float | None
    """V: standard deviation over mean. It contains the noise."""
    eta: float | None
    """Reduced chi-squared of a constant source: about 1 for one."""
    pair: EpochPair | None
    """The two epochs that differ most: among those beyond the gates, if there are any."""
    variable: bool
    """A pair of epochs is beyond both gates."""


@dataclass(frozen=True, slots=True)
class Appearance:
    """A source that is detected now, in the images before."""

    n_images: int
    """Earlier images of the position."""
    sigma_expected: float
    """Its flux over the smallest error of an earlier image: whether it would have been seen."""
    sigma_before: float
    """The largest significance of the flux at its position in an earlier image."""
    new: bool


def modulation_index(fluxes: Sequence[float]) -> float:
    """V: sample standard deviation over the mean; 0 for a mean that is not positive."""
    values = np.asarray(fluxes, dtype=float)
    mean = float(values.mean())
    return float(values.std(ddof=1)) / mean if mean > 0 else 0.0


def eta_statistic(fluxes: Sequence[float], errors: Sequence[float]) -> float:
    """N/(N-1) (<w I^2> - <w I>^2 / <w>) with w = 1/error^2, computed around the mean."""
    values, weights = np.asarray(fluxes, dtype=float), np.asarray(errors, dtype=float) ** -2.0
    deviations = values - np.average(values, weights=weights)  # or rounding would dominate
    return float(np.mean(weights * deviations**2)) * len(values) / (len(values) - 1)


def compare_epochs(
    fluxes: Sequence[float], errors: Sequence[float], first: int, second: int
) -> EpochPair:
    """Vs and m of two epochs."""
    difference = fluxes[second] - fluxes[first]
    vs = difference / math.hypot(errors[first], errors[second])
    low, high = max(fluxes[first], 0.0), max(fluxes[second], 0.0)
    m = 2.0 * (high - low) / (high + low) if high + low > 0 else 0.0
    return EpochPair(first, second, vs, m)


def measure_variability(
    fluxes: Sequence[float], errors: Sequence[float], vs_min: float, m_min: float
) -> Variability:
    """The statistics of one light curve; it is variable with |Vs| >= `vs_min` and |m| > `m_min`.

    Pairs beyond the gates come before others; of several the one with the largest |Vs| is given.
    """
    n_epochs = len(fluxes)
    if n_epochs == 0:
        return Variability(0, None, None, None, None, variable=False)
    weights = np.asarray(errors, dtype=float) ** -2.0
    mean = float(np.average(np.asarray(fluxes, dtype=float), weights=weights))
    if n_epochs == 1:
        return Variability(1, mean, None, None, None, variable=False)

    def beyond(pair: EpochPair) -> bool:
        return abs(pair.vs) >= vs_min and abs(pair.m) > m_min

    pairs = (
        compare_epochs(fluxes, errors, *indices)
        for indices in itertools.combinations(range(n_epochs), 2)
    )
    pair = max(pairs, key=lambda pair: (beyond(pair), abs(pair.vs)))
    return Variability(
        n_epochs,
        mean,
        modulation_index(fluxes),
        eta_statistic(fluxes, errors),
        pair,
        variable=beyond(pair),
    )


def judge_appearance(
    flux_jy: float,
    earlier_fluxes: Sequence[float],
    earlier_errors: Sequence[float],
    sigma_min: float,
    sigma_before_max: float,
) -> Appearance:
    """Whether a source is new: an earlier image would have shown it, and none did.

    It would have been seen at `sigma_min` or more in one of them, and its position has less than
    `sigma_before_max` in all.
    """
    if not earlier_fluxes:
        return Appearance(0, 0.0, 0.0, new=False)
    expected = flux_jy / min(earlier_errors)
    before = max(flux / error for flux, error in zip(earlier_fluxes, earlier_errors, strict=True))
    new = expected >= sigma_min and before < sigma_before_max
    return Appearance(len(earlier_fluxes), expected, before, new)
