"""Statistics of variability: properties, hand-computed values, and new sources."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from absurd_contimg.science.variability import (
    compare_epochs,
    eta_statistic,
    judge_appearance,
    measure_variability,
    modulation_index,
)

GATES = (4.3, 0.26)
_flux = st.floats(0.001, 100.0)
_error = st.floats(1e-4, 10.0)
_curve = st.lists(st.tuples(_flux, _error), min_size=2, max_size=8)


def test_statistics_of_a_known_light_curve() -> None:
    """By hand: fluxes 1, 2, 3 with errors 0.1, 0.1, 0.2."""
    fluxes, errors = [1.0, 2.0, 3.0], [0.1, 0.1, 0.2]
    assert modulation_index(fluxes) == pytest.approx(1.0 / 2.0)
    # w = 100, 100, 25; <w I^2> = 725/3... by the formula as it is written.
    weights = np.array([100.0, 100.0, 25.0])
    mean_w = weights.mean()
    mean_wi, mean_wi2 = np.mean(weights * fluxes), np.mean(weights * np.square(fluxes))
    expected = 3 / 2 * (mean_wi2 - mean_wi**2 / mean_w)
    assert eta_statistic(fluxes, errors) == pytest.approx(expected)
    pair = compare_epochs(fluxes, errors, 0, 2)
    assert pair.vs == pytest.approx(2.0 / np.hypot(0.1, 0.2))
    assert pair.m == pytest.approx(1.0)
    # The first two differ by 7.1 sigma, the first and third by 8.9.
    result = measure_variability(fluxes, errors, *GATES)
    assert result.pair == pair
    assert result.variable
    assert result.mean_jy == pytest.approx((100 + 200 + 75) / 225)


@pytest.mark.parametrize(
    ("fluxes", "errors", "variable"),
    [
        ([1.0, 1.3], [0.01, 0.01], True),  # Vs 21, m 0.261
        ([1.0, 1.29], [0.01, 0.01], False),  # m 0.253
        ([1.0, 2.0], [0.17, 0.17], False),  # Vs 4.16
        ([1.0, 2.0], [0.16, 0.16], True),  # Vs 4.42
        ([-0.1, 0.5], [0.02, 0.02], True),
        ([1.0], [0.01], False),
        ([], [], False),
        # The pair with the largest Vs has a small m, another passes both gates.
        ([10.0, 12.0, 9.0], [0.01, 0.01, 0.7], False),
        ([10.0, 12.0, 7.0], [0.01, 0.01, 0.6], True),
    ],
)
def test_both_gates_decide(fluxes: list[float], errors: list[float], variable: bool) -> None:
    """|Vs| of 4.3 or more, and |m| above 0.26, of one pair."""
    assert measure_variability(fluxes, errors, *GATES).variable is variable


@given(st.floats(0.001, 100.0), st.lists(_error, min_size=2, max_size=8))
def test_a_constant_source_has_no_variability(flux: float, errors: list[float]) -> None:
    """All statistics are 0 whatever the errors are."""
    fluxes = [flux] * len(errors)
    result = measure_variability(fluxes, errors, *GATES)
    assert result.modulation == pytest.approx(0.0, abs=1e-12)
    assert result.eta == pytest.approx(0.0, abs=1e-9)
    assert result.pair is not None
    assert (result.pair.vs, result.pair.m) == (0.0, 0.0)
    assert not result.variable


@given(_curve, st.integers(-10, 10))
def test_statistics_do_not_depend_on_the_unit(curve: list[tuple[float, float]], power: int) -> None:
    """Fluxes and errors in another unit give the same."""
    fluxes, errors = map(list, zip(*curve, strict=True))
    factor = 2.0**power
    before = measure_variability(fluxes, errors, *GATES)
    after = measure_variability([factor * f for f in fluxes], [factor * e for e in errors], *GATES)
    assert after.modulation == pytest.approx(before.modulation)
    assert after.eta == pytest.approx(before.eta)
    assert after.variable == before.variable
    assert after.pair is not None
    assert before.pair is not None
    assert abs(after.pair.vs) == pytest.approx(abs(before.pair.vs))


@given(_curve, st.randoms())
def test_the_order_of_epochs_does_not_matter(
    curve: list[tuple[float, float]], random: object
) -> None:
    """But for the sign of the difference, which goes from the first to the second."""
    shuffled = list(curve)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # Hypothesis' random is untyped
    before, after = (
        measure_variability(*map(list, zip(*c, strict=True)), *GATES) for c in (curve, shuffled)
    )
    assert after.modulation == pytest.approx(before.modulation)
    assert after.eta == pytest.approx(before.eta, rel=1e-6, abs=1e-9)
    assert after.variable == before.variable
    assert before.pair is not None
    assert after.pair is not None
    assert abs(after.pair.vs) == pytest.approx(abs(before.pair.vs))


@given(_curve)
def test_two_epochs_are_antisymmetric_and_m_is_bounded(curve: list[tuple[float, float]]) -> None:
    """Exchanged they change sign; m lies in [-2, 2], also with negative fluxes."""
    fluxes = [flux - 1.0 for flux, _ in curve]
    errors = [error for _, error in curve]
    for first, second in itertools.combinations(range(len(curve)), 2):
        there, back = (
            compare_epochs(fluxes, errors, *indices)
            for indices in ((first, second), (second, first))
        )
        assert (there.vs, there.m) == (-back.vs, -back.m)
        assert abs(there.m) <= 2.0


def test_eta_is_one_for_constant_sources_in_noise() -> None:
    """It is a reduced chi-squared: its mean over many sources is 1."""
    random = np.random.default_rng(8)
    errors = random.uniform(0.5, 2.0, (400, 12))
    fluxes = 50.0 + errors * random.normal(size=(400, 12))
    etas = [eta_statistic(f, e) for f, e in zip(fluxes, errors, strict=True)]
    assert np.mean(etas) == pytest.approx(1.0, abs=0.07)


@pytest.mark.parametrize(
    ("flux", "earlier", "new"),
    [
        (0.05, [(0.001, 0.005), (-0.003, 0.006)], True),
        (0.05, [(0.001, 0.02)], False),  # too noisy: it would have had 2.5 sigma
        (0.05, [(0.03, 0.005), (0.0, 0.005)], False),  # it was there
        (0.05, [(0.001, 0.02), (0.001, 0.005)], True),
        (0.05, [], False),  # never looked
    ],
)
def test_a_source_is_new_where_an_earlier_image_would_have_shown_it(
    flux: float, earlier: list[tuple[float, float]], new: bool
) -> None:
    """At 5 sigma, and with less than 3 sigma at its position."""
    fluxes, errors = [f for f, _ in earlier], [e for _, e in earlier]
    assert judge_appearance(flux, fluxes, errors, 5.0, 3.0).new is new
