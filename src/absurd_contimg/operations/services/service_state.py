"""What a service does and whether it makes progress, as its record and its manager are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from absurd_contimg.core.worker import Worker
from absurd_contimg.core.worker_activity import ActiveRun
from absurd_contimg.history.timeline import group_in

_LEASES_STUCK = 3
"""More than the calls of one claim take (`core.call_bounds`), and a run whose lease is lost."""


class ServiceState(Protocol):
    """A worker, daemon or API. All calls answer at once."""

    def activity(self) -> str:
        """What it does now, for people."""

    def problem(self) -> str:
        """Why it does not do its work; empty if it does."""

    def is_ready(self) -> bool:
        """Whether it has begun to do its work."""

    def is_stopping(self) -> bool:
        """Whether it ends."""

    def is_stuck(self, seconds: float) -> bool:
        """Whether a step of its loop has gone on for more than `seconds`."""


@dataclass(slots=True)
class WorkerState:
    """The workers of one process, one for each queue."""

    workers: Sequence[Worker]
    problems: Sequence[Callable[[], str]] = ()
    """What keeps them from claiming, each empty if it does not."""
    stopping: bool = field(default=False, init=False)

    def stop(self) -> None:
        """Let all workers stop in their grace period."""
        self.stopping = True
        for worker in self.workers:
            worker.stop()

    def activity(self) -> str:
        """The steps that run."""
        runs = [run for worker in self.workers for run in worker.activity.runs.values()]
        text = ", ".join(sorted(map(_description, runs)))
        if self.stopping:
            return f"stops: {text}" if text else "stops"
        return text or "waits for tasks"

    def problem(self) -> str:
        """The first of the problems."""
        problems = (*self.problems, *(worker.problem for worker in self.workers))
        return next((text for problem in problems if (text := problem())), "")

    def is_ready(self) -> bool:
        """After the first claim on each queue, whatever came of it."""
        return all(worker.activity.claims_tried > 0 for worker in self.workers)

    def is_stopping(self) -> bool:
        """Once it was told to stop."""
        return self.stopping

    def is_stuck(self, seconds: float) -> bool:
        """Whether one of them is. A claim may wait for the database for up to two leases."""
        return any(
            worker.activity.is_stuck(
                max(seconds, _LEASES_STUCK * worker.settings.claim_timeout_seconds)
            )
            for worker in self.workers
        )


def _description(run: ActiveRun) -> str:
    step = run.context.current_step or run.claimed.task_name
    return f"{step} of {group_in(run.claimed.params) or run.claimed.task_id}"


@dataclass(slots=True)
class LoopState:
    """A service that does one step after the other, and waits in between."""

    doing: str = "starts"
    trouble: str = ""
    ready: bool = False
    stopping: bool = False
    _since: float | None = None
    """When the step began that goes on, by the event loop's clock; None while it waits."""

    def begin(self, step: str) -> None:
        """A step begins: this is progress."""
        self.doing = step
        self._since = asyncio.get_running_loop().time()

    def wait(self, text: str, trouble: str = "") -> None:
        """Its work is done for now: it waits for time to pass, or for requests."""
        self.doing, self.trouble, self.ready, self._since = text, trouble, True, None

    def stop(self) -> None:
        """It was told to stop."""
        self.stopping = True

    def activity(self) -> str:
        """The step."""
        return f"stops: {self.doing}" if self.stopping else self.doing

    def problem(self) -> str:
        """What hinders it."""
        return self.trouble

    def is_ready(self) -> bool:
        """After the first round."""
        return self.ready

    def is_stopping(self) -> bool:
        """Once it was told to stop."""
        return self.stopping

    def is_stuck(self, seconds: float) -> bool:
        """By the time since the step began."""
        return self._since is not None and asyncio.get_running_loop().time() - self._since > seconds
