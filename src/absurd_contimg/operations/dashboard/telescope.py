"""What the telescope does, as far as the registry and the catalogue say: strip, antennas, transits.

No file of the telescope is opened here; the catalogue is read again when it has changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select

from absurd_contimg.errors import UserError
from absurd_contimg.ingest.schedule_times import sidereal_seconds, transit_seconds
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import CaltableSetRow, ObservationGroup, Product
from absurd_contimg.science.catalogue import SkySource, read_catalogue

_SOLAR_PER_SIDEREAL = 0.9972695663
"""Seconds of time in a second of sidereal time."""
_DAY_SECONDS = 86_400.0
_REACH_DEG = 3.0
"""The primary beam has a half-power width of 3.2 deg at 1.4 GHz."""
_TRANSITS_MAX = 8
_FLAG_STAGE = "flag"


@dataclass(frozen=True, slots=True)
class Strip:
    """Where the telescope pointed last."""

    group: str
    declination_deg: float | None
    """Apparent."""
    mid_mjd: float | None


@dataclass(frozen=True, slots=True)
class AntennaHealth:
    """Antennas of the newest observations."""

    number: int | None
    """In the newest Measurement Set."""
    dead: tuple[str, ...]
    """Found dead by the flagging of `dead_in`."""
    dead_in: str | None
    unsolved: tuple[str, ...]
    """With data and without a solution in `unsolved_in`."""
    unsolved_in: str | None
    flagged_share: float | None


@dataclass(frozen=True, slots=True)
class NextTransit:
    """A calibrator that will cross the meridian in the strip."""

    name: str
    flux_jy: float
    at: datetime
    seconds: float
    offset_deg: float
    """From the middle of the strip, by mean positions."""


def read_strip(database: Database) -> Strip | None:
    """The newest group whose declination is known, else the newest; None without any."""
    query = select(ObservationGroup).order_by(ObservationGroup.group_id.desc()).limit(1)
    known = query.where(ObservationGroup.declination_deg.is_not(None))
    with database.reading() as session:
        row = session.scalar(known) or session.scalar(query)
        if row is None:
            return None
        return Strip(row.group_id, row.declination_deg, row.mid_mjd)


def read_antennas(database: Database) -> AntennaHealth:
    """From the newest flagged Measurement Set and the newest set of solutions."""
    flagged = (
        select(Product)
        .where(Product.stage == _FLAG_STAGE)
        .order_by(Product.group_id.desc(), Product.created_at.desc())
        .limit(1)
    )
    solved = select(CaltableSetRow).order_by(CaltableSetRow.mid_mjd.desc()).limit(1)
    with database.reading() as session:
        product, solutions = session.scalar(flagged), session.scalar(solved)
        ms = _mapping(_mapping(None if product is None else product.outputs).get("flagged_ms"))
        quality = _mapping(None if solutions is None else solutions.quality)
        number, share = ms.get("n_antennas"), ms.get("flagged_fraction")
        return AntennaHealth(
            number if isinstance(number, int) else None,
            _names(ms.get("dead_antennas")),
            None if product is None else product.group_id,
            _names(quality.get("unsolved_antennas")),
            None if solutions is None else solutions.group_id,
            float(share) if isinstance(share, int | float) else None,
        )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _names(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list | tuple) else ()


class Calibrators:
    """The calibrators of the catalogue, read when the file has changed."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._read: tuple[int, list[SkySource], str] = (-1, [], "")

    def sources(self) -> tuple[list[SkySource], str]:
        """The sources, and what is wrong with the catalogue."""
        if self._path is None:
            return [], "This site has no catalogue."
        try:
            changed = self._path.stat().st_mtime_ns
            if changed != self._read[0]:
                sources = [source for source in read_catalogue(self._path) if source.calibrator]
                self._read = changed, sources, ""
        except (OSError, UserError) as error:
            return [], f"The catalogue cannot be read: {error}"
        return self._read[1], self._read[2]


def next_transits(
    sources: list[SkySource], declination_deg: float, now: datetime, longitude_deg: float
) -> list[NextTransit]:
    """The next transits near a declination, the first one first. Computed, not observed."""
    lst = sidereal_seconds(now, longitude_deg)
    transits = []
    for source in sources:
        offset = source.dec_deg - declination_deg
        if not math.isfinite(offset) or abs(offset) > _REACH_DEG:
            continue
        sidereal = (transit_seconds(source.ra_deg, source.dec_deg, now) - lst) % _DAY_SECONDS
        seconds = sidereal * _SOLAR_PER_SIDEREAL
        at = now + timedelta(seconds=seconds)
        transits.append(NextTransit(source.name, source.flux_jy, at, seconds, offset))
    return sorted(transits, key=lambda transit: transit.seconds)[:_TRANSITS_MAX]
