"""The kernel of the simulated world: SimPy's clock and the queue of what is ready to run.

SimPy's environment decides what happens next; between two of its events every ready callback of
every simulated process runs, and takes no time. It knows nothing of databases, disks or stages.
"""

from __future__ import annotations

import asyncio
from collections import deque
from heapq import heappop, heappush
from random import Random
from typing import TYPE_CHECKING, Any

import simpy
from simpy.core import EmptySchedule
from simpy.events import NORMAL

if TYPE_CHECKING:
    from absurd_contimg.simulation.loop import SimLoop


class NothingCanHappen(RuntimeError):
    """No callback is ready and no event is scheduled, yet somebody still waits."""


class Runaway(RuntimeError):
    """More callbacks ran than the bound allows: something turns in circles."""


class Timer(asyncio.TimerHandle):
    """A timer of asyncio that is an event of SimPy: one heap orders both."""

    __slots__ = ("callbacks", "defused")
    _ok = True

    def __init__(
        self,
        when: float,
        callback: Any,
        args: Any,
        loop: SimLoop,
        context: Any,
    ) -> None:
        super().__init__(when, callback, args, loop, context)
        self.callbacks: Any = ()

    def cancel(self) -> None:
        """Never fire. The heap drops it when its turn comes, and the clock does not move."""
        self._cancelled = True
        self._callback = None  # as asyncio does, to free what it holds
        self._args = ()


class VirtualClock(simpy.Environment):
    """SimPy's environment, which also takes events at a point in time and not after a delay."""

    def __init__(self, start: float = 0.0) -> None:
        super().__init__(start)
        self.fired: deque[asyncio.Handle] = deque()

    def schedule_at(self, event: Any, when: float) -> None:
        """Let an event happen at `when`; one in the past happens now."""
        # NORMAL, as SimPy's own: among events of one moment the order of creation decides.
        heap: list[Any] = self._queue
        heappush(heap, (max(when, self._now), NORMAL, next(self._eid), event))

    def step(self) -> None:
        """Process the next event; a timer's callback becomes ready. Cancelled ones do not count.

        Raises `EmptySchedule` when nothing is scheduled.
        """
        queue: list[Any] = self._queue
        while queue:
            event = queue[0][3]
            if type(event) is not Timer:
                super().step()
                return
            when = heappop(queue)[0]
            if not event._cancelled:
                self._now = when
                self.fired.append(event)
                return
        raise EmptySchedule


class Kernel:
    """Runs the event loops of all simulated processes on one virtual clock.

    With `shuffle_seed` the callbacks that are ready at the same moment run in an order drawn
    from that seed; without it, first come, first served. Either order is the same every time.
    """

    def __init__(self, start: float = 0.0, shuffle_seed: int | None = None) -> None:
        self.env = VirtualClock(start)
        self.ready: deque[asyncio.Handle] = self.env.fired
        self.callbacks_run = 0
        self._random = None if shuffle_seed is None else Random(shuffle_seed)
        self._stopped = False
        self._doomed: list[SimLoop] = []
        self._loops: list[SimLoop] = []
        self._serial = 0

    @property
    def now(self) -> float:
        """Virtual time in seconds."""
        return float(self.env._now)

    def next_serial(self) -> int:
        """A number for a task: sets of tasks keep the same order in every interpreter."""
        self._serial += 1
        return self._serial

    def enter(self, loop: SimLoop) -> None:
        """Take in the event loop of a process."""
        self._loops.append(loop)

    def doom(self, loop: SimLoop) -> None:
        """End the tasks of a dead process before anything else happens."""
        self._doomed.append(loop)

    def stop(self) -> None:
        """Let `run` return after the callback that is running."""
        self._stopped = True

    def go_on(self) -> None:
        """Take back a `stop` that was meant for a run inside of the one that goes on."""
        self._stopped = False

    def run(self, until: float | None = None, callbacks_max: int | None = None) -> None:
        """Run until `stop` is called or, if given, until that time.

        Raises `NothingCanHappen` when neither will ever come, and `Runaway` after
        `callbacks_max` callbacks.
        """
        self._stopped = False
        if until is not None:
            stop = self.env.event()
            stop._ok, stop._value = True, None
            stop.callbacks.append(lambda _event: self.stop())
            self.env.schedule_at(stop, until)
        limit = float("inf") if callbacks_max is None else self.callbacks_run + callbacks_max
        before = asyncio._get_running_loop()
        try:
            self._run(limit)
        finally:
            asyncio._set_running_loop(before)

    def _run(self, limit: float) -> None:
        ready, step, enter_loop = self.ready, self.env.step, asyncio._set_running_loop
        entered: SimLoop | None = None
        while not self._stopped:
            if self._doomed:
                self._bury()
                entered = None
            if not ready:
                try:
                    step()
                except EmptySchedule:
                    raise NothingCanHappen(self._who_waits()) from None
                continue
            if self._random is not None:
                other = self._random.randrange(len(ready))
                ready[0], ready[other] = ready[other], ready[0]
            handle = ready.popleft()
            loop: SimLoop = handle._loop  # type: ignore[attr-defined]
            if loop.held is not None:
                loop.held.append(handle)
                continue
            if handle._cancelled:
                continue
            if loop is not entered:
                enter_loop(loop)
                entered = loop
            self.callbacks_run += 1
            try:
                handle._context.run(handle._callback, *handle._args)  # type: ignore[attr-defined]
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 - a callback's error is the loop's to report
                loop.report(error, handle)
            if self.callbacks_run >= limit:
                raise Runaway(f"{limit:.0f} callbacks at {self.now} s: {self._who_waits()}")

    def _bury(self) -> None:
        while self._doomed:
            loop = self._doomed.pop()
            asyncio._set_running_loop(loop)
            loop.bury()
            self._loops.remove(loop)

    def _who_waits(self) -> str:
        waiting = [f"{loop.name}: {text}" for loop in self._loops for text in loop.waiting()]
        shown = "; ".join(waiting[:8]) or "no task"
        return (
            f"At {self.now} s nothing is ready and nothing is scheduled. Waiting: {shown}. "
            "Something that should wake them was never scheduled."
        )

    def close(self) -> None:
        """End every process, so that nothing is left of them."""
        for loop in list(self._loops):
            loop.kill()
        before = asyncio._get_running_loop()
        try:
            self._bury()
        finally:
            asyncio._set_running_loop(before)
        self.ready.clear()
        self.env._queue.clear()
