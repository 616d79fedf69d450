"""Transits of calibrators, computed against the synthesis' own sky and times (pyuvdata)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from absurd_contimg.config import SiteConfig
from absurd_contimg.science.catalogue import SkySource
from absurd_contimg.science.transits import (
    Transit,
    TransitLimits,
    apparent_position_deg,
    find_transits,
    sidereal_time_deg,
)
from absurd_contimg.synthesis.frames import apparent_position, meridian_icrs_deg, sidereal_time_rad

LONGITUDE = SiteConfig().longitude_deg
DISH = 4.65
GROUP_DAYS = 309.12 / 86400.0
MJD = 60_700.25


@dataclass(frozen=True, slots=True)
class Group:
    group_id: str
    mid_mjd: float
    declination_deg: float = 16.0
    n_subbands: int = 16
    has_measurement_set: bool = False
    status: str = "discovered"


def night(n: int = 40, start: float = MJD) -> list[Group]:
    return [Group(f"g{number:03d}", start + number * GROUP_DAYS) for number in range(n)]


def source_at(mjd: float, declination_deg: float = 16.0, name: str = "cal") -> SkySource:
    """A source that crosses the meridian at a time, by pyuvdata's formulas."""
    ra, dec = meridian_icrs_deg(np.array([mjd + 2400000.5]), declination_deg)
    return SkySource(name, float(ra[0]) % 360.0, float(dec[0]), 3.0, calibrator=True)


def transits(groups: list[Group], *sources: SkySource, **limits: float) -> list[Transit]:
    return find_transits(groups, sources, LONGITUDE, DISH, TransitLimits(**limits))


def test_sky_is_that_of_pyuvdata() -> None:
    """Sidereal time to a second, positions of date to 2 arcsec (diurnal aberration is left out)."""
    mjd = np.array([60_310.1, 60_500.7, 60_700.25])
    lst = np.degrees(sidereal_time_rad(mjd + 2400000.5)) % 360.0
    assert sidereal_time_deg(mjd, LONGITUDE) == pytest.approx(lst, abs=1.1 * 15.0 / 3600.0)
    source = SkySource("cal", 123.4, 45.6, 1.0)
    ra, dec = apparent_position_deg(source, mjd)
    expected_ra, expected_dec = apparent_position(source.ra_deg, source.dec_deg, mjd + 2400000.5)
    assert ra == pytest.approx(np.degrees(expected_ra) % 360.0, abs=2.0 / 3600.0)
    assert dec == pytest.approx(np.degrees(expected_dec), abs=2.0 / 3600.0)


def test_the_transit_is_in_the_nearest_group() -> None:
    """Its time is right to a few seconds, wherever the site's longitude matters (bug 5)."""
    groups = night()
    when = groups[20].mid_mjd + 60.0 / 86400.0
    (transit,) = transits(groups, source_at(when))
    assert transit.group_id == "g020"
    assert transit.transit_mjd == pytest.approx(when, abs=3.0 / 86400.0)
    assert transit.delta_minutes == pytest.approx(-1.0, abs=0.05)
    assert transit.beam_response == pytest.approx(1.0, abs=1e-3)
    assert transit.n_groups == 10
    wrong = find_transits(groups, [source_at(when)], 0.0, DISH, TransitLimits())
    assert wrong == [], "Greenwich is 7.9 h away"


def test_right_ascension_is_circular() -> None:
    """A transit of RA 0 h, and a night across it."""
    groups = night(300, 60_700.0)
    lst = sidereal_time_deg(np.array([group.mid_mjd for group in groups]), LONGITUDE)
    zero = int(np.argmin(np.abs((lst + 180.0) % 360.0 - 180.0)))
    for offset_deg in (-0.2, 0.0, 0.2):
        when = groups[zero].mid_mjd + offset_deg / 361.0
        (transit,) = transits(groups, source_at(when))
        assert transit.transit_mjd == pytest.approx(when, abs=3.0 / 86400.0)


def test_one_transit_each_sidereal_day() -> None:
    """Most recent first, 23 h 56 min apart."""
    groups = night(900, 60_700.0)
    several = transits(groups, source_at(groups[100].mid_mjd))
    assert len(several) == 3
    times = [transit.transit_mjd for transit in several]
    assert times == sorted(times, reverse=True)
    assert -np.diff(times) == pytest.approx(86164.1 / 86400.0, abs=2e-5)


def test_the_beam_decides() -> None:
    """A calibrator north of the strip is weaker; beyond the main lobe it is none."""
    groups = night()
    when = groups[20].mid_mjd
    responses = {
        offset: transits(groups, source_at(when, 16.0 + offset)) for offset in (0.5, 1.0, 1.4, 2.5)
    }
    assert [len(each) for each in responses.values()] == [1, 1, 1, 0]
    half = responses[1.4][0].beam_response
    assert half == pytest.approx(0.5, abs=0.08), "FWHM is 1.03 lambda/D, 2.7 deg"
    assert transits(groups, source_at(when, 17.4), response_min=0.6) == []


def test_a_gap_at_the_transit_is_no_observation() -> None:
    """The nearest group is 20 minutes away: the calibrator was not seen."""
    groups = night()
    source = source_at(groups[20].mid_mjd)
    assert transits(groups[:17] + groups[24:], source) == []


def test_only_groups_of_the_same_pointing_count() -> None:
    """A pointing change within 25 minutes leaves fewer groups for a mosaic."""
    groups = night()
    when = groups[20].mid_mjd
    moved = [
        replace(
            group,
            declination_deg=16.0 if number <= 22 else 54.0,
            has_measurement_set=number % 2 == 0,
        )
        for number, group in enumerate(groups)
    ]
    (transit,) = transits(moved, source_at(when))
    assert (transit.n_groups, transit.n_measurement_sets) == (7, 4)


def test_nothing_observed() -> None:
    """An empty registry has no transits."""
    assert transits([], source_at(MJD)) == []
    assert math.isfinite(source_at(MJD).ra_deg)
