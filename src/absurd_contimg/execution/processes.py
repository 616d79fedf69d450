"""Process groups and threads are waited for to their end (Linux)."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.01
_UNKILLABLE_SECONDS = 60.0


async def end_group(process: asyncio.subprocess.Process) -> None:
    """Kill what is left of a process's group; returns when none of it is alive."""
    clock = asyncio.get_running_loop().time
    give_up = clock() + _UNKILLABLE_SECONDS
    while True:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            break
        living = await asyncio.to_thread(_living_members, process.pid)
        if not living:
            break
        if clock() > give_up:
            # Blocked in the kernel, as on a dead disk. It can only write into its own scratch.
            _log.error("processes %s of a stage ignore SIGKILL; no longer waiting", living)
            return
        await asyncio.sleep(_POLL_SECONDS)
    await process.wait()


def _living_members(group: int) -> list[int]:
    """The processes of a group that are not zombies."""
    living = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            text = (entry / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended since it was listed
        state, _, process_group = text.rpartition(")")[2].split()[:3]
        if int(process_group) == group and state not in "ZX":
            living.append(int(entry.name))
    return living


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
