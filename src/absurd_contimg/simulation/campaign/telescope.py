"""The telescope of the simulated world: a group of sub-bands every 309 s, not always whole.

When a group gets its task is decided as ``contimg spawn`` decides it: with its last sub-band, or
as it is once its first file has been there for `GROUP_WAIT_SECONDS`. Whether it has enough
sub-bands is for its conversion to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from random import Random

from absurd_contimg.products.subband_files import format_group_id
from absurd_contimg.registry.grouping import GROUP_WAIT_SECONDS
from absurd_contimg.simulation.campaign.faults import DAY_SECONDS
from absurd_contimg.simulation.campaign.scenario import Scenario
from absurd_contimg.simulation.model.simulated_config import SIMULATED_CONFIG
from absurd_contimg.simulation.model.world import EPOCH

SUB_BANDS = SIMULATED_CONFIG.conversion.expected_subbands
SUB_BANDS_MIN = SIMULATED_CONFIG.conversion.subbands_min


@dataclass(frozen=True, slots=True)
class Observation:
    """One group: when it was observed, when it gets its task, and what has come by then."""

    number: int
    group_id: str
    observed_at_seconds: float
    spawned_at_seconds: float
    sub_bands: tuple[int, ...]
    corrupt: bool

    @property
    def convertible(self) -> bool:
        """Whether its conversion can succeed: enough sub-bands, and none of them corrupt."""
        return not self.corrupt and len(self.sub_bands) >= SUB_BANDS_MIN


def draw_observations(scenario: Scenario, seed: int) -> list[Observation]:
    """All groups of one run of a scenario, by the time of their spawning."""
    telescope = scenario.telescope
    random = Random(f"{seed}/telescope")
    found = []
    for number in range(int(scenario.days * DAY_SECONDS / telescope.interval_seconds)):
        due = number * telescope.interval_seconds
        come = {
            band: due
            for band in range(SUB_BANDS)
            if random.random() >= telescope.missing_probability
        }
        if random.random() < telescope.late_probability:
            late = random.randrange(SUB_BANDS)
            if late in come:
                come[late] = due + telescope.late_seconds
        corrupt = random.random() < telescope.corrupt_probability
        whole = len(come) == SUB_BANDS
        last = max(come.values(), default=due)
        spawned = last if whole and last < due + GROUP_WAIT_SECONDS else due + GROUP_WAIT_SECONDS
        here = tuple(band for band, at in come.items() if at <= spawned)
        moment = EPOCH + timedelta(seconds=due)
        group = format_group_id(moment)
        if here:  # without a file nobody knows of a group
            found.append(Observation(number, group, due, spawned, here, corrupt))
    return sorted(found, key=lambda one: one.spawned_at_seconds)


async def observe(
    observations: Sequence[Observation], spawn: Callable[[Observation], Awaitable[None]]
) -> None:
    """Spawn each group at its time."""
    loop = asyncio.get_running_loop()
    for one in observations:
        await asyncio.sleep(max(one.spawned_at_seconds - loop.time(), 0.0))
        await spawn(one)
