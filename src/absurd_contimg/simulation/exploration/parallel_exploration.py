"""An exploration in several processes: each injects its part of the first faults."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from absurd_contimg.simulation.exploration.exploration_spec import ExplorationSpec
from absurd_contimg.simulation.exploration.explorer import Exploration, explore
from absurd_contimg.simulation.model.faults import FaultKind

OnProgress = Callable[[int, int, Exploration], None]
"""Called with the number of finished parts, of all parts, and the sum of what they explored."""


@dataclass(frozen=True, slots=True)
class ExplorationPlan:
    """Which kinds come first, and which second after each of them; none: single faults only."""

    firsts: tuple[FaultKind, ...]
    seconds: tuple[FaultKind, ...] = ()

    @property
    def parts(self) -> int:
        """Enough that no process waits long for the slowest, and that progress is seen."""
        return 64 if self.seconds else 8


def explore_on_cores(
    make_spec: Callable[[], ExplorationSpec],
    plan: ExplorationPlan,
    jobs: int,
    on_progress: OnProgress | None = None,
    after: int = 0,
) -> Exploration:
    """The same as `explore`, in `jobs` processes; `make_spec` is a function of a module.

    The sum does not depend on the number of jobs. The first `after` parts of the plan are left
    out: an earlier exploration has run them.
    """
    total = Exploration()
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        parts = pool.imap(partial(_explore_part, make_spec, plan), range(after, plan.parts))
        for number, exploration in enumerate(parts, start=after + 1):
            total.add(exploration)
            if on_progress is not None:
                on_progress(number, plan.parts, total)
    return total


def _explore_part(
    make_spec: Callable[[], ExplorationSpec], plan: ExplorationPlan, number: int
) -> Exploration:
    return explore(
        make_spec(),
        faults=plan.firsts,
        pairs=bool(plan.seconds),
        second_faults=plan.seconds or None,
        part=(number, plan.parts),
    )
