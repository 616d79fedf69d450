"""The kernel of the simulated world: SimPy's clock and the queue of what is ready to run.

SimPy's environment decides what happens next; between two of its events every ready callback of
every simulated process runs, and takes no time. It knows nothing of databases, disks or stages.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from heapq import heappop, heappush
from random import Random
from typing import TYPE_CHECKING, Any, cast

import simpy
from simpy.events import NORMAL

if TYPE_CHECKING:
    from absurd_contimg.simulation.runtime.loop import SimLoop


class Deadlock(RuntimeError):
    """No callback is ready and no event is scheduled, yet somebody still waits."""


class Livelock(RuntimeError):
    """More callbacks ran than the bound allows: something turns in circles."""


class Callback(asyncio.Handle):
    """A callback of asyncio that is ready to run, cheap to make and to run.

    `_args` holds the function and its arguments in one tuple, so that running it copies nothing.
    """

    __slots__ = ()
    _repr = _source_traceback = None

    def cancel(self) -> None:
        """Never run."""
        self._args = CANCELLED  # frees what it holds, as asyncio's does

    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._args is CANCELLED

    _cancelled = property(cancelled)
    _callback = property(lambda self: self._args[0])


class Timer(asyncio.TimerHandle):
    """The same for a timer, which is an event in SimPy's heap: one order for both."""

    __slots__ = ()
    _repr = _source_traceback = None

    def cancel(self) -> None:
        """Never fire. The heap drops it when its turn comes, and the clock does not move."""
        self._args = CANCELLED

    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._args is CANCELLED

    _cancelled = property(cancelled)
    _callback = property(lambda self: self._args[0])


def _nothing() -> None:
    """What a cancelled callback would do."""


CANCELLED = (_nothing,)


class VirtualClock(simpy.Environment):
    """SimPy's environment, which also takes events at a point in time and not after a delay.

    Only the kernel may run it: timers of asyncio stand in the same heap.
    """

    def schedule_at(self, event: Any, when: float) -> None:
        """Let an event happen at `when`; one in the past happens now."""
        # NORMAL, as SimPy's own: among events of one moment the order of creation decides.
        heap: list[Any] = self._queue
        now = self._now
        heappush(heap, (when if when > now else now, NORMAL, next(self._eid), event))


class Kernel:
    """Runs the event loops of all simulated processes on one virtual clock.

    With `shuffle_seed` the callbacks that are ready at the same moment run in an order drawn
    from that seed; without it, first come, first served. Either order is the same every time.
    """

    def __init__(self, start: float = 0.0, shuffle_seed: int | None = None) -> None:
        self.env = VirtualClock(start)
        self.ready: deque[asyncio.Handle] = deque()
        self.paused_calls: list[SimLoop] = []
        """Processes that were stopped in the middle of a call, each inside of the one before."""
        self.callbacks_run = 0
        self._random = None if shuffle_seed is None else Random(shuffle_seed)
        self._stopped = False
        self._attention = False
        """Whether the run loop has to look at something: a stop, a death."""
        self._terminated: list[SimLoop] = []
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

    def terminate(self, loop: SimLoop) -> None:
        """End the tasks of a dead process before anything else happens."""
        self._terminated.append(loop)
        self._attention = True

    def look(self) -> None:
        """Look, before the next callback, which processes stand still."""
        self._attention = True

    def stop(self) -> None:
        """Let `run` return after the callback that is running."""
        self._stopped = self._attention = True

    def go_on(self) -> None:
        """Take back a `stop` that was meant for a run inside of the one that goes on."""
        self._stopped = False

    def run(self, until: float | None = None, callbacks_max: int | None = None) -> None:
        """Run until `stop` is called or, if given, until that time.

        Raises `Deadlock` when neither will ever come, and `Livelock` after
        `callbacks_max` callbacks.
        """
        self._stopped = False
        if until is not None:
            stop = self.env.event()
            stop._ok, stop._value = True, None
            stop.callbacks.append(lambda _event: self.stop())
            self.env.schedule_at(stop, until)
        limit = sys.maxsize if callbacks_max is None else self.callbacks_run + callbacks_max
        before = asyncio._get_running_loop()
        try:
            self._run(limit)
        finally:
            asyncio._set_running_loop(before)

    def _run(self, limit: int) -> None:
        # Every event of the world passes here, so what it needs is at hand in local names.
        env, ready = self.env, self.ready
        queue: list[Any] = env._queue
        take = ready.popleft if self._random is None else self._draw
        entered: SimLoop | None = None
        self._attention = True
        first = self.callbacks_run + 1
        for self.callbacks_run in range(first, limit + 1):
            if self._attention:
                if self._look_around():
                    return
                entered = None
            handle: Any
            if ready:
                handle = take()
            elif not queue:
                raise Deadlock(
                    f"At {self.now} s nothing is ready and nothing is scheduled. Waiting: "
                    f"{self._who_waits()}. Something that should wake them was never scheduled."
                )
            elif type(queue[0][3]) is not Timer:
                env.step()
                continue
            else:
                when, _, _, handle = heappop(queue)
                if handle._args is CANCELLED:
                    continue
                env._now = when
            loop: SimLoop = handle._loop
            if loop is not entered:
                if loop.held is not None:
                    loop.held.append(handle)
                    continue
                asyncio._set_running_loop(loop)
                entered = loop
            try:
                handle._context.run(*handle._args)
            except BaseException as error:  # noqa: BLE001 - a callback's error is its loop's to report
                loop.report(error, handle)
        raise Livelock(
            f"{limit} callbacks have run by {self.now} s, and no end: something turns in circles. "
            f"Under way: {self._who_waits()}."
        )

    def _draw(self) -> asyncio.Handle:
        """One of the callbacks that are ready, as the seed has it."""
        ready, random = self.ready, cast(Random, self._random)
        other = random.randrange(len(ready))
        ready[0], ready[other] = ready[other], ready[0]
        return ready.popleft()

    def _look_around(self) -> bool:
        """End the tasks of the dead; whether to stop."""
        self._reap()
        self._attention = self._stopped  # a run around this one may have to stop too
        return self._stopped

    def _reap(self) -> None:
        while self._terminated:
            loop = self._terminated.pop()
            asyncio._set_running_loop(loop)
            loop.reap()
            self._loops.remove(loop)

    def _who_waits(self) -> str:
        waiting = [f"{loop.name}: {text}" for loop in self._loops for text in loop.waiting()]
        return "; ".join(waiting[:8]) or "no task"

    def close(self) -> None:
        """End every process, so that nothing is left of them."""
        for loop in list(self._loops):
            loop.kill()
        before = asyncio._get_running_loop()
        try:
            self._reap()
        finally:
            asyncio._set_running_loop(before)
        self.ready.clear()
        self.env._queue.clear()
