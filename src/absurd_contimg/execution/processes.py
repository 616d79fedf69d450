"""Stages' processes and threads are waited for to their end (Linux)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import ParamSpec, Protocol, TypeVar, TypeVarTuple, Unpack

from absurd_contimg.execution.lease_watchdog import kill_members
from absurd_contimg.execution.stage_server import ForkedStage

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.01
_UNKILLABLE_SECONDS = 60.0


class InThread(Protocol):
    """Calls a blocking function in a thread."""

    async def __call__(self, function: Callable[[Unpack[Ts]], T], /, *arguments: *Ts) -> T:
        """The function's answer; a cancellation waits for the end of the function."""


class StageProcess(Protocol):
    """The process that leads a stage."""

    @property
    def pid(self) -> int:
        """Also the number of its group and session."""

    @property
    def returncode(self) -> int | None:
        """The exit code, or the negative number of the signal; None until `wait` has returned."""

    async def wait(self) -> int:
        """Wait for its end; the `returncode`."""


async def end_stage(process: StageProcess, mark: bytes) -> None:
    """Kill what is left of a stage, in whatever session; returns when none of it is alive."""
    clock = asyncio.get_running_loop().time
    give_up = clock() + _UNKILLABLE_SECONDS
    while living := await asyncio.to_thread(kill_members, process.pid, mark):
        if clock() > give_up:
            # Blocked in the kernel, as on a dead disk. It can only write into its own scratch.
            _log.error("processes %s of a stage ignore SIGKILL; no longer waiting", living)
            return
        await asyncio.sleep(_POLL_SECONDS)
    await (process.collect() if isinstance(process, ForkedStage) else process.wait())


async def completed(work: Awaitable[T]) -> T:
    """Await work to its end even when cancelled; the cancellation is raised afterwards."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled() and (lost := task.exception()) is not None:
            cancelled.add_note(f"while being cancelled: {lost!r}")
        raise cancelled
    return task.result()


async def uninterrupted(function: Callable[P, T], /, *arguments: P.args, **options: P.kwargs) -> T:
    """Run a short function in a thread, which a cancellation waits for: it may rename files."""
    return await completed(asyncio.to_thread(function, *arguments, **options))
