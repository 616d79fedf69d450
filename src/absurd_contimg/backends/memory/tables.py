"""The tables whose rows have their moments: runs that come due or expire, tasks that are late."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping
from heapq import heappop, heappush
from typing import Any, Generic, Self, TypeVar

from absurd_contimg.backends.memory import jsonb
from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.schema import TABLES, RunRow, TaskRow
from absurd_contimg.backends.memory.table import Table
from absurd_contimg.backends.memory.transaction import Transaction
from absurd_contimg.backends.memory.values.text import integer_in
from absurd_contimg.backends.memory.values.times import NEG_INFINITY, SECOND_US, is_finite
from absurd_contimg.core.records import LIVE_STATES

R = TypeVar("R", bound=tuple[Any, ...])
_STALE_MIN = 64


class DueQueue(Generic[R]):
    """A priority queue of rows, whose first column is their key."""

    __slots__ = ("_heap", "_line", "_moment_of")

    def __init__(self, moment_of: Callable[[R], int | None]) -> None:
        self._moment_of = moment_of
        self._line: deque[tuple[int, int]] = deque()
        self._heap: list[tuple[int, int]] = []

    def push(self, rows: Mapping[Hashable, R], row: R) -> None:
        """Add a row of these rows, if it has a moment."""
        moment = self._moment_of(row)
        if moment is not None:
            self.push_moment(rows, moment, row[0])

    def push_moment(self, rows: Mapping[Hashable, R], moment: int, key: int) -> None:
        """Add a row whose moment is known."""
        line, entry = self._line, (moment, key)
        if not line or entry >= line[-1]:
            line.append(entry)
        else:
            heappush(self._heap, entry)
        if len(line) + len(self._heap) > 2 * len(rows) + _STALE_MIN:
            moments = ((self._moment_of(known), known[0]) for known in rows.values())
            self._line = deque(sorted((at, key) for at, key in moments if at is not None))
            self._heap = []

    def pop(self, tx: Transaction, rows: Mapping[Hashable, R], until: int) -> R | None:
        """Take the row with the smallest moment, if that is not after `until`.

        It is back when the transaction is undone. A row may come several times at once.
        """
        line, heap = self._line, self._heap
        while line or heap:
            in_line = line and not (heap and heap[0] < line[0])
            moment, key = line[0] if in_line else heap[0]
            if moment > until:
                return None
            if in_line:
                line.popleft()
            else:
                heappop(heap)
            row = rows.get(key)
            if row is not None and self._moment_of(row) == moment:
                tx.undo.append((self, key, row))
                return row
        return None

    def is_due(self, until: int) -> bool:
        """Whether there may be a row to take."""
        line, heap = self._line, self._heap
        return bool((line and line[0][0] <= until) or (heap and heap[0][0] <= until))

    def restore_row(self, key: Hashable, row: R) -> None:
        """Put back a row that was taken."""
        moment = self._moment_of(row)
        if moment is not None:
            heappush(self._heap, (moment, row[0]))

    def copy(self) -> Self:
        """An independent queue of the same entries."""
        twin = self.__class__(self._moment_of)
        twin._line, twin._heap = self._line.copy(), self._heap.copy()
        return twin


LIVE = frozenset(LIVE_STATES)
CLAIMABLE = frozenset({"pending", "sleeping"})
NO_LEASE: Mapping[str, None] = {"claimed_by": None, "claim_expires_at": None}
"""The columns of a run that nobody holds."""


class Tasks(Table[TaskRow]):
    """``t_<queue>``, with the moments at which rules cancel tasks."""

    due_queues = ("ruled",)

    def __init__(self, name: str) -> None:
        super().__init__(TABLES["t"], name)
        self.ruled = DueQueue(rule_due)

    def reindex(self, old: TaskRow | None, new: TaskRow | None) -> None:
        """Also keep the moments."""
        if self._indexes:
            Table.reindex(self, old, new)
        if new is not None and new.cancellation is not None:
            self.ruled.push(self.rows, new)


def rule_seconds(task: TaskRow, rule: str) -> int | None:
    """``(cancellation->>rule)::bigint``; 22P02 for a rule that is no number."""
    text = jsonb.field_text(task.cancellation, rule)
    return None if text is None else integer_in(text, "bigint")


def cancellation_rule(task: TaskRow) -> tuple[int, int | None]:
    """When the rule that now applies to the task began to count, and its seconds; or raise."""
    started = task.first_started_at
    max_delay = rule_seconds(task, "max_delay")
    max_duration = rule_seconds(task, "max_duration")
    return (task.enqueue_at, max_delay) if started is None else (started, max_duration)


def rule_due(task: TaskRow) -> int | None:
    """When a cancellation rule can first apply to the task, or raise; None if none can."""
    if task.cancellation is None or task.state not in LIVE:
        return None
    try:
        since, seconds = cancellation_rule(task)
    except EngineError:
        return NEG_INFINITY
    if seconds is None:
        return None
    return since + seconds * SECOND_US if is_finite(since) else NEG_INFINITY


class Runs(Table[RunRow]):
    """``r_<queue>``, with the runs that can be claimed and the leases that can expire."""

    due_queues = ("due", "leases")

    def __init__(self, name: str) -> None:
        super().__init__(TABLES["r"], name)
        self.due = DueQueue(claimable_from)
        self.leases = DueQueue(lease_end)

    def reindex(self, old: RunRow | None, new: RunRow | None) -> None:
        """Also keep the moments."""
        if self._indexes:
            Table.reindex(self, old, new)
        if new is None:
            return
        if new.state == "running":
            expires = new.claim_expires_at
            if expires is not None and not (
                old is not None and old.claim_expires_at == expires and old.state == "running"
            ):
                self.leases.push_moment(self.rows, expires, new.run_id)
        elif new.state in CLAIMABLE and (old is None or claimable_from(old) != new.available_at):
            self.due.push_moment(self.rows, new.available_at, new.run_id)


def claimable_from(run: RunRow) -> int | None:
    """When the run can first be claimed; None if it cannot."""
    return run.available_at if run.state in CLAIMABLE else None


def lease_end(run: RunRow) -> int | None:
    """When the run's lease ends; None for a run that does not run or has none."""
    return run.claim_expires_at if run.state == "running" else None
