"""The event loop of one simulated process, and how such a process is paused and dies.

The callbacks of a process can be held (a paused one) or dropped (a dead one) without touching
others. A dead process has no effect any more: its loop takes no callback and tells no time, and
`SimLoop.check_alive` raises `ProcessDied` in the code that is left. That code is ended, task by
task, in the order in which the tasks were made.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextvars import Context, copy_context
from functools import partial
from heapq import heappush
from typing import Any, NoReturn, TypeVar, TypeVarTuple, Unpack, cast

from simpy.events import NORMAL
from typing_extensions import override

from absurd_contimg.simulation.runtime.kernel import (
    END_OF_SLEEP,
    RIGHT_CLOCK,
    Deadlock,
    HostClock,
    Kernel,
    Livelock,
    QuickHandle,
)

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_make: Any = object.__new__
"""Makes a handle without a call of Python code."""
_Future = asyncio.Future
_TASKS_KEPT = 32
_CALLBACKS_MAX = 300_000
"""While a call is paused."""
_CLEANUP_WAITS_MAX = 1000
"""How often a dead task may wait in its ``finally`` before that counts as an error."""


class ProcessDied(BaseException):
    """Raised in the code that is left of a dead process, wherever it uses the world.

    Let it pass. It is no error of the code that meets it.
    """


class UnkillableTask(RuntimeError):
    """A task of a dead process catches `ProcessDied` again and again; the text names it."""


class SimTask(asyncio.Task[Any]):
    """A task whose hash is its number, so that sets of tasks have the same order everywhere."""

    serial: int

    def __new__(cls, *_args: Any, serial: int, **_kwargs: Any) -> SimTask:
        """Set the number first: a task is hashed while it is being made."""
        task = super().__new__(cls)
        task.serial = serial
        return task

    def __init__(self, coro: Any, *, serial: int, **kwargs: Any) -> None:
        super().__init__(coro, **kwargs)
        self._log_destroy_pending = False  # of a world that Ctrl-C has ended, say

    def __hash__(self) -> int:
        return self.serial


class SimLoop(asyncio.AbstractEventLoop):
    """asyncio in virtual time, for one process: nothing really waits or runs in parallel.

    `run_in_executor` calls its function at once: a thread would add an order of its own.
    """

    def __init__(
        self, kernel: Kernel, name: str = "process", clock: HostClock = RIGHT_CLOCK
    ) -> None:
        self.kernel = kernel
        self._env: Any = self.kernel.env
        self._ready = self.kernel.ready
        self.name = name
        if not isinstance(clock, HostClock):
            raise TypeError(
                f"the clock of {name!r} must be a HostClock(ahead_seconds, rate), not {clock!r}"
            )
        self._ahead_seconds, self._rate = clock
        self.held: list[asyncio.Handle] | None = None
        """Callbacks of a paused process; those of a dead one are dropped. None while it runs."""
        self.dead = False
        self.stopping = False
        """SIGTERM has come."""
        self.paused_at = self.resumed_at = float("-inf")
        self.errors: list[BaseException] = []
        self.at_resume: Callable[[], None] = lambda: None
        """Lets a call that is paused in its middle go on."""
        self.resumes_late = False
        """Resumed, but its call is around that of another paused process."""
        self._at_death: dict[object, Callable[[], None]] = {}
        self._tasks: list[SimTask] = []
        self._tasks_max = _TASKS_KEPT
        self.kernel.processes.append(self)

    # -- kill, pause, resume --------------------------------------------------------------

    def check_alive(self) -> None:
        """Raise `ProcessDied` in a dead process; called before every effect."""
        if self.dead:
            raise ProcessDied(self.name)

    def kill(self) -> None:
        """SIGKILL: no code that is left of this process has any effect from now on."""
        if self.dead:
            return
        self.dead = True
        self.held = []
        released, self._at_death = self._at_death, {}
        for release in released.values():
            release()
        self.kernel.terminate(self)

    def pause(self) -> None:
        """SIGSTOP: nothing of this process runs until `resume`; its timers go on."""
        if self.held is None:
            self.held = []
            self.kernel.attention = True
            self.paused_at = self.kernel.now

    def resume(self) -> None:
        """SIGCONT: everything that became ready meanwhile is ready now."""
        if self.held is not None and not self.dead:
            paused_calls = self.kernel.paused_calls
            self.resumes_late = self in paused_calls and self is not paused_calls[-1]
            if self.resumes_late:
                return
            held, self.held = self.held, None
            self.resumed_at = self.kernel.now
            self.at_resume()
            self.kernel.ready.extend(held)

    def at_death(self, key: object, release: Callable[[], None] | None) -> None:
        """Set what the operating system does when this process dies; None removes it."""
        if release is None:
            self._at_death.pop(key, None)
        else:
            self._at_death[key] = release

    def release_at_death(self, release: Callable[[], None]) -> Callable[[], None]:
        """Call `release` when this process dies; the returned function calls it before that."""
        key = object()
        self.at_death(key, release)

        def release_now() -> None:
            if self._at_death.pop(key, None) is not None:
                release()

        return release_now

    def tasks(self) -> list[SimTask]:
        """The unfinished tasks, in the order in which they were made.

        `asyncio.all_tasks` goes through those of all loops that were ever made.
        """
        self._tasks = [task for task in self._tasks if not task.done()]
        return self._tasks

    def reap(self) -> None:
        """End every task of this dead process; called by the kernel only."""
        for task in self.tasks():
            self._end(task)
        self._tasks = []

    def _end(self, task: SimTask) -> None:
        coro = cast("Generator[Any, Any, Any]", task.get_coro())
        for _ in range(_CLEANUP_WAITS_MAX):
            try:
                coro.throw(ProcessDied(self.name))
            except BaseException:  # noqa: BLE001 - nobody is left to handle it
                return
        name = task.get_name()
        raise UnkillableTask(f"{self.name}: task {name!r} catches ProcessDied again and again")

    def waiting(self) -> Iterator[str]:
        """What each unfinished task waits for, one line each."""
        for task in self.tasks():
            frames = task.get_stack(limit=1)
            where = f"{frames[0].f_code.co_qualname}:{frames[0].f_lineno}" if frames else "?"
            yield f"{task.get_name()} in {where}"

    def report(self, error: BaseException, source: object) -> None:
        """Note what a callback raised; errors of a dead process are dropped."""
        if isinstance(error, SystemExit | KeyboardInterrupt):
            raise error
        if not self.dead:
            self.errors.append(error)
            _log.error("%s: %r raised %r", self.name, source, error, exc_info=error)

    # -- asyncio: running -----------------------------------------------------------------

    def run_until_complete(self, future: Any) -> Any:
        """Run all processes until this process' future is done; its result."""
        task = asyncio.ensure_future(future, loop=self)
        task.add_done_callback(lambda _task: self.kernel.stop())
        while not task.done():
            self.kernel.run()
        return task.result()

    def is_running(self) -> bool:
        """Whether this loop is the running one."""
        return asyncio._get_running_loop() is self

    def close(self) -> None:
        """End what is left of every process on this loop's kernel."""
        self.kernel.close()

    # -- asyncio: callbacks and time ------------------------------------------------------

    def time(self) -> float:
        """Virtual time in seconds, by the clock of this process's host."""
        if self.dead:
            raise ProcessDied(self.name)
        now: float = self._env._now
        return self._ahead_seconds + self._rate * now

    def world_time(self, when: float) -> float:
        """The world's time at which `time` is `when`."""
        return (when - self._ahead_seconds) / self._rate

    # Function and arguments come as one tuple and are run as one (see `QuickHandle`): a call of
    # asyncio's own signature would copy them twice. That is why these are not typed as its own.

    def _soon(self, *call: Any, context: Context | None = None) -> Any:
        """asyncio's `call_soon`; the callback of a dead process is dropped."""
        handle = _make(QuickHandle)
        handle._args = call
        handle._loop = self
        handle._context = copy_context() if context is None else context
        if not self.dead:
            self._ready.append(handle)
        return handle

    def _later(self, delay: float, *call: Any, context: Context | None = None) -> Any:
        """asyncio's `call_later`; a dead process' timer never fires."""
        env = self._env
        now = env._now
        timer = _make(QuickHandle)
        timer._args = call
        timer._loop = self
        timer._when = when = now + delay / self._rate if delay > 0 else now
        if context is None and call[0] is not END_OF_SLEEP:
            context = copy_context()
        timer._context = context
        if not self.dead:
            heappush(env._queue, (when, NORMAL, next(env._eid), timer))
        return timer

    def _at(self, when: float, *call: Any, context: Context | None = None) -> Any:
        """asyncio's `call_at`."""
        env = self._env
        now = env._now
        when = (when - self._ahead_seconds) / self._rate
        timer = _make(QuickHandle)
        timer._args = call
        timer._loop = self
        timer._when = when = when if when > now else now
        timer._context = copy_context() if context is None else context
        if not self.dead:
            heappush(env._queue, (when, NORMAL, next(env._eid), timer))
        return timer

    call_soon: Any = _soon
    call_soon_threadsafe: Any = _soon
    call_later: Any = _later
    call_at: Any = _at

    # -- asyncio: futures and tasks -------------------------------------------------------

    @override
    def create_future(self) -> asyncio.Future[Any]:
        return _Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, _T] | Coroutine[Any, Any, _T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[_T]:
        """A task of this process; raises `ProcessDied` in a dead one."""
        if self.dead:
            coro.close()
            raise ProcessDied(self.name)
        serial = next(self.kernel.serials)
        label = name or f"task {serial}"
        task = SimTask(coro, loop=self, name=label, context=context, serial=serial)
        self._tasks.append(task)
        if len(self._tasks) > self._tasks_max:
            self._tasks_max = 2 * len(self.tasks()) + _TASKS_KEPT
        return task

    def run_in_executor(
        self, executor: Any, func: Callable[[Unpack[_Ts]], _T], *args: *_Ts
    ) -> asyncio.Future[_T]:
        """Call the function now; its outcome is in the future that is returned."""
        self.check_alive()
        future: asyncio.Future[_T] = self.create_future()
        try:
            result = copy_context().run(func, *args)
        except Exception as error:  # noqa: BLE001 - the future carries it
            future.set_exception(error)
        else:
            future.set_result(result)
        return future

    # -- asyncio: the rest ----------------------------------------------------------------

    get_debug = bool
    """Never, at the speed of C: asyncio's debug mode reads the wall clock."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Note an error that no code has handled."""
        error = context.get("exception")
        if isinstance(error, ProcessDied | SystemExit | KeyboardInterrupt):
            return  # Ctrl-C has come out of `Kernel.run` already
        shown = error if isinstance(error, BaseException) else RuntimeError(str(context))
        self.report(shown, context.get("message"))


def _refuse(name: str, *_args: object, **_kwargs: object) -> NoReturn:
    raise NotImplementedError(
        f"{name}: there is no network, no process and no signal in virtual time. Give the "
        "handler a replacement, or run it on asyncio's own loop and a real backend."
    )


for _name in vars(asyncio.AbstractEventLoop).keys() - vars(SimLoop).keys():
    if not _name.startswith("_"):
        setattr(SimLoop, _name, partial(_refuse, _name))


def pause_call(process: SimLoop) -> None:
    """Pause a process in the middle of a call that does not wait, until it is resumed.

    SIGSTOP may come between the last check of the clock and the rename of a product. The world goes
    on inside of the call. Of two calls that are paused so, the later one has to go on first, so
    the earlier process may resume a little late. Raises `ProcessDied` when the process is dead or
    the world has ended.
    """
    process.check_alive()
    if process.held is None:
        return
    kernel, resumed = process.kernel, False
    outer = kernel.paused_calls[-1] if kernel.paused_calls else None
    if outer is not None and outer.held is None:
        outer.held = []
        kernel.attention = outer.resumes_late = True

    def resume() -> None:
        nonlocal resumed
        resumed = True
        kernel.stop()

    kept, process.at_resume = process.at_resume, resume
    process.at_death("paused call", resume)
    kernel.paused_calls.append(process)
    try:
        kernel.run(callbacks_max=_CALLBACKS_MAX)
    except (Deadlock, Livelock):
        process.kill()  # the outer run will meet the same
    finally:
        kernel.paused_calls.pop()
        process.at_resume = kept
        if not process.dead:
            process.at_death("paused call", None)
    if resumed:
        kernel.resume()
        if outer is not None and outer.resumes_late:
            outer.resume()
    process.check_alive()
    if process.held is not None:
        raise ProcessDied(f"{process.name}: the world ended while it was paused")


def new_process(kernel: Kernel, name: str, clock: HostClock = RIGHT_CLOCK) -> SimLoop:
    """A process on the kernel: an event loop that can be paused and killed."""
    return SimLoop(kernel, name, clock)  # type: ignore[abstract]  # no files, no signals, no network


def in_virtual_time(main: Awaitable[_T], *, shuffle_seed: int | None = None) -> _T:
    """Run a coroutine in virtual time, as `asyncio.run` does in real time."""
    loop = new_process(Kernel(shuffle_seed=shuffle_seed), "main")
    try:
        return cast(_T, loop.run_until_complete(main))
    finally:
        loop.close()


def instantly(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """The result of a coroutine that never waits; needs no event loop."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return cast(_T, end.value)
    coroutine.close()
    raise RuntimeError(f"{coroutine!r} waits, so it needs an event loop")
