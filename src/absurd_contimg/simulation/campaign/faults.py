"""Schedules of timed faults, drawn from a scenario's rates and a seed, or given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random

from absurd_contimg.simulation.campaign.scenario import Scenario, ScenarioError
from absurd_contimg.simulation.model.faults import FaultKind, TimedFault, parse_timed_faults

DAY_SECONDS = 86_400.0
Duration = Callable[[Random], float]
"""Draws how long a fault lasts, in seconds."""


def target_count(scenario: Scenario, kind: FaultKind) -> int:
    """How many workers, hosts, databases or disks there are that such a fault can hit.

    The daemon of a stream has the number after the last worker's.
    """
    match kind:
        case FaultKind.KILL | FaultKind.PAUSE | FaultKind.TERM:
            return scenario.workers.count + (scenario.stream is not None)
        case FaultKind.REBOOT | FaultKind.PARTITION:
            return scenario.workers.hosts
        case _:
            return 1


def draw_faults(scenario: Scenario, seed: int) -> list[TimedFault]:
    """The faults of one run, in order of time."""
    rates, end = scenario.faults, scenario.days * DAY_SECONDS
    lease, longest = float(scenario.workers.lease_seconds), _whole_seconds(scenario)
    faults: list[TimedFault] = []

    def draw(kind: FaultKind, per_day: float, duration: Duration) -> None:
        for target in range(target_count(scenario, kind)):
            random = Random(f"{seed}/{kind}/{target}")
            at = 0.0
            while per_day > 0:
                at += random.expovariate(per_day / DAY_SECONDS)
                if at >= end:
                    break
                lasts = min(round(duration(random), 6), longest)
                faults.append(TimedFault(round(at, 6), kind, target, lasts))

    draw(FaultKind.KILL, rates.worker_kills_per_day, lambda _r: 0.0)
    draw(FaultKind.PAUSE, rates.worker_pauses_per_day, lambda r: lease * r.uniform(1.2, 3.0))
    draw(FaultKind.TERM, rates.worker_stops_per_day, lambda _r: 0.0)
    draw(FaultKind.REBOOT, rates.host_reboots_per_day, lambda _r: 120.0)
    cut, away = rates.partition_seconds, rates.database_outage_seconds
    draw(FaultKind.PARTITION, rates.partitions_per_day, lambda r: cut * r.uniform(0.2, 3))
    draw(FaultKind.OUTAGE, rates.database_restarts_per_day, lambda _r: away)
    faults += [TimedFault(at, FaultKind.OUTAGE, 0, seconds) for at, seconds in rates.outages]
    faults += [TimedFault(at, FaultKind.STOP, 0, seconds) for at, seconds in rates.processing_stops]
    faults += [TimedFault(at, FaultKind.FILL, 0, seconds) for at, seconds in rates.disk_fills]
    faults += parse_timed_faults(",".join(rates.plan))
    return sorted(faults)


def check_faults(scenario: Scenario, faults: Iterable[TimedFault]) -> None:
    """Raise `ScenarioError` for a fault without a target, too early or late, or too long.

    A disk that stays full is simulated poll by poll.
    """
    end, longest = scenario.days * DAY_SECONDS, _whole_seconds(scenario)
    for fault in faults:
        last = target_count(scenario, fault.kind) - 1
        if fault.target > last:
            raise ScenarioError(
                f"fault {fault}: the number of a {fault.kind} is at most {last} here"
            )
        if fault.at_seconds < 0:
            raise ScenarioError(f"fault {fault}: it must not begin before 0 s")
        if fault.seconds < 0:
            raise ScenarioError(f"fault {fault}: it must last 0 s at least")
        if fault.at_seconds > end:
            raise ScenarioError(f"fault {fault}: {scenario.name} observes for {end:g} s only")
        if fault.seconds > longest:
            raise ScenarioError(
                f"fault {fault}: it lasts at most {longest:g} s here, until the drain is over"
            )


def _whole_seconds(scenario: Scenario) -> float:
    """With the time that the workers may go on after the last group."""
    return scenario.days * DAY_SECONDS + scenario.drain_seconds


def shrink(
    faults: Sequence[TimedFault],
    violates: Callable[[Sequence[TimedFault]], bool],
    tries_max: int = 200,
) -> list[TimedFault]:
    """The faults without halves, quarters, ... single faults, as long as the rest still `violates`.

    No single fault of the result can be left out, unless `tries_max` was reached before.
    """
    kept, size, tries = list(faults), max(len(faults) // 2, 1), 0
    while kept and tries < tries_max:
        for start in range(0, len(kept), size):
            rest = kept[:start] + kept[start + size :]
            tries += 1
            if violates(rest):
                kept = rest
                break
            if tries >= tries_max:
                break
        else:
            if size == 1:
                break
            size = max(size // 2, 1)
            continue
        size = min(size, max(len(kept) // 2, 1))
    return kept
