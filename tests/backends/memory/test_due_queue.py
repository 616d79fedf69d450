"""Whatever order entries come in, they are taken in ascending order, and none too early."""

from __future__ import annotations

from heapq import heappop, heappush

from hypothesis import given
from hypothesis import strategies as st

from absurd_contimg.backends.memory.due_queue import DueQueue

ENTRIES = st.tuples(st.integers(0, 9), st.integers(0, 9))


@given(st.lists(ENTRIES | st.integers(0, 9)))
def test_it_is_a_heap(calls: list[tuple[int, int] | int]) -> None:
    """A pair is pushed; a number is a moment until which one is popped."""
    tried, heap = DueQueue(), list[tuple[int, int]]()
    for call in calls:
        kept = tried.copy()
        if isinstance(call, tuple):
            tried.push(call)
            heappush(heap, call)
        else:
            expected = heappop(heap) if heap and heap[0][0] <= call else None
            assert tried.pop(call) == expected
            assert len(kept) == len(heap) + (expected is not None)
        assert len(tried) == len(heap)
