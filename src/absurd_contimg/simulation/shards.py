"""An exploration on several cores: each process tries its share of the first blows."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from absurd_contimg.simulation.explorer import Exploration, explore
from absurd_contimg.simulation.life import Blow
from absurd_contimg.simulation.setup import Setup

_SHARDS_PER_JOB = 8
"""So that nobody waits long for the slowest share, and progress is seen."""

Told = Callable[[int, int, Exploration], None]
"""How many shards are done, of how many, and the sum of what they explored."""


@dataclass(frozen=True, slots=True)
class Hunt:
    """Which first blows, and which second ones after each; none: single blows only."""

    firsts: tuple[Blow, ...]
    seconds: tuple[Blow, ...] = ()


def explore_on_cores(
    make_setup: Callable[[], Setup], hunt: Hunt, jobs: int, told: Told | None = None
) -> Exploration:
    """The same as `explore`, in `jobs` processes; `make_setup` is a function of a module.

    The sum does not depend on the number of jobs.
    """
    count = jobs * _SHARDS_PER_JOB
    total = Exploration()
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        explored = pool.imap_unordered(partial(_share, make_setup, hunt, count), range(count))
        for number, one in enumerate(explored, start=1):
            _add(total, one)
            if told is not None:
                told(number, count, total)
    return total


def _share(make_setup: Callable[[], Setup], hunt: Hunt, count: int, number: int) -> Exploration:
    return explore(
        make_setup(),
        blows=hunt.firsts,
        pairs=bool(hunt.seconds),
        pair_blows=hunt.seconds or None,
        shard=(number, count),
    )


def _add(total: Exploration, one: Exploration) -> None:
    total.effects, total.moments = one.effects, one.moments
    total.distinct_moments, total.landmarks = one.distinct_moments, one.landmarks
    total.futures += one.futures
    total.same += one.same
    total.struck += one.struck
    total.findings += one.findings


def parse_blows(texts: Sequence[str]) -> tuple[Blow, ...]:
    """Blows by their names, as they stand in plans; raises `ValueError` that lists them."""
    names = [one.value for one in Blow]
    if unknown := [text for text in texts if text not in names]:
        raise ValueError(f"there is no blow {', '.join(unknown)}; known are {', '.join(names)}")
    return tuple(map(Blow, texts))
