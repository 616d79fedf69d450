"""Notices a task that calls the world again and again while no time passes, and endless spawns.

Such calls do not wait, so all of them may happen in one callback, and the kernel, which counts
callbacks, never gets to count. Tasks that spawn tasks of their own name would go on, each a little
slower than the one before.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import Counter
from typing import Any, NamedTuple
from uuid import UUID

import absurd_sdk

from absurd_contimg.backends.memory import MemoryDatabase
from absurd_contimg.core.evidence import line_of_handler
from absurd_contimg.simulation.runtime.loop import SimLoop

_CALLS_MAX = 20_000
"""Of one task at one moment; a handler that spawns 10,000 tasks at once has half of them."""
_SPAWNS_MAX = 5000
"""Of tasks with one of their own name before them; some seconds of work."""
ENDLESS_SPAWNS = "tasks spawn tasks without end"


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
        return (
            f"{_CALLS_MAX} calls were made at {now:g} s by {task.get_name()!r}{_where()}: a loop "
            f"does not end. The last call is {call}."
        )


def _where() -> str:
    """The line of the handler that runs, where it is known."""
    line = line_of_handler("".join(traceback.format_stack()))
    return "" if line is None else f" at {line}"


class _Ancestry(NamedTuple):
    """A task's name, and who has spawned it."""

    name: str
    parent: _Ancestry | None = None
    names: frozenset[str] = frozenset()
    """Of all tasks before it."""


class SpawnCounter:
    """Counts the tasks that have a task of their own name among those that led to their spawn."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database
        self._tasks: dict[int, _Ancestry] = {}
        """By the number of the id."""
        self._recursive = 0

    def count(self, now: float) -> str | None:
        """Count what the task that runs has just spawned; what is wrong, once it is too many."""
        context = absurd_sdk.get_current_context()
        if context is None:
            return None
        spawner = UUID(context.task_id).int
        for table in self._database.relations.of_queues["t"].values():
            newest = next(reversed(table.rows.values()), None)
            if newest is None or newest.task_id in self._tasks:
                continue
            if spawner not in self._tasks:
                if (row := table.rows.get(spawner)) is None:
                    continue
                self._tasks[spawner] = _Ancestry(row.task_name)
                if newest is row:
                    continue
            parent, name = self._tasks[spawner], newest.task_name
            self._tasks[newest.task_id] = _Ancestry(name, parent, parent.names | {parent.name})
            self._recursive += name in self._tasks[newest.task_id].names
            if self._recursive >= _SPAWNS_MAX:
                chain = _chain(self._tasks[newest.task_id])
                return (
                    f"{ENDLESS_SPAWNS}: {chain}. By {now:g} s {_SPAWNS_MAX} tasks have been "
                    f"spawned that have a task of their own name before them, the last{_where()}. "
                    "Give the test an end that comes sooner, as by its parameters"
                )
        return None


def _chain(task: _Ancestry) -> str:
    """The names from a task back to the next one of its own name."""
    names, before = [task.name], task.parent
    while before is not None:
        names.append(before.name)
        if before.name == task.name:
            break
        before = before.parent
    return " <- ".join(names)
