"""The tables of a queue, each with the indexes that Absurd's statements need."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Any, ClassVar

from absurd_contimg.backends.memory.due_queue import DueQueue
from absurd_contimg.backends.memory.rows import (
    CheckpointRow,
    EventRow,
    KeyRow,
    QueueRow,
    RunRow,
    TaskRow,
    WaitRow,
)
from absurd_contimg.backends.memory.table import Table
from absurd_contimg.backends.memory.transaction import Transaction
from absurd_contimg.core.records import LIVE_STATES


def _group_add(groups: dict[Any, tuple[Any, ...]], value: object, key: object) -> None:
    groups[value] = (*groups.get(value, ()), key)


def _group_remove(groups: dict[Any, tuple[Any, ...]], value: object, key: object) -> None:
    rest = tuple(member for member in groups[value] if member != key)
    if rest:
        groups[value] = rest
    else:
        del groups[value]


class Queues(Table[str, QueueRow]):
    """``absurd.queues``."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "queues"


LIVE = frozenset(LIVE_STATES)
CLAIMABLE = frozenset({"pending", "sleeping"})
_SLACK = 64


class Tasks(Table[int, TaskRow]):
    """``t_<queue>``, with the idempotency keys and the moments at which rules cancel tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.by_key: dict[str, int] = {}
        self.unique_key = True
        self.deadlines: list[tuple[int, int]] = []
        self.ruled: dict[int, int] = {}

    def reindex(self, old: TaskRow | None, new: TaskRow | None) -> None:
        """See `Table.reindex`."""
        if self.unique_key:
            if old is not None and old.idempotency_key is not None:
                self.by_key.pop(old.idempotency_key, None)
            if new is not None and new.idempotency_key is not None:
                self.by_key[new.idempotency_key] = new.task_id
        if old is not None and old.cancellation is not None:
            self.ruled.pop(old.task_id, None)
        if new is not None and new.cancellation is not None and new.state in LIVE:
            due = self.rule_due(new)
            self.ruled[new.task_id] = due
            heappush(self.deadlines, (due, new.task_id))
            if len(self.deadlines) > 2 * len(self.ruled) + _SLACK:
                self.deadlines = [(due, task_id) for task_id, due in self.ruled.items()]
                heapify(self.deadlines)

    rule_due: ClassVar[Any]
    """When a cancellation rule may apply to a live task; set by `procedures.cancellation`."""

    def ruled_by(self, now: int) -> list[int]:
        """Live tasks whose rule is due at `now`, and those whose rule is malformed."""
        heap = self.deadlines
        due: list[int] = []
        while heap and heap[0][0] <= now:
            moment, task_id = heappop(heap)
            if self.ruled.get(task_id) == moment:
                due.append(task_id)
        unique = sorted(set(due))
        for task_id in unique:
            heappush(heap, (self.ruled[task_id], task_id))
        return unique


class Runs(Table[int, RunRow]):
    """``r_<queue>``, with the runs that can be claimed and the leases that can expire.

    Stale entries of both orders are dropped when they come up or outnumber the rows: pushing and
    popping are logarithmic at most, and undo needs nothing but another push.
    """

    partition_key = "run_id"

    def __init__(self) -> None:
        super().__init__()
        self.by_task: dict[int, tuple[int, ...]] = {}
        self.due = DueQueue()
        self.leases: list[tuple[int, int]] = []

    def reindex(self, old: RunRow | None, new: RunRow | None) -> None:
        """See `Table.reindex`."""
        if new is None:
            if old is not None:
                _group_remove(self.by_task, old.task_id, old.run_id)
            return
        if old is None:
            _group_add(self.by_task, new.task_id, new.run_id)
        elif old.task_id != new.task_id:
            _group_remove(self.by_task, old.task_id, old.run_id)
            _group_add(self.by_task, new.task_id, new.run_id)
        if new.state in CLAIMABLE:
            if old is None or old.state not in CLAIMABLE or old.available_at != new.available_at:
                self.due.push((new.available_at, new.run_id))
                if len(self.due) > 2 * len(self.rows) + _SLACK:
                    self._rebuild_due()
        elif new.state == "running" and new.claim_expires_at is not None:
            expires = new.claim_expires_at
            if old is None or old.state != "running" or old.claim_expires_at != expires:
                heappush(self.leases, (expires, new.run_id))
                if len(self.leases) > 2 * len(self.rows) + _SLACK:
                    self._rebuild_leases()

    def _rebuild_due(self) -> None:
        entries = ((r.available_at, r.run_id) for r in self.rows.values() if r.state in CLAIMABLE)
        self.due = DueQueue()
        for entry in sorted(entries):
            self.due.push(entry)

    def _rebuild_leases(self) -> None:
        self.leases = [
            (row.claim_expires_at, row.run_id)
            for row in self.rows.values()
            if row.state == "running" and row.claim_expires_at is not None
        ]
        heapify(self.leases)

    def pop_due(self, now: int) -> RunRow | None:
        """Take the first claimable run that is due at `now` out of the order; None if none is."""
        due, rows = self.due, self.rows
        while (entry := due.pop(now)) is not None:
            moment, run_id = entry
            row = rows.get(run_id)
            if row is not None and row.available_at == moment and row.state in CLAIMABLE:
                return row
        return None

    def push_due(self, row: RunRow) -> None:
        """Undo `pop_due`."""
        self.due.push((row.available_at, row.run_id))

    def pop_expired(self, now: int) -> RunRow | None:
        """Take the first running run whose lease ended by `now` off the heap."""
        heap, rows = self.leases, self.rows
        while heap and heap[0][0] <= now:
            moment, run_id = heappop(heap)
            row = rows.get(run_id)
            if row is not None and row.claim_expires_at == moment and row.state == "running":
                return row
        return None

    def push_expired(self, row: RunRow) -> None:
        """Undo `pop_expired`."""
        if row.claim_expires_at is not None:
            heappush(self.leases, (row.claim_expires_at, row.run_id))

    def of_task(self, tx: Transaction, task_id: int) -> list[RunRow]:
        """The runs of a task that `tx` sees, by id."""
        if self.uncommitted:
            return sorted(row for row in self.scan(tx) if row.task_id == task_id)
        rows = self.rows
        return [rows[run_id] for run_id in sorted(self.by_task.get(task_id, ()))]


class Checkpoints(Table[tuple[int, str], CheckpointRow]):
    """``c_<queue>``."""

    key_columns = (0, 1)

    def __init__(self) -> None:
        super().__init__()
        self.by_task: dict[int, tuple[str, ...]] = {}

    def reindex(self, old: CheckpointRow | None, new: CheckpointRow | None) -> None:
        """See `Table.reindex`."""
        if new is not None and old is None:
            _group_add(self.by_task, new.task_id, new.checkpoint_name)
        elif old is not None and new is None:
            _group_remove(self.by_task, old.task_id, old.checkpoint_name)

    def of_task(self, tx: Transaction, task_id: int) -> list[CheckpointRow]:
        """The checkpoints of a task that `tx` sees, in order of their insertion."""
        if self.uncommitted:
            return [row for row in self.scan(tx) if row.task_id == task_id]
        rows = self.rows
        return [rows[task_id, name] for name in self.by_task.get(task_id, ())]


class Events(Table[str, EventRow]):
    """``e_<queue>``."""


class Waits(Table[tuple[int, str], WaitRow]):
    """``w_<queue>``, keyed by run and step."""

    key_columns = (1, 2)
    partition_column = 1
    partition_key = "run_id"
    nested = ("by_event",)

    def __init__(self) -> None:
        super().__init__()
        self.by_event: dict[str, dict[tuple[int, str], None]] = {}
        self.by_task: dict[int, tuple[tuple[int, str], ...]] = {}
        self.by_run: dict[int, tuple[tuple[int, str], ...]] = {}

    def reindex(self, old: WaitRow | None, new: WaitRow | None) -> None:
        """See `Table.reindex`."""
        if old is not None:
            key = (old.run_id, old.step_name)
            members = self.by_event[old.event_name]
            del members[key]
            if not members:
                del self.by_event[old.event_name]
            _group_remove(self.by_task, old.task_id, key)
            _group_remove(self.by_run, old.run_id, key)
        if new is not None:
            key = (new.run_id, new.step_name)
            self.by_event.setdefault(new.event_name, {})[key] = None
            _group_add(self.by_task, new.task_id, key)
            _group_add(self.by_run, new.run_id, key)

    def for_event(self, tx: Transaction, event_name: str) -> list[WaitRow]:
        """The waits for an event that `tx` sees."""
        if self.uncommitted:
            return [row for row in self.scan(tx) if row.event_name == event_name]
        return [self.rows[key] for key in self.by_event.get(event_name, ())]

    def of_run(self, tx: Transaction, run_id: int) -> list[WaitRow]:
        """The waits of a run that `tx` sees."""
        if self.uncommitted:
            return [row for row in self.scan(tx) if row.run_id == run_id]
        return [self.rows[key] for key in self.by_run.get(run_id, ())]

    def of_task(self, tx: Transaction, task_id: int) -> list[WaitRow]:
        """The waits of a task that `tx` sees."""
        if self.uncommitted:
            return [row for row in self.scan(tx) if row.task_id == task_id]
        return [self.rows[key] for key in self.by_task.get(task_id, ())]


class Keys(Table[str, KeyRow]):
    """``i_<queue>``."""

    def __init__(self) -> None:
        super().__init__()
        self.by_task: dict[int, tuple[str, ...]] = {}

    def reindex(self, old: KeyRow | None, new: KeyRow | None) -> None:
        """See `Table.reindex`."""
        if old is not None:
            _group_remove(self.by_task, old.task_id, old.idempotency_key)
        if new is not None:
            _group_add(self.by_task, new.task_id, new.idempotency_key)
