"""The transits of the simulated world: one calibrator, in the middle group of those observed."""

from __future__ import annotations

from pathlib import Path

from typing_extensions import override

from absurd_contimg.science.transits import Transit
from absurd_contimg.workflows.transits import TransitFinder


class SimulatedTransitFinder(TransitFinder):
    """Finds without a catalogue, and without the tables of the Earth's rotation."""

    @override
    def find(
        self, catalog: Path, calibrator: str, days_back_max: float, response_min: float
    ) -> list[Transit]:
        groups = self.registry.observed_groups(0.0)
        if not groups:
            return []
        group = groups[len(groups) // 2]
        return [
            Transit(
                calibrator="calibrator",
                flux_jy=5.0,
                transit_mjd=group.mid_mjd,
                group_id=group.group_id,
                delta_minutes=0.0,
                declination_offset_deg=0.0,
                beam_response=1.0,
                n_subbands=group.n_subbands,
                has_measurement_set=False,
                n_groups=len(groups),
                n_measurement_sets=0,
                group_status="discovered",
            )
        ]
