"""Notices a task that calls the world again and again while no time passes.

Such calls do not wait, so all of them may happen in one callback, and the kernel, which counts
callbacks, never gets to count.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import Counter
from typing import Any

from absurd_contimg.core.evidence import line_of_handler
from absurd_contimg.simulation.runtime.loop import SimLoop

_CALLS_MAX = 20_000
"""Of one task at one moment; a handler that spawns 10,000 tasks at once has half of them."""


class CallCounter:
    """Counts the calls that each task makes at one moment."""

    def __init__(self) -> None:
        self._now = 0.0
        self._all_calls = 0
        """At this moment."""
        self._calls: Counter[int] = Counter()
        """By the number of the task, once all tasks together have made too many for one."""

    def count(self, process: SimLoop, call: str) -> str | None:
        """Count one call of the task that runs; what is wrong, once it has made too many."""
        now = process.kernel.now
        if now != self._now:
            self._now, self._all_calls = now, 0
            self._calls.clear()
        self._all_calls += 1
        if self._all_calls <= _CALLS_MAX:
            return None
        task: Any = asyncio.current_task(process)
        if task is None:
            return None
        self._calls[task.serial] += 1
        if self._calls[task.serial] <= _CALLS_MAX:
            return None
        line = line_of_handler("".join(traceback.format_stack()))
        where = "" if line is None else f" at {line}"
        return (
            f"{_CALLS_MAX} calls were made at {now:g} s by {task.get_name()!r}{where}: a loop does "
            f"not end. The last call is {call}."
        )
