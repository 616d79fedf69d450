"""Which futures after kills are the same, so that the explorer runs one of them.

Equal contents of the world at one time have one future. Where time does not matter to the spec,
equal contents at two times have futures that differ by the time between: the leases that still run
end as much later, and so on. Such a future is left out only if the other one has ended well.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import Any, NamedTuple, cast

from absurd_contimg.backends.memory.schema import columns_of
from absurd_contimg.backends.memory.values import times
from absurd_contimg.simulation.model.world import EPOCH, State

_ID_NS = 1000
"""An id is later than the one before by less: what was made longer ago decides no id to come."""


class Beginning(NamedTuple):
    """What decides a future."""

    time: float
    contents: Hashable


def contents_from(state: State, time: float) -> tuple[Hashable, ...]:
    """What a state holds, its times as that from `time` on where they are not over yet."""
    database, *others = state.contents()
    tables, (seed, chunk, length, last_ns) = cast(Any, database)
    now_us = times.from_datetime(EPOCH + timedelta(seconds=time))
    rows_from = [
        (name, parent, partition, tuple(_row_from(row, now_us) for _, row in rows))
        for name, parent, partition, rows in tables
    ]
    ids = seed, chunk, length, max(last_ns - now_us * 1000, -_ID_NS)
    return tuple(rows_from), ids, *others


def _row_from(row: Any, now_us: int) -> tuple[Hashable, ...]:
    values = list(row)
    for place in _places_of_times(row.__class__):
        value = values[place]
        if value is not None and value >= now_us:
            values[place] = ("from now", value - now_us)
    return tuple(values)


@lru_cache
def _places_of_times(row: Any) -> tuple[int, ...]:
    known = enumerate(columns_of(row))
    return tuple(place for place, column in known if column.type_name == "timestamptz")


@dataclass(frozen=True, slots=True)
class _Ended:
    """A future that has ended without violations."""

    time: float
    """When it began."""
    spare_seconds: float
    """How much later it might have ended."""
    checks: int
    """How much was demanded of it."""


@dataclass(slots=True)
class KnownFutures:
    """The futures that were run, by what decided them, for one run and one more fault."""

    time_matters: bool
    _run: set[Hashable] = field(default_factory=set)
    _ended_well: dict[Hashable, _Ended] = field(default_factory=dict)
    """By contents at any time; only where time does not matter."""
    _under_way: list[tuple[Hashable, float]] = field(default_factory=list)
    """What decides the future that is run now: contents, and their time."""

    def holds(self, place: Hashable, kind: Hashable, checks: int, beginning: Beginning) -> bool:
        """Whether a future with this beginning was run; notes it if not.

        Only futures of one `place` are compared, and at one time those of one `kind`. The one that
        was run at another time must have been under as many `checks`, and this one, which ends as
        much later, may not be late.
        """
        exact = (place, kind, beginning)
        if exact in self._run:
            self._under_way.clear()
            return True
        self._run.add(exact)
        if self.time_matters:
            return False
        time, contents = beginning
        self._under_way.append(((place, contents), time))
        other = self._ended_well.get((place, contents))
        if other is None or other.checks < checks:
            return False
        spare_seconds = other.spare_seconds - (time - other.time)
        if spare_seconds < 0:
            return False
        self.end(spare_seconds, checks)
        return True

    def end(self, spare_seconds: float | None, checks: int) -> None:
        """The future under way has ended, so long before it would be late; None: not well."""
        if spare_seconds is not None:
            for contents, time in self._under_way:
                known = self._ended_well.get(contents)
                if known is None or known.checks < checks:
                    self._ended_well[contents] = _Ended(time, spare_seconds, checks)
        self._under_way.clear()
