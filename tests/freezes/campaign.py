"""Workers whose connections to Postgres freeze at random moments, by TCP and by a Unix socket.

Two kinds of freeze: everything is held back for a while, new connections too, and delivered then;
or the present connections are silent for ever while new ones work. Counted are the steps that ran
beside their successor or past the end of their lease, and for how long a worker's claims were not
answered once they could be.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any
from uuid import UUID

from freezing_proxy import FreezingProxy

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.records import ClaimedTask, History
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings

LEASE_SECONDS = 3
POLL_SECONDS = 0.5
GRACE_SECONDS = 0.5
STOP_SECONDS = GRACE_SECONDS + 2.0 + 5.0
"""Grace, the answer to a claim, the release of what still runs."""
_LIVE_TASKS = 3
_STEP_SECONDS = (0.2, 2.5)


@dataclass(frozen=True, slots=True)
class Span:
    """One execution of one step, by the clock of all workers."""

    task_id: str
    worker: str
    began: float
    ended: float
    past_lease_seconds: float


@dataclass(slots=True)
class Result:
    """What some freezes did."""

    freezes: int = 0
    spans: list[Span] = field(default_factory=list)
    deaf_seconds: list[float] = field(default_factory=list)
    """From the end of a freeze to the next claim that is answered."""
    silent_seconds: list[float] = field(default_factory=list)
    """The same from the moment on when the present connections are silent for ever."""
    stop_seconds: list[float] = field(default_factory=list)
    histories: Sequence[History] = ()

    def add(self, other: Result) -> None:
        """Add what another lane has counted."""
        self.freezes += other.freezes
        self.spans += other.spans
        self.deaf_seconds += other.deaf_seconds
        self.silent_seconds += other.silent_seconds
        self.stop_seconds += other.stop_seconds
        self.histories = [*self.histories, *other.histories]

    @property
    def overlaps(self) -> int:
        """Pairs of executions of one task at the same time."""
        by_task: dict[str, list[Span]] = {}
        for span in self.spans:
            by_task.setdefault(span.task_id, []).append(span)
        return sum(
            first.began < second.ended and second.began < first.ended
            for spans in by_task.values()
            for first, second in combinations(spans, 2)
        )

    @property
    def past_lease_seconds(self) -> float:
        """The longest time for which a step ran past the end of its lease."""
        return max((span.past_lease_seconds for span in self.spans), default=0.0)

    @property
    def not_completed(self) -> int:
        """Tasks that ended in another way, or not."""
        return sum(history.task.state != "completed" for history in self.histories)

    def __str__(self) -> str:
        runs = sum(len(history.runs) for history in self.histories)
        return (
            f"{self.freezes} freezes, {len(self.histories)} tasks in {runs} runs, "
            f"{self.not_completed} not completed; {len(self.spans)} executions of steps, "
            f"{self.overlaps} beside their successor, at most {self.past_lease_seconds:.2f} s past "
            f"their lease; claims answered at most {max(self.deaf_seconds, default=0.0):.2f} s "
            f"after a freeze ({len(self.deaf_seconds)}) and "
            f"{max(self.silent_seconds, default=0.0):.2f} s after the connections fell silent "
            f"({len(self.silent_seconds)}); stopped in {max(self.stop_seconds):.2f} s at most"
        )


class _Claims(PostgresBackend):
    """A backend that notes when a claim was last answered."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.answered = asyncio.Event()

    async def claim_task(
        self, queue_name: str, worker_id: str, claim_timeout: int = 30, qty: int = 1
    ) -> list[ClaimedTask]:
        """As it is."""
        claimed = await super().claim_task(queue_name, worker_id, claim_timeout, qty)
        self.answered.set()
        return claimed


async def _run(worker: Worker, backend: PostgresBackend) -> None:
    async with backend.listening(worker):
        await worker.run()


