"""Observes which processes run a stage, and how much of their time was of use.

It notes where two processes worked on one stage of one group at a time; whether that may be is an
invariant's business.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from absurd_contimg.execution.executor import StageRequest
from absurd_contimg.simulation.runtime.loop import SimLoop


@dataclass(slots=True)
class StageWatch:
    """The stages that run now in a world, and what was observed of earlier ones."""

    running: dict[tuple[str, str], list[ObservedStage]] = field(default_factory=dict)
    """By group and stage."""
    overlaps: list[str] = field(default_factory=list)
    seconds_used: float = 0.0
    seconds_lost: float = 0.0
    """Of stage time that ended without a product."""


class ObservedStage:
    """One run of a stage by one process, as a context manager; set `useful` when it is done."""

    def __init__(
        self, watch: StageWatch, process: SimLoop, stage: tuple[str, str], request: StageRequest
    ) -> None:
        self._watch, self._process = watch, process
        self._stage, self._request = stage, request
        self.useful = False

    def __enter__(self) -> ObservedStage:
        self._started_at = self._process.kernel.now
        self._watch.running.setdefault(self._stage, []).append(self)
        self._leave_now = self._process.release_at_death(self._leave)
        return self

    def __exit__(self, *_error: object) -> None:
        self._leave_now()
        del self._leave_now  # a reference cycle, which would keep the world in memory

    def _leave(self) -> None:
        running = self._watch.running[self._stage]
        running.remove(self)
        for other in running:
            self._compare(other)
        seconds = self._process.kernel.now - self._started_at
        self._watch.seconds_used += seconds
        if not self.useful:
            self._watch.seconds_lost += seconds

    def _compare(self, other: ObservedStage) -> None:
        """Note the time in which both worked."""
        both, (group, stage) = (self, other), self._stage
        begin = max(max(each._started_at, each._process.resumed_at) for each in both)
        end = min(each._work_ended() for each in both)
        if end > begin:
            self._watch.overlaps.append(
                f"{stage} of {group} ran on {self._process.name} and on {other._process.name} "
                f"from {begin:.3f} s to {end:.3f} s"
            )

    def _work_ended(self) -> float:
        """The stage of a paused worker runs on until the watchdog ends it with the lease."""
        process = self._process
        if process.held is None or process.dead:
            return process.kernel.now
        ends_at = process.paused_at
        if self._request.may_live_until is not None:
            ends_at = max(ends_at, process.world_time(self._request.may_live_until()))
        return min(process.kernel.now, ends_at)
