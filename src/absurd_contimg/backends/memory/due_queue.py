"""`DueQueue`: entries that are taken in ascending order, and mostly pushed in that order.

What comes in order waits in a line, the rest in a heap. So a million tasks that were spawned one
after the other cost a claim no more than a thousand: a heap so deep is read all over memory.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from typing import Self

Entry = tuple[int, int]
"""A moment, and whose it is."""


class DueQueue:
    """A priority queue of moments."""

    __slots__ = ("_heap", "_line")

    def __init__(self) -> None:
        self._line: deque[Entry] = deque()
        self._heap: list[Entry] = []

    def __len__(self) -> int:
        return len(self._line) + len(self._heap)

    def push(self, entry: Entry) -> None:
        """Add one."""
        line = self._line
        if not line or entry >= line[-1]:
            line.append(entry)
        else:
            heappush(self._heap, entry)

    def pop(self, until: int) -> Entry | None:
        """Take the smallest, if its moment is not after `until`."""
        line, heap = self._line, self._heap
        if line and not (heap and heap[0] < line[0]):
            return line.popleft() if line[0][0] <= until else None
        return heappop(heap) if heap and heap[0][0] <= until else None

    def copy(self) -> Self:
        """An independent one of the same entries."""
        twin = self.__class__()
        twin._line, twin._heap = self._line.copy(), self._heap.copy()
        return twin
