"""Groups that were calibrated with a worse set than there is now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from absurd_contimg.registry.calibrations import CaltableSet, rank_sets


@dataclass(frozen=True, slots=True)
class CalibrationUse:
    """A group and the set that was applied to its newest calibrated data."""

    group_id: str
    mid_mjd: float
    declination_deg: float
    product_key: str
    """Of the set."""


@dataclass(frozen=True, slots=True)
class BetterSet:
    """A group that another set would serve better than the one that it has."""

    use: CalibrationUse
    used: CaltableSet | None
    """None: the set is not in use any more."""
    better: CaltableSet


def better_sets(
    uses: Iterable[CalibrationUse],
    sets: Sequence[CaltableSet],
    declination_tolerance_deg: float,
    reach_hours: float,
    product_key: str | None = None,
) -> list[BetterSet]:
    """The groups whose selection would now take another set, in the order of time.

    `sets` are those in use. With `product_key`, only groups that would take that set. A group's
    own set is its best, as in the stage that selects.
    """
    by_key = {each.product_key: each for each in sets}
    improvements = []
    for use in sorted(uses, key=lambda use: (use.mid_mjd, use.group_id)):
        ranked = rank_sets(
            sets, use.mid_mjd, use.declination_deg, declination_tolerance_deg, reach_hours
        )
        own = [candidate for candidate in ranked if candidate.group_id == use.group_id]
        best = next(iter((*own, *ranked)), None)
        if best is None or best.product_key == use.product_key:
            continue
        if product_key in (None, best.product_key):
            improvements.append(BetterSet(use, by_key.get(use.product_key), best))
    return improvements
