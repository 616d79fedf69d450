"""`DueQueue`: the rows of a table in the order of their moments, as far as they have one.

What comes in order waits in a line, the rest in a heap. So a million tasks that were spawned one
after the other cost a claim no more than a thousand: a heap so deep is read all over memory.
Entries of rows that have changed stay until they come up or outnumber the rows, so undo needs
nothing but another push.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping
from heapq import heappop, heappush
from typing import Any, Generic, Self, TypeVar

R = TypeVar("R", bound=tuple[Any, ...])
_STALE_MIN = 64


class DueQueue(Generic[R]):
    """A priority queue of rows, whose first column is their key."""

    __slots__ = ("_heap", "_line", "_moment_of")

    def __init__(self, moment_of: Callable[[R], int | None]) -> None:
        self._moment_of = moment_of
        self._line: deque[tuple[int, int]] = deque()
        self._heap: list[tuple[int, int]] = []

    def __bool__(self) -> bool:
        return bool(self._line or self._heap)

    def push(self, rows: Mapping[Hashable, R], row: R) -> None:
        """Add a row of these rows, if it has a moment."""
        moment = self._moment_of(row)
        if moment is None:
            return
        line, entry = self._line, (moment, row[0])
        if not line or entry >= line[-1]:
            line.append(entry)
        else:
            heappush(self._heap, entry)
        if len(line) + len(self._heap) > 2 * len(rows) + _STALE_MIN:
            moments = ((self._moment_of(known), known[0]) for known in rows.values())
            self._line = deque(sorted((at, key) for at, key in moments if at is not None))
            self._heap = []

    def pop(self, rows: Mapping[Hashable, R], until: int) -> R | None:
        """Take the row with the smallest moment, if that is not after `until`."""
        line, heap = self._line, self._heap
        while line or heap:
            if line and not (heap and heap[0] < line[0]):
                if line[0][0] > until:
                    return None
                moment, key = line.popleft()
            else:
                if heap[0][0] > until:
                    return None
                moment, key = heappop(heap)
            row = rows.get(key)
            if row is not None and self._moment_of(row) == moment:
                return row
        return None

    def pop_all(self, rows: Mapping[Hashable, R], until: int) -> list[R]:
        """Take every row whose moment is not after `until`, each once."""
        taken: dict[int, R] = {}
        while (row := self.pop(rows, until)) is not None:
            taken[row[0]] = row
        return list(taken.values())

    def copy(self) -> Self:
        """An independent queue of the same entries."""
        twin = self.__class__(self._moment_of)
        twin._line, twin._heap = self._line.copy(), self._heap.copy()
        return twin