@dataclass(slots=True)
class Lane:
    """One queue with two workers, by TCP and by a Unix socket; one freeze at a time."""

    url: str
    folder: Path
    number: int
    draw: random.Random
    result: Result = field(default_factory=Result)
    _tasks: list[UUID] = field(default_factory=list)

    @property
    def queue(self) -> str:
        """Its queue."""
        return f"lane{self.number}"

    async def run(self, freezes: int) -> Result:
        """Freeze so often, stop the workers in the last freeze, and let all tasks end."""
        async with PostgresBackend(self.url) as direct:
            await direct.create_queue(self.queue)
            ways = (FreezingProxy(self.url, self.folder / f"{self.number}", tcp=t) for t in (0, 1))
            proxies = tuple(ways)
            backends = [await _Claims(proxy.url).open() for proxy in proxies]
            workers = [self._worker(backend, f"w{n}") for n, backend in enumerate(backends)]
            working = [
                asyncio.create_task(_run(*each)) for each in zip(workers, backends, strict=True)
            ]
            feeding = asyncio.create_task(self._feed(direct))
            for number in range(freezes):
                which = self.draw.randrange(2)
                is_last = number == freezes - 1
                await self._freeze(proxies[which], backends[which], thaw=not is_last)
                assert not any(task.done() for task in working)
            feeding.cancel()
            for worker, task in zip(workers, working, strict=True):
                await self._stop(worker, task)
            for proxy, backend in zip(proxies, backends, strict=True):
                proxy.thaw()
                await backend.close()
                proxy.close()
            await self._worker(direct, "last").run(until_idle=True)
            await self._wait_for_end(direct)
        return self.result

    async def _freeze(self, proxy: FreezingProxy, backend: _Claims, *, thaw: bool) -> None:
        await asyncio.sleep(self.draw.uniform(0.0, 1.0))
        self.result.freezes += 1
        if not thaw:
            proxy.freeze()
            await asyncio.sleep(POLL_SECONDS)
            return
        deaf = self.result.deaf_seconds
        if self.draw.random() < 0.5:
            proxy.silence()
            deaf = self.result.silent_seconds
        else:
            proxy.freeze()
            await asyncio.sleep(self.draw.uniform(0.1, 2.0 * LEASE_SECONDS))
            proxy.thaw()
        began = time.monotonic()
        backend.answered.clear()
        async with asyncio.timeout(60):
            await backend.answered.wait()
        deaf.append(time.monotonic() - began)

    async def _stop(self, worker: Worker, working: asyncio.Task[None]) -> None:
        began = time.monotonic()
        worker.stop()
        async with asyncio.timeout(60):
            await working
        self.result.stop_seconds.append(time.monotonic() - began)

    async def _feed(self, backend: PostgresBackend) -> None:
        while True:
            live = await backend.list_tasks(self.queue, states=["pending", "running", "sleeping"])
            if len(live) < _LIVE_TASKS:
                seconds = [self.draw.uniform(*_STEP_SECONDS) for _ in range(2)]
                self._tasks.append((await backend.spawn_task(self.queue, "t", seconds)).task_id)
            await asyncio.sleep(0.2)

    async def _wait_for_end(self, backend: PostgresBackend) -> None:
        """A lease that a frozen worker has left expires first."""
        async with asyncio.timeout(120):
            while True:
                histories = await backend.histories(self.queue, self._tasks)
                if all(history.task.state in ("completed", "failed") for history in histories):
                    break
                await asyncio.sleep(POLL_SECONDS)
                await self._worker(backend, "last").run(until_idle=True)
        self.result.histories = histories

    def _worker(self, backend: PostgresBackend, name: str) -> Worker:
        registry = TaskRegistry()

        async def handler(params: Any, ctx: TaskContext) -> None:
            for number, seconds in enumerate(params):

                async def work(_start: int, seconds: float = seconds) -> None:
                    began = time.monotonic()
                    try:
                        await asyncio.sleep(seconds)
                    finally:
                        ended = time.monotonic()
                        past = ended - ctx.fence.deadline - LEASE_SECONDS / 6
                        self.result.spans.append(Span(ctx.task_id, name, began, ended, past))

                await ctx.tracked_step(f"step {number}", work)

        registry.add("t", handler)
        settings = WorkerSettings(
            self.queue, name, 4, LEASE_SECONDS, POLL_SECONDS, grace_seconds=GRACE_SECONDS
        )
        return Worker(backend, registry, settings)


async def run_campaign(url: str, folder: Path, freezes: int, seed: int, lanes: int) -> Result:
    """The freezes, spread over lanes that run at the same time."""
    shares = [freezes // lanes + (number < freezes % lanes) for number in range(lanes)]
    made = [Lane(url, folder, number, random.Random(f"{seed} {number}")) for number in range(lanes)]
    total = Result()
    for result in await asyncio.gather(
        *(lane.run(share) for lane, share in zip(made, shares, strict=True))
    ):
        total.add(result)
    return total
