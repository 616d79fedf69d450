"""Stage ``select_calibration``: which set of calibration tables serves this group.

It asks the registry and makes no product, so it runs in the worker's own process. The choice is
written into the checkpoint: a repeated run of a later stage applies the same tables, whatever
was registered in the meantime.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import ClassVar

from absurd_contimg.core.records import Json
from absurd_contimg.errors import InputError, NoCalibrationError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.stage import PipelineStage, Workspace
from absurd_contimg.registry import CaltableSet, Registry

_log = logging.getLogger(__name__)


class SelectCalibrationStage(PipelineStage):
    """Chooses the group's own set if it has one, else by window and nearness."""

    name = "select_calibration"
    requires = frozenset({"flagged_ms"})
    runs_after: ClassVar[frozenset[str]] = frozenset({"caltables"})
    """What the solve stage registers must be there before the registry is asked."""
    provides = frozenset({"calibration"})
    product_folder = None
    isolated: ClassVar[bool] = False

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def execute(self, context: PipelineContext, workspace: Workspace) -> dict[str, Json]:
        """Choose a set whose tables are all there; retires those whose tables are gone.

        Raises `NoCalibrationError` when there is none.
        """
        mid_mjd, declination = _time_and_strip(context)
        settings = context.config.calibration
        candidates = self._registry.caltable_sets_valid_at(mid_mjd, declination)
        # A group in which a calibrator transits is served best by its own solutions; and then
        # its result does not depend on which other groups have been processed before it.
        candidates.sort(key=lambda one: one.group_id != context.inputs["group_id"])
        for candidate in candidates:
            missing = _missing_tables(candidate)
            if not missing:
                return {"calibration": _described(candidate, mid_mjd, settings.warn_hours)}
            self._registry.retire_set(candidate.product_key, f"missing on disk: {missing[0]}")
            _log.warning("set %s retired: %s is missing", candidate.set_name, missing[0])
        raise NoCalibrationError(
            f"No calibration serves group {context.inputs['group_id']} at MJD {mid_mjd:.4f}, "
            f"declination {declination:.1f} deg: no active set within "
            f"{settings.reach_hours:g} h and {settings.declination_tolerance_deg:g} deg "
            "(calibration.reach_hours, calibration.declination_tolerance_deg).",
            "Process a group in which a calibrator transits, then run this one again.",
        )


def _time_and_strip(context: PipelineContext) -> tuple[float, float]:
    """The group's middle (MJD) and the declination of its strip (degrees)."""
    described = context.outputs["flagged_ms"]
    try:
        if not isinstance(described, Mapping):
            raise TypeError("it is no object")
        return float(str(described["mid_mjd"])), float(str(described["declination_deg"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"The output flagged_ms does not tell time and declination ({error!r}): {described!r}.",
            "Run the stages before this one again.",
        ) from error


def _missing_tables(candidate: CaltableSet) -> list[str]:
    """Tables of the set that are not, or no longer, on disk."""
    return [
        str(table.path) for table in candidate.tables if not (table.path / "table.dat").is_file()
    ]


def _described(chosen: CaltableSet, mid_mjd: float, warn_hours: float) -> dict[str, Json]:
    hours = chosen.hours_from(mid_mjd)
    warning = f"solutions are {hours:.1f} h away" if hours > warn_hours else None
    tables: list[Json] = [
        {
            "path": str(table.path),
            "type": table.type,
            "apply_order": table.apply_order,
            "interp": table.interp,
        }
        for table in chosen.tables
    ]
    return {
        "set_name": chosen.set_name,
        "product_key": chosen.product_key,
        "group_id": chosen.group_id,
        "calibrator": chosen.calibrator,
        "refant": chosen.refant,
        "hours_away": round(hours, 3),
        "inside_window": chosen.is_valid_at(mid_mjd),
        "warning": warning,
        "tables": tables,
    }
