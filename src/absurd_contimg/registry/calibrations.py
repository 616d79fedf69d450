"""Sets of calibration tables, and which of them may serve which data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from absurd_contimg.products.outputs import Caltable
from absurd_contimg.registry.models import CaltableSetRow


@dataclass(frozen=True, slots=True)
class CaltableSet:
    """The solutions of one calibrator observation; tables in their order of application."""

    product_key: str
    set_name: str
    group_id: str
    calibrator: str
    refant: str
    declination_deg: float
    mid_mjd: float
    valid_start_mjd: float
    valid_end_mjd: float
    created_at: str
    tables: tuple[Caltable, ...]

    @classmethod
    def of_row(cls, row: CaltableSetRow, tables: Sequence[Caltable]) -> CaltableSet:
        """From the registry's row and its tables in order."""
        columns = {name: getattr(row, name) for name in cls.__slots__ if name != "tables"}
        return cls(**columns, tables=tuple(tables))

    def is_valid_at(self, mid_mjd: float) -> bool:
        """Whether a time (MJD) lies in the window, its ends included."""
        return self.valid_start_mjd <= mid_mjd <= self.valid_end_mjd

    def hours_from(self, mid_mjd: float) -> float:
        """How far the observation of the set is from a time (MJD), in hours."""
        return abs(self.mid_mjd - mid_mjd) * 24.0


def rank_sets(
    sets: Sequence[CaltableSet],
    mid_mjd: float,
    declination_deg: float,
    declination_tolerance_deg: float,
    reach_hours: float,
) -> list[CaltableSet]:
    """The sets that may serve, best first; the order of `sets` does not matter.

    The time of a set's observation counts before the time at which it was made, so that the order
    in which groups are processed does not matter.
    """
    newest_first = sorted(
        sets, key=attrgetter("mid_mjd", "created_at", "product_key"), reverse=True
    )
    valid, others = [], []
    for candidate in newest_first:
        if abs(candidate.declination_deg - declination_deg) > declination_tolerance_deg:
            continue
        if candidate.is_valid_at(mid_mjd):
            valid.append(candidate)
        elif candidate.hours_from(mid_mjd) <= reach_hours:
            others.append(candidate)
    return valid + sorted(others, key=lambda candidate: candidate.hours_from(mid_mjd))
