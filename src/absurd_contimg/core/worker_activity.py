"""What a worker does now, for those who watch its process; written by the worker alone."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.records import ClaimedTask


class ActiveRun(NamedTuple):
    """A run that the worker works on."""

    claimed: ClaimedTask
    context: TaskContext


@dataclass(slots=True)
class WorkerActivity:
    """The claims and runs of one worker. Times are of the event loop's clock."""

    runs: dict[UUID, ActiveRun] = field(default_factory=dict)
    claims_tried: int = 0
    """Claims that have ended, whatever came of them."""
    claiming_since: float | None = None
    """When the claim began that goes on; None between claims."""

    def claim_begins(self) -> None:
        """Called before each claim."""
        self.claiming_since = asyncio.get_running_loop().time()

    def claim_ends(self) -> None:
        """Called after each claim, whatever came of it."""
        self.claiming_since = None
        self.claims_tried += 1

    def is_stuck(self, seconds: float) -> bool:
        """Whether a claim, or a run whose lease is over, goes on for more than `seconds`.

        A long stage whose lease is extended is not stuck; nor is a worker that waits for work.
        """
        limit = asyncio.get_running_loop().time() - seconds
        if self.claiming_since is not None and self.claiming_since < limit:
            return True
        return any(
            not run.context.fence.abandoned and run.context.fence.deadline < limit
            for run in self.runs.values()
        )
