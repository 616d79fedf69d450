"""The telescope of the simulated world: a group of sub-bands every 309 s, not always complete.

A group is spawned as by ``contimg spawn``: with its last sub-band, or `GROUP_WAIT_SECONDS` after
its first file. Whether it has enough sub-bands is the conversion's decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from random import Random

from absurd_contimg.registry.grouping import GROUP_WAIT_SECONDS
from absurd_contimg.simulation.campaign.faults import DAY_SECONDS
from absurd_contimg.simulation.campaign.scenario import Scenario
from absurd_contimg.simulation.model.simulated_config import SIMULATED_CONFIG
from absurd_contimg.simulation.model.world import EPOCH

SUB_BANDS = SIMULATED_CONFIG.conversion.expected_subbands
SUB_BANDS_MIN = SIMULATED_CONFIG.conversion.subbands_min


@dataclass(frozen=True, slots=True)
class Observation:
    """One group: when it is observed and spawned, and the sub-bands that are there by then."""

    number: int
    group_id: str
    observed_at_seconds: float
    spawned_at_seconds: float
    sub_bands: tuple[int, ...]
    corrupt: bool

    @property
    def convertible(self) -> bool:
        """Whether its conversion can succeed: enough sub-bands, none corrupt."""
        return not self.corrupt and len(self.sub_bands) >= SUB_BANDS_MIN


def draw_observations(scenario: Scenario, seed: int) -> list[Observation]:
    """All groups of one run of a scenario, by the time of their spawning."""
    telescope = scenario.telescope
    random = Random(f"{seed}/telescope")
    observations = []
    for number in range(int(scenario.days * DAY_SECONDS / telescope.interval_seconds)):
        observed_at = number * telescope.interval_seconds
        arrivals = {
            band: observed_at
            for band in range(SUB_BANDS)
            if random.random() >= telescope.missing_probability
        }
        if random.random() < telescope.late_probability:
            late = random.randrange(SUB_BANDS)
            if late in arrivals:
                arrivals[late] = observed_at + telescope.late_seconds
        corrupt = random.random() < telescope.corrupt_probability
        spawned_at = observed_at + GROUP_WAIT_SECONDS
        if len(arrivals) == SUB_BANDS:
            spawned_at = min(spawned_at, max(arrivals.values()))
        bands = tuple(band for band, at in arrivals.items() if at <= spawned_at)
        time = EPOCH + timedelta(seconds=observed_at)
        group = time.strftime("%Y-%m-%dT%H:%M:%S")
        if bands:  # a group without a file is unknown
            observations.append(Observation(number, group, observed_at, spawned_at, bands, corrupt))
    return sorted(observations, key=lambda observation: observation.spawned_at_seconds)
