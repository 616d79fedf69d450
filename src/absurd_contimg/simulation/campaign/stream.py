"""The files of a simulated night, and the daemon that looks for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from math import inf
from random import Random

from absurd_contimg.ingest.windows import WindowRules
from absurd_contimg.science.raw_pointing import Pointing
from absurd_contimg.simulation.campaign.scenario import Scenario, StreamPart
from absurd_contimg.simulation.campaign.telescope import Observation, draw_observations
from absurd_contimg.simulation.model.effect_gateway import EffectGateway
from absurd_contimg.simulation.model.simulated_daemon import (
    DaemonSettings,
    SimulatedDaemon,
    make_simulated_daemon,
)
from absurd_contimg.simulation.model.simulated_incoming import ArrivingFile, NightScript
from absurd_contimg.simulation.model.world import EPOCH, World

_MJD_OF_EPOCH = EPOCH.timestamp() / 86_400.0 + 40_587.0
_DECLINATIONS_DEG = (16.3, 54.6)
_SPLIT_SECONDS = 20
"""How much later every second sub-band of a split group is named."""
_TRANSFER_SECONDS = 20.0
_REMOVED_AFTER_SECONDS = 60.0
"""It was seen, and is gone at the next poll."""
_REWRITTEN_AFTER_SECONDS = 900.0
_DELAY_SECONDS = 5_000.0
_FEW_SUB_BANDS = 11
QUIET_SECONDS = 4_000.0
"""After the last group: its files have come, and the end of the night is seen."""


def number_of_group(group_id: str, interval_seconds: float) -> int:
    """Which group of the night has this name."""
    since = datetime.fromisoformat(f"{group_id}+00:00") - EPOCH
    return round(since.total_seconds() / interval_seconds)


def draw_night(scenario: Scenario, seed: int) -> NightScript:
    """All files of one run of a scenario that has a stream."""
    stream = scenario.stream or StreamPart()
    files = [
        file
        for observation in draw_observations(scenario, seed)
        if observation.number not in stream.unobserved_groups
        for file in _files_of(observation, scenario, stream, seed)
    ]
    outages = [(begin, begin + seconds) for begin, seconds in stream.folder_outages]
    return NightScript(files, outages)


def _files_of(
    observation: Observation, scenario: Scenario, stream: StreamPart, seed: int
) -> Iterator[ArrivingFile]:
    """The sub-bands of a group; what is wrong with one of them is wrong with its first."""
    number, interval = observation.number, scenario.telescope.interval_seconds
    random = Random(f"{seed}/stream/{number}")
    turns = sum(number >= slew for slew in stream.slews)
    middle = observation.observed_at_seconds + interval / 2.0
    pointing = Pointing(
        _MJD_OF_EPOCH + middle / 86_400.0, _DECLINATIONS_DEG[turns % len(_DECLINATIONS_DEG)]
    )
    delay = _DELAY_SECONDS if number in stream.delayed_groups else 0.0
    bands = sorted(observation.sub_bands)
    if number in stream.incomplete_groups:
        bands = bands[:_FEW_SUB_BANDS]
    for band in bands:
        named_later = _SPLIT_SECONDS * (band % 2) if number in stream.split_groups else 0
        named = EPOCH + timedelta(seconds=observation.observed_at_seconds + named_later)
        arrives_at = observation.observed_at_seconds + interval + delay + 5.0 * random.random()
        file = ArrivingFile(
            f"{named:%Y-%m-%dT%H:%M:%S}_sb{band:02d}.hdf5",
            arrives_at,
            pointing,
            whole_at=arrives_at + _TRANSFER_SECONDS * random.random(),
        )
        if band == bands[0]:
            yield from _with_faults(file, number, named, stream)
        else:
            yield file


def _with_faults(
    file: ArrivingFile, number: int, named: datetime, stream: StreamPart
) -> Iterator[ArrivingFile]:
    arrives_at = file.arrives_at
    if number in stream.truncated_groups:
        file = replace(file, whole_at=inf)
    if number in stream.damaged_groups:
        file = replace(file, damaged=True)
    if number in stream.removed_groups:
        file = replace(file, gone_at=arrives_at + _REMOVED_AFTER_SECONDS)
    if number in stream.rewritten_groups:
        file = replace(file, rewritten_at=arrives_at + _REWRITTEN_AFTER_SECONDS)
    yield file
    if number in stream.repeated_groups:
        again = named + timedelta(seconds=1)
        band = file.name.rpartition("_")[2]
        yield replace(file, name=f"{again:%Y-%m-%dT%H:%M:%S}_{band}")


def start_daemon(
    world: World, gateway: EffectGateway, queue_name: str, stream: StreamPart, script: NightScript
) -> SimulatedDaemon:
    """Let the daemon of a scenario work in a new process."""
    settings = DaemonSettings(
        queue_name,
        script,
        windows=WindowRules(size=stream.window_size, stride=stream.window_stride),
        poll_seconds=stream.poll_seconds,
    )
    daemon = make_simulated_daemon(world, gateway, settings, stream.clock_steps)
    world.start_service(gateway, daemon)
    return daemon
