"""The calibrators that cross the beam during a group (docs/telescope.md#calibration)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from absurd_contimg.config import BeamConfig, CalibrationConfig
from absurd_contimg.errors import NoCalibratorError
from absurd_contimg.science.beam import BeamCentres, source_response
from absurd_contimg.science.catalogue import SkySource


@dataclass(frozen=True, slots=True)
class Candidate:
    """A calibrator and its place in the beam of a group."""

    source: SkySource
    transits: bool
    """Whether it crosses the meridian inside the group's time span."""
    response: float
    """Mean beam over the group."""
    declination_offset_deg: float

    def reasons_against(self, settings: CalibrationConfig) -> list[str]:
        """Why it cannot calibrate this group; empty if it can."""
        offset, flux = abs(self.declination_offset_deg), self.source.flux_jy
        exceeded = {}
        if offset > settings.search_radius_deg:
            exceeded["search_radius_deg"] = f"it is {offset:.2f} deg off in declination"
        if self.response < settings.beam_response_min:
            exceeded["beam_response_min"] = f"its mean beam is {self.response:.2f}"
        if flux < settings.calibrator_flux_min_jy:
            exceeded["calibrator_flux_min_jy"] = f"it has {flux} Jy"
        return [
            *([] if self.transits else ["it does not transit during the group"]),
            *(f"{text} (calibration.{k} {getattr(settings, k)})" for k, text in exceeded.items()),
        ]


def candidates(
    sources: Sequence[SkySource], centres: BeamCentres, beam: BeamConfig
) -> list[Candidate]:
    """All catalogue calibrators as seen by a group, best placed first (flux times beam)."""
    calibrators = [s for s in sources if s.calibrator]
    response = source_response(calibrators, centres, beam.dish_diameter_m)
    declination = float(np.mean(centres.dec_deg))
    placed = [
        Candidate(source, _transits(source, centres), float(value), source.dec_deg - declination)
        for source, value in zip(calibrators, response, strict=True)
    ]
    return sorted(placed, key=lambda c: (-c.source.flux_jy * c.response, c.source.name))


def choose_calibrator(
    wanted: str,
    sources: Sequence[SkySource],
    centres: BeamCentres,
    settings: CalibrationConfig,
    beam: BeamConfig,
) -> Candidate | None:
    """The one named, or for ``auto`` the best or None; `NoCalibratorError` for an unfit name."""
    known = candidates(sources, centres, beam)
    if wanted == "auto":
        return next((c for c in known if not c.reasons_against(settings)), None)
    named = next((c for c in known if c.source.name == wanted), None)
    if named is None:
        listed = ", ".join(sorted(c.source.name for c in known)) or "none"
        raise NoCalibratorError(
            f"the calibrator {wanted!r} is not among the calibrators of this strip ({listed}).",
            "Correct the name, add it to the catalogue with calibrator=1, or use auto.",
        )
    if reasons := named.reasons_against(settings):
        raise NoCalibratorError(
            f"the calibrator {wanted} cannot calibrate this group: {'; '.join(reasons)}.",
            "Use the group in which it transits, or auto, or none.",
        )
    return named


def _transits(source: SkySource, centres: BeamCentres) -> bool:
    """Whether the meridian passes the source (half an integration of margin, also across 0 h)."""
    first, last = centres.ra_deg[0], centres.ra_deg[-1]
    span = math.remainder(last - first, 360.0)
    margin = span / max(1, len(centres.ra_deg) - 1) / 2.0
    return -margin <= math.remainder(source.ra_deg - first, 360.0) <= span + margin
