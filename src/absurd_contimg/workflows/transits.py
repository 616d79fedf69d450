"""Finds and selects observed transits of the calibrators in the catalogue."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from absurd_contimg.config import PipelineConfig
from absurd_contimg.errors import MosaicNotMadeError, SettingError
from absurd_contimg.registry import Group
from absurd_contimg.registry.transits import GroupObservation
from absurd_contimg.science.catalogue import SkySource, read_catalogue
from absurd_contimg.science.transits import Transit, TransitLimits, find_transits, groups_around
from absurd_contimg.similar_names import did_you_mean

Choice = Literal["latest", "earliest", "best"]
"""Which of several transits; best is the one with the largest beam response."""


_UNIX_EPOCH_MJD = 40_587.0


class TransitSearch(BaseModel):
    """Which transits are looked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    catalog_path: Path
    calibrator: str = "all"
    """The name of a calibrator in the catalogue, or ``all``."""
    days_back_max: float = Field(60.0, gt=0)
    """Older transits do not count (guide: 60)."""
    response_min: float = Field(0.3, gt=0, lt=1)
    groups_min: int = Field(5, ge=1)
    """Groups around a transit, and images of them, that a mosaic needs (guide: min_images 5)."""
    deadline_seconds: int = Field(7 * 86_400, ge=1, le=365 * 86_400)
    """How long the groups, and then the mosaic and its publication, may take each."""


class TransitRegistry(Protocol):
    """The part of the registry that these workflows use; called in a thread."""

    def observed_groups(self, start_mjd: float) -> Sequence[GroupObservation]:
        """The closed groups since a time, in the order of time."""

    def group(self, group_id: str) -> Group:
        """One group with its files."""


def _now_mjd() -> float:
    return time.time() / 86_400.0 + _UNIX_EPOCH_MJD


@dataclass(frozen=True, slots=True)
class TransitFinder:
    """Finds the transits of the catalogue's calibrators in the groups of the registry."""

    config: PipelineConfig
    registry: TransitRegistry
    now_mjd: Callable[[], float] = _now_mjd
    read_sources: Callable[[Path], Sequence[SkySource]] = read_catalogue

    def limits(self, response_min: float) -> TransitLimits:
        """The limits of the configuration."""
        tolerance = self.config.streaming.declination_tolerance_deg
        return TransitLimits(response_min, declination_tolerance_deg=tolerance)

    def find(
        self, catalog: Path, calibrator: str, days_back_max: float, response_min: float
    ) -> list[Transit]:
        """The transits, most recent first; `SettingError` for a name that is no calibrator."""
        sources = [source for source in self.read_sources(catalog) if source.calibrator]
        if calibrator != "all":
            names = sorted(source.name for source in sources)
            sources = [source for source in sources if source.name == calibrator]
            if not sources:
                raise SettingError(
                    f"The calibrator {calibrator!r} is not among those of {catalog} "
                    f"({', '.join(names) or 'none'}).",
                    did_you_mean(calibrator, names, "Give one of them, or all."),
                )
        groups = self.registry.observed_groups(self.now_mjd() - days_back_max)
        site, beam = self.config.site, self.config.beam
        return find_transits(
            groups, sources, site.longitude_deg, beam.dish_diameter_m, self.limits(response_min)
        )

    def matching(self, search: TransitSearch) -> list[Transit]:
        """The transits with enough groups around them."""
        arguments = (search.calibrator, search.days_back_max, search.response_min)
        transits = self.find(search.catalog_path, *arguments)
        return [transit for transit in transits if transit.n_groups >= search.groups_min]

    def require(self, search: TransitSearch, group_id: str | None = None) -> list[Transit]:
        """The same, of one group if given; raises `MosaicNotMadeError` if there is none."""
        transits = [
            transit for transit in self.matching(search) if group_id in (None, transit.group_id)
        ]
        if not transits:
            where = "" if group_id is None else f" in group {group_id}"
            raise MosaicNotMadeError(
                f"No transit of {search.calibrator}{where} in the last {search.days_back_max:g} "
                f"days has {search.groups_min} groups around it and a beam response of "
                f"{search.response_min:g}.",
                "Look for others with: contimg transits",
            )
        return transits

    def groups_of(self, transit: Transit, response_min: float) -> list[Group]:
        """The groups around a transit with their files, in the order of time."""
        limits = self.limits(response_min)
        start = transit.transit_mjd - 1.0
        groups = self.registry.observed_groups(start)
        own = next(each for each in groups if each.group_id == transit.group_id)
        near = groups_around(groups, transit.transit_mjd, own.declination_deg, limits)
        return [self.registry.group(each.group_id) for each in near]


def select_transit(transits: Sequence[Transit], choice: Choice) -> Transit:
    """One of several: the latest, the earliest or the one with the largest beam response."""
    match choice:
        case "latest":
            return max(transits, key=lambda each: (each.transit_mjd, each.calibrator))
        case "earliest":
            return min(transits, key=lambda each: (each.transit_mjd, each.calibrator))
        case "best":
            return max(transits, key=lambda each: (each.beam_response, each.transit_mjd))
