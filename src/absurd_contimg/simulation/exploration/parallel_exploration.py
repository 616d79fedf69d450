"""An exploration on several cores: each process tries its share of the first blows."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from absurd_contimg.simulation.exploration.crash_run import Blow
from absurd_contimg.simulation.exploration.exploration_spec import Setup
from absurd_contimg.simulation.exploration.explorer import Exploration, explore

Told = Callable[[int, int, Exploration], None]
"""How many shares are done, of how many, and the sum of what they explored."""


@dataclass(frozen=True, slots=True)
class Hunt:
    """Which first blows, and which second ones after each; none: single blows only."""

    firsts: tuple[Blow, ...]
    seconds: tuple[Blow, ...] = ()

    @property
    def shares(self) -> int:
        """So many that nobody waits long for the slowest, progress is seen, and one can go on."""
        return 64 if self.seconds else 8


def explore_on_cores(
    make_setup: Callable[[], Setup],
    hunt: Hunt,
    jobs: int,
    told: Told | None = None,
    after: int = 0,
) -> Exploration:
    """The same as `explore`, in `jobs` processes; `make_setup` is a function of a module.

    The sum does not depend on the number of jobs. The first `after` shares of the hunt are left
    out: an earlier exploration has told of them.
    """
    total = Exploration()
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        explored = pool.imap(partial(_share, make_setup, hunt), range(after, hunt.shares))
        for number, one in enumerate(explored, start=after + 1):
            _add(total, one)
            if told is not None:
                told(number, hunt.shares, total)
    return total


def _share(make_setup: Callable[[], Setup], hunt: Hunt, number: int) -> Exploration:
    return explore(
        make_setup(),
        blows=hunt.firsts,
        pairs=bool(hunt.seconds),
        pair_blows=hunt.seconds or None,
        shard=(number, hunt.shares),
    )


def _add(total: Exploration, one: Exploration) -> None:
    total.effects, total.moments = one.effects, one.moments
    total.distinct_moments, total.landmarks = one.distinct_moments, one.landmarks
    total.futures += one.futures
    total.same += one.same
    total.struck += one.struck
    total.processor_seconds += one.processor_seconds
    total.findings += one.findings
