"""Stage ``select_calibration``: the set of tables for a group, fixed by its checkpoint."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from typing_extensions import override

from absurd_contimg.config import CalibrationConfig
from absurd_contimg.errors import NoCalibrationError, StorageAwayError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.fallback import DISTANT_CALIBRATION, fallbacks_of
from absurd_contimg.execution.stage import PipelineStage, Resource, Workspace
from absurd_contimg.products.outputs import (
    CalibrateSolveOutputs,
    FlagOutputs,
    SelectCalibrationOutputs,
    SelectedCalibration,
    names,
)
from absurd_contimg.registry import ABSENT, CaltableSet, Registry

SECOND_LOOK_SECONDS = 3.0
"""A folder that is being replaced is back by then."""

_log = logging.getLogger(__name__)


class SelectCalibrationStage(PipelineStage[SelectCalibrationOutputs]):
    """Prefers the group's own set, then the order of `Registry.caltable_sets_valid_at`."""

    name = "select_calibration"
    resource = Resource.CALIBRATION
    requires = names(FlagOutputs)
    runs_after = names(CalibrateSolveOutputs)
    """The registry must hold what the solve stage made before this stage asks it."""
    provides = names(SelectCalibrationOutputs)
    product_folder = None
    isolated = False

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    @override
    def execute(self, context: PipelineContext, workspace: Workspace) -> SelectCalibrationOutputs:
        """The best set on disk, or `NoCalibrationError`; sets that lost tables are retired.

        An absence is believed when a second look after a pause confirms it, and only where the
        folder that holds such sets is there; else raises `StorageAwayError`.
        """
        ms = context.outputs_of(FlagOutputs).flagged_ms
        settings = context.config.calibration
        however_far = DISTANT_CALIBRATION in fallbacks_of(context)
        candidates = self._registry.caltable_sets_valid_at(
            ms.mid_mjd, ms.declination_deg, however_far=however_far
        )
        # A calibrator's own group is served best by its own solutions, and then its result does
        # not depend on the groups that were processed before it.
        candidates.sort(key=lambda candidate: candidate.group_id != context.group_id)
        away: Path | None = None
        for candidate in candidates:
            missing = _missing_after_second_look(candidate)
            if missing is None:
                selected = _selected(candidate, ms.mid_mjd, settings)
                return SelectCalibrationOutputs(selected)
            holder = missing.parent.parent
            if not holder.is_dir():
                away = holder
                continue
            self._registry.retire_set(candidate.product_key, f"{ABSENT}: {missing}")
            _log.warning("set %s retired: %s is missing", candidate.set_name, missing)
        if away is not None:
            raise StorageAwayError(away)
        raise NoCalibrationError(
            f"No calibration serves group {context.group_id} at MJD {ms.mid_mjd:.4f}, "
            f"declination {ms.declination_deg:.1f} deg: no active set within "
            f"{settings.reach_hours:g} h and {settings.declination_tolerance_deg:g} deg "
            "(calibration.reach_hours, calibration.declination_tolerance_deg).",
            "Process a group in which a calibrator transits, then run this one again.",
        )


def _missing_after_second_look(candidate: CaltableSet) -> Path | None:
    """A table of the set that is not there, and still not after a pause."""
    if _missing(candidate) is None:
        return None
    time.sleep(SECOND_LOOK_SECONDS)  # in the stage's thread; the lease is extended meanwhile
    return _missing(candidate)


def _missing(candidate: CaltableSet) -> Path | None:
    paths = (table.path for table in candidate.tables)
    return next((path for path in paths if not (path / "table.dat").is_file()), None)


def _selected(
    chosen: CaltableSet, mid_mjd: float, settings: CalibrationConfig
) -> SelectedCalibration:
    hours, inside = chosen.hours_from(mid_mjd), chosen.is_valid_at(mid_mjd)
    return SelectedCalibration(
        set_name=chosen.set_name,
        product_key=chosen.product_key,
        group_id=chosen.group_id,
        calibrator=chosen.calibrator,
        refant=chosen.refant,
        hours_away=round(hours, 3),
        inside_window=inside,
        warning=f"solutions are {hours:.1f} h away" if hours > settings.warn_hours else None,
        tables=chosen.tables,
        beyond_reach=not inside and hours > settings.reach_hours,
    )
