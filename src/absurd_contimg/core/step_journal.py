"""The record of a tracked step: its starts, how each ended, its parkings, its escalations.

It is kept in the history itself, in two checkpoints beside that of the step: ``$start:<step>``
lists the starts, ``$parked:<step>`` counts its waits for a resource by rule. So history shows
where a worker died, and the next start knows what the earlier ones have met. This module changes
the record; reading and writing checkpoints is for the context.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import cast

from absurd_contimg.core.records import Json

START_PREFIX = "$start:"
"""A checkpoint of this prefix lists the starts of the tracked step named after it."""

RESOURCE_WAITS_PREFIX = "$parked:"
"""A checkpoint of this prefix counts how often a step waited for a resource, by failure rule."""

_STARTS_KEPT = 20
"""Older starts of a step are dropped from its record, so that it stays small."""


class StepRecord:
    """What the history holds of one tracked step, beside its result."""

    def __init__(self, step: str, saved: Json) -> None:
        """`saved` is the state of the checkpoint `name`, None if there is none."""
        self.step = step
        starts = saved.get("starts") if isinstance(saved, Mapping) else None
        self._starts = [
            dict(cast(Mapping[str, Json], one)) for one in cast(list[Json], starts or [])
        ]

    @property
    def name(self) -> str:
        """The name of its checkpoint."""
        return START_PREFIX + self.step

    @property
    def state(self) -> Json:
        """What to save under that name."""
        return {"starts": cast(Json, self._starts[-_STARTS_KEPT:])}

    @property
    def started(self) -> int:
        """How many starts are known."""
        return len(self._starts)

    @property
    def silent(self) -> int:
        """How many starts ended without a word: their workers died."""
        return sum(one.get("outcome") is None for one in self._starts)

    def end_as_poison(self) -> None:
        """Give the silent starts an outcome, so that an operator's retry has a clean count."""
        for one in self._starts:
            if one.get("outcome") is None:
                one["outcome"] = "poison"

    def begin(self, attempt: int, run_id: str, worker_id: str, now: datetime) -> int:
        """Note a start, under the escalations that are due; its number, from 1."""
        number = 1 + max((int(cast(int, one.get("start", 0))) for one in self._starts), default=0)
        escalations = self.escalations
        self._starts.append(
            {
                "start": number,
                "attempt": attempt,
                "run_id": run_id,
                "worker": worker_id,
                "started_at": now.isoformat(),
                "outcome": None,
                **({"escalations": list(escalations)} if escalations else {}),
            }
        )
        return number

    def end(self, outcome: str, escalation: str | None = None) -> None:
        """Note how the last start ended, and which escalation the next one is to have."""
        if self._starts:
            self._starts[-1]["outcome"] = outcome
            if escalation is not None:
                self._starts[-1]["escalation"] = escalation

    @property
    def escalations(self) -> tuple[str, ...]:
        """What a start has to do differently, in the order in which it was found necessary.

        Those of the last start, and what its failure has asked for. A step that was failed for
        good begins anew: an operator who says "again" has changed something.
        """
        if not self._starts or str(self._starts[-1].get("outcome")).startswith(_ENDED_FOR_GOOD):
            return ()
        last = self._starts[-1]
        earlier = cast(Sequence[str], last.get("escalations") or ())
        asked = last.get("escalation")
        return (*earlier, str(asked)) if asked is not None else tuple(earlier)


_ENDED_FOR_GOOD = ("failed", "poison")


def resource_waits(saved: Json) -> dict[str, int]:
    """How often a step waited for a resource, by rule, from its ``$parked:`` checkpoint."""
    counts = saved if isinstance(saved, Mapping) else {}
    return {name: int(cast(int, count)) for name, count in counts.items()}
