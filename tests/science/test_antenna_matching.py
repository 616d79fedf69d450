"""Solutions belong to stations, by name and place, not to numbers.

The copies of tables are tested with CASA, in `tests/stages/casa_conditions.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from absurd_contimg.science.antenna_matching import Antennas, match_antennas

STATIONS = st.lists(st.integers(1, 117), unique=True, min_size=1, max_size=30)
PLACES_M = np.random.default_rng(5).uniform(-1000, 1000, (118, 3))


def antennas(stations: Sequence[int]) -> Antennas:
    return Antennas(tuple(f"DSA{number:03d}" for number in stations), PLACES_M[list(stations)])


@given(solved=STATIONS, observed=STATIONS)
def test_each_antenna_is_matched_to_its_own_name(solved: list[int], observed: list[int]) -> None:
    """In any order and with any gaps; -1 for those that are gone."""
    matches = match_antennas(antennas(solved), antennas(observed))
    expected = [observed.index(n) if n in observed else -1 for n in solved]
    assert matches.tolist() == expected


def test_an_antenna_that_has_moved_against_the_others_is_not_matched() -> None:
    """10 cm are half a wavelength; what all antennas share changes nothing."""
    solved, observed = antennas(range(1, 9)), antennas(range(1, 9))
    observed.positions_m[:] += (3.0, -2.0, 1.0)
    assert match_antennas(solved, observed).tolist() == list(range(8))
    observed.positions_m[4, 1] += 0.1
    assert match_antennas(solved, observed).tolist() == [0, 1, 2, 3, -1, 5, 6, 7]
