"""Cross-match: mutual, symmetric, the same as by Astropy, and honest about confusion."""

from __future__ import annotations

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from hypothesis import given
from hypothesis import strategies as st

from absurd_contimg.science.catalogue import SkySource
from absurd_contimg.science.cross_match import cross_match

_near = st.builds(
    lambda name, east, north: SkySource(str(name), east / 3600 % 360.0, north / 3600, 1.0),
    st.integers(0, 99),
    st.integers(-20, 20),
    st.integers(-20, 20),
)
"""Sources within arcseconds of RA 0 h, often at equal distances."""


def _source(name: str, east_arcsec: float, dec_deg: float = 16.0) -> SkySource:
    return SkySource(name, east_arcsec / 3600 / np.cos(np.radians(dec_deg)) % 360, dec_deg, 1.0)


def test_matches_across_ra_0_h_and_keeps_all_candidates() -> None:
    """A second source within the radius makes the match doubtful, and is listed."""
    catalogue = [_source("far", 400.0), _source("b", -3.0), _source("a", 1.0)]
    (match,) = cross_match([_source("seen", -0.5)], catalogue, 10.0)
    assert match.matched == 2
    assert [candidate.index for candidate in match.candidates] == [2, 1]
    assert [round(c.separation_arcsec, 3) for c in match.candidates] == [1.5, 2.5]
    assert match.confusion == "2 candidates"


def test_a_source_is_matched_once_and_the_other_is_told_of_it() -> None:
    """Two positions near one catalogue source: the nearer gets it."""
    near, nearer = _source("near", 4.0), _source("nearer", -1.0)
    first, second = cross_match([near, nearer], [_source("a", 0.0)], 10.0)
    assert (first.matched, second.matched) == (None, 0)
    assert first.confusion == "its candidate is nearer to nearer"
    assert second.confusion == ""


def test_nothing_is_matched_with_nothing() -> None:
    """Empty lists, or no source within the radius."""
    assert cross_match([], [_source("a", 0.0)], 10.0) == []
    for catalogue in ([], [_source("a", 11.0)]):
        (match,) = cross_match([_source("s", 0.0)], catalogue, 10.0)
        assert (match.candidates, match.matched, match.confusion) == ((), None, "")


@given(st.lists(_near, max_size=8), st.lists(_near, max_size=8))
def test_matches_are_mutual_whichever_list_is_the_catalogue(
    left: list[SkySource], right: list[SkySource]
) -> None:
    """No source is matched twice; where no distance is equal, both directions agree."""
    forward = [match.matched for match in cross_match(left, right, 12.0)]
    backward = [match.matched for match in cross_match(right, left, 12.0)]
    matched = [index for index in forward if index is not None]
    assert len(matched) == len(set(matched))
    separations = [
        round(candidate.separation_arcsec, 6)
        for match in cross_match(left, right, 12.0)
        for candidate in match.candidates
    ]
    if len(separations) == len(set(separations)):
        pairs = {(a, b) for a, b in enumerate(forward) if b is not None}
        assert pairs == {(a, b) for b, a in enumerate(backward) if a is not None}


def test_nearest_are_those_of_astropy_over_the_whole_sky() -> None:
    """To the poles, with separations to a millionth of an arcsecond."""
    random = np.random.default_rng(6)
    sky = [
        SkySource(str(k), random.uniform(0, 360), np.degrees(np.arcsin(random.uniform(-1, 1))), 1.0)
        for k in range(3000)
    ]
    left, right = sky[:1000], sky[1000:]
    ra, dec = (np.array([getattr(s, n) for s in sky]) for n in ("ra_deg", "dec_deg"))
    coordinates = SkyCoord(ra, dec, unit="deg")
    nearest, separation, _ = coordinates[:1000].match_to_catalog_sky(coordinates[1000:])
    radius = 3000.0
    for index, match in enumerate(cross_match(left, right, radius)):
        if separation[index] < radius * u.arcsec:
            assert match.candidates[0].index == nearest[index]
            assert abs(match.candidates[0].separation_arcsec - separation[index].arcsec) < 1e-6
        else:
            assert match.candidates == ()
