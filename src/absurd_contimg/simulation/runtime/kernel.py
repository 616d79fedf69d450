"""The kernel of the simulated world: SimPy's clock and the queue of ready callbacks.

SimPy's environment decides what happens next; between two of its events every ready callback of
every simulated process runs, and takes no time. It knows no database, disk or stage. Speed comes
before style here: see docs/simulation-speed.md.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import simpy
from simpy.events import NORMAL

if TYPE_CHECKING:
    from absurd_contimg.simulation.runtime.loop import SimLoop


class Deadlock(RuntimeError):
    """No callback is ready and no event is scheduled, but a task still waits."""


class Livelock(RuntimeError):
    """More callbacks ran than the bound allows: a loop does not end."""


class HostClock(NamedTuple):
    """What a host's clock shows: `ahead_seconds`, and `rate` seconds in one of the world's."""

    ahead_seconds: float = 0.0
    rate: float = 1.0


RIGHT_CLOCK = HostClock()


class QuickHandle(asyncio.TimerHandle):
    """A callback or a timer of asyncio, cheap to make and to run.

    A timer is an event in SimPy's heap, so that both have one order. `_args` holds the function
    and its arguments in one tuple, so that running it copies nothing.
    """

    __slots__ = ()
    _repr = _source_traceback = None

    def cancel(self) -> None:
        """Never run; the heap drops it later, and the clock does not move."""
        self._args = CANCELLED

    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._args is CANCELLED

    _cancelled = property(cancelled)
    _callback = property(lambda self: self._args[0])


END_OF_SLEEP: Any = asyncio.futures._set_result_unless_cancelled  # type: ignore[attr-defined]
"""What `asyncio.sleep` asks a timer to call. It reads no context, so its timer has none, and the
kernel does the same without the call: a tenth of a sleep."""
CANCELLED = (bool,)
"""The call of a cancelled handle: without an effect, where it still comes to it."""


class Kernel:
    """Runs the event loops of all simulated processes on one virtual clock.

    With `shuffle_seed` the callbacks that are ready at the same time run in an order drawn from
    that seed; without it, first come, first served. Either order is the same every time.
    """

    def __init__(self, start: float = 0.0, shuffle_seed: int | None = None) -> None:
        self.env = simpy.Environment(start)
        """Only the kernel may run it: its heap also holds timers of asyncio."""
        self.ready: deque[asyncio.Handle] = deque()
        self.paused_calls: list[SimLoop] = []
        """Processes paused in the middle of a call, each inside of the call before."""
        self.callbacks_run = 0
        self._random = None if shuffle_seed is None else Random(shuffle_seed)
        self._stopped = False
        self.attention = False
        """Whether the run loop has to handle a stop, a death or a pause first."""
        self._terminated: list[SimLoop] = []
        self.processes: list[SimLoop] = []
        """Those that are alive."""
        self.serials = count(1)
        """Numbers for tasks: sets of tasks keep the same order in every interpreter."""
        self.switch: Callable[[SimLoop | None], None] | None = None
        """Called before code of a process runs; None: all have ended."""

    @property
    def now(self) -> float:
        """Virtual time in seconds."""
        return float(self.env._now)

    def schedule(self, event: Any, when: float) -> None:
        """Let an event or a timer happen at `when`; one in the past happens now."""
        # NORMAL, as SimPy's own: events at one time happen in the order of their creation.
        env = self.env
        heappush(env._queue, (max(when, env._now), NORMAL, next(env._eid), event))

    def terminate(self, process: SimLoop) -> None:
        """End the tasks of a dead process before the next callback runs."""
        self._terminated.append(process)
        self.attention = True

    def stop(self) -> None:
        """Let `run` return after the current callback."""
        self._stopped = self.attention = True

    def resume(self) -> None:
        """Take back a `stop` that was meant for an inner `run` only."""
        self._stopped = False

    def run(self, until: float | None = None, callbacks_max: int | None = None) -> None:
        """Run until `stop` is called or, if given, until that time; else `Deadlock` or `Livelock`.

        `callbacks_max` decides what counts as a livelock.
        """
        self._stopped = False
        if until is not None:
            stop = self.env.event()
            stop._ok, stop._value = True, None
            stop.callbacks.append(lambda _event: self.stop())
            self.schedule(stop, until)
        limit = sys.maxsize if callbacks_max is None else self.callbacks_run + callbacks_max
        before = asyncio._get_running_loop()
        try:
            self._run(limit)
        finally:
            self._enter(before)

    def _enter(self, loop: Any) -> None:
        """Let code of this loop run."""
        asyncio._set_running_loop(loop)
        if self.switch is not None and loop is not None:
            self.switch(loop)

    def _run(self, limit: int) -> None:  # noqa: PLR0912 - a call for a branch takes too long
        # Every event of the world passes here, so everything is in local names.
        env, ready = self.env, self.ready
        queue: list[Any] = env._queue
        take = ready.popleft if self._random is None else self._draw
        entered: Any = None
        self.attention = True
        first = self.callbacks_run + 1
        for self.callbacks_run in range(first, limit + 1):
            if self.attention:
                self._reap()
                if self._stopped:  # an outer run may have to stop too
                    return
                self.attention = False
                entered = None
            handle: Any
            if ready:
                handle = take()
            elif not queue:
                raise Deadlock(
                    f"At {self.now} s nothing is ready and nothing is scheduled. Waiting: "
                    f"{self._waiting()}. What should wake them was never scheduled."
                )
            elif type(queue[0][3]) is not QuickHandle:
                env.step()
                continue
            else:
                when, _, _, handle = heappop(queue)
                if handle._args is CANCELLED:
                    continue
                env._now = when
            loop = handle._loop
            if loop is not entered:
                if loop.held is not None:
                    loop.held.append(handle)
                    continue
                self._enter(loop)
                entered = loop
            call, context = handle._args, handle._context
            try:
                if context is not None:
                    context.run(*call)
                elif call is not CANCELLED and not call[1].cancelled():  # the end of a sleep
                    call[1].set_result(call[2])
            except BaseException as error:  # noqa: BLE001 - its loop reports it
                loop.report(error, handle)
        raise Livelock(
            f"{limit} callbacks have run by {self.now} s: a loop does not end. "
            f"Unfinished: {self._waiting()}."
        )

    def _draw(self) -> asyncio.Handle:
        """One of the ready callbacks, drawn from the seed."""
        ready, random = self.ready, cast(Random, self._random)
        other = random.randrange(len(ready))
        ready[0], ready[other] = ready[other], ready[0]
        return ready.popleft()

    def _reap(self) -> None:
        """End the tasks of dead processes."""
        while self._terminated:
            process = self._terminated.pop()
            self._enter(process)
            process.reap()
            self.processes.remove(process)

    def _waiting(self) -> str:
        waiting = [f"{each.name}: {text}" for each in self.processes for text in each.waiting()]
        return "; ".join(waiting[:8]) or "no task"

    def close(self) -> None:
        """End every process, so that nothing is left of them."""
        for process in list(self.processes):
            process.kill()
        before = asyncio._get_running_loop()
        try:
            self._reap()
        finally:
            asyncio._set_running_loop(before)
        if self.switch is not None:
            self.switch(None)
            self.switch = None
        self.ready.clear()
        now = self.env._now
        vars(self.env).clear()  # its bound methods are reference cycles
        self.env._now = now
