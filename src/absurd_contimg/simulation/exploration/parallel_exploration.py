"""An exploration on several cores: each process tries its share of the first faults."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from absurd_contimg.simulation.exploration.exploration_spec import ExplorationSpec
from absurd_contimg.simulation.exploration.explorer import Exploration, explore
from absurd_contimg.simulation.model.faults import FaultKind

OnProgress = Callable[[int, int, Exploration], None]
"""How many shares are done, of how many, and the sum of what they explored."""


@dataclass(frozen=True, slots=True)
class ExplorationPlan:
    """Which first faults, and which second ones after each; none: single faults only."""

    firsts: tuple[FaultKind, ...]
    seconds: tuple[FaultKind, ...] = ()

    @property
    def shares(self) -> int:
        """So many that nobody waits long for the slowest, progress is seen, and one can go on."""
        return 64 if self.seconds else 8


def explore_on_cores(
    make_spec: Callable[[], ExplorationSpec],
    plan: ExplorationPlan,
    jobs: int,
    on_progress: OnProgress | None = None,
    after: int = 0,
) -> Exploration:
    """The same as `explore`, in `jobs` processes; `make_spec` is a function of a module.

    The sum does not depend on the number of jobs. The first `after` shares of the plan are left
    out: an earlier exploration has told of them.
    """
    total = Exploration()
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        explored = pool.imap(partial(_share, make_spec, plan), range(after, plan.shares))
        for number, one in enumerate(explored, start=after + 1):
            _add(total, one)
            if on_progress is not None:
                on_progress(number, plan.shares, total)
    return total


def _share(
    make_spec: Callable[[], ExplorationSpec], plan: ExplorationPlan, number: int
) -> Exploration:
    return explore(
        make_spec(),
        faults=plan.firsts,
        pairs=bool(plan.seconds),
        second_faults=plan.seconds or None,
        shard=(number, plan.shares),
    )


def _add(total: Exploration, one: Exploration) -> None:
    total.effects, total.crash_points = one.effects, one.crash_points
    total.distinct_states = one.distinct_states
    total.futures += one.futures
    total.duplicates += one.duplicates
    total.injected += one.injected
    total.processor_seconds += one.processor_seconds
    total.findings += one.findings
