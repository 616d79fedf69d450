"""Tables: immutable rows by primary key, indexes beside them, old rows for those who read late.

Rows are named tuples and never change, so that undo log, snapshots and forks share them. Times
are integers (see `times`), UUIDs are 128-bit integers, jsonb is canonical text (see `jsonb`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from heapq import heapify, heappop, heappush
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.locks import RowLock, WouldBlock
from absurd_contimg.backends.memory.text import uuid_out
from absurd_contimg.backends.memory.times import Interval
from absurd_contimg.backends.memory.transaction import Transaction


class QueueRow(NamedTuple):
    """``absurd.queues``."""

    queue_name: str
    created_at: int
    storage_mode: str = "unpartitioned"
    default_partition: str = "enabled"
    partition_lookahead: Interval = Interval(days=28)
    partition_lookback: Interval = Interval(days=1)
    cleanup_ttl: Interval = Interval(days=30)
    cleanup_limit: int = 1000
    detach_mode: str = "none"
    detach_min_age: Interval = Interval(days=30)


class TaskRow(NamedTuple):
    """``t_<queue>``."""

    task_id: int
    task_name: str
    params: str
    headers: str | None
    retry_strategy: str | None
    max_attempts: int | None
    cancellation: str | None
    enqueue_at: int
    first_started_at: int | None
    state: str
    attempts: int
    last_attempt_run: int | None
    completed_payload: str | None
    cancelled_at: int | None
    idempotency_key: str | None


class RunRow(NamedTuple):
    """``r_<queue>``."""

    run_id: int
    task_id: int
    attempt: int
    state: str
    claimed_by: str | None
    claim_expires_at: int | None
    available_at: int
    wake_event: str | None
    event_payload: str | None
    started_at: int | None
    completed_at: int | None
    failed_at: int | None
    result: str | None
    failure_reason: str | None
    created_at: int


class CheckpointRow(NamedTuple):
    """``c_<queue>``."""

    task_id: int
    checkpoint_name: str
    state: str | None
    status: str
    owner_run_id: int | None
    updated_at: int


class EventRow(NamedTuple):
    """``e_<queue>``."""

    event_name: str
    payload: str | None
    emitted_at: int


class WaitRow(NamedTuple):
    """``w_<queue>``."""

    task_id: int
    run_id: int
    step_name: str
    event_name: str
    timeout_at: int | None
    created_at: int


class KeyRow(NamedTuple):
    """``i_<queue>``."""

    idempotency_key: str
    task_id: int


K = TypeVar("K", bound=Hashable)
R = TypeVar("R", bound=tuple[Any, ...])


class Partition(NamedTuple):
    """A partition by range of UUIDs, `lower` included; the default one has no bounds."""

    name: str
    lower: int | None = None
    upper: int | None = None

    @property
    def is_default(self) -> bool:
        """True for the partition that takes what the others do not."""
        return self.lower is None

    def takes(self, value: int) -> bool:
        """Whether the partition accepts a row with this key; the default accepts any."""
        return self.lower is None or self.upper is None or self.lower <= value < self.upper


class Table(Generic[K, R]):
    """Rows by primary key. A subclass keeps the indexes."""

    key_columns: ClassVar[tuple[int, ...]] = (0,)
    partition_column: ClassVar[int] = 0
    partition_key: ClassVar[str] = "task_id"
    nested: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self.partitions: tuple[Partition, ...] | None = None
        self.name = ""
        self.rows: dict[K, R] = {}
        self.row_locks: dict[Hashable, dict[Transaction, RowLock]] = {}
        self.uncommitted: dict[Hashable, tuple[Transaction, R | None]] = {}

    def key_of(self, row: R) -> K:
        """The primary key."""
        columns = self.key_columns
        if len(columns) == 1:
            return row[columns[0]]  # type: ignore[no-any-return]
        return tuple(row[column] for column in columns)  # type: ignore[return-value]

    # -- reading ----------------------------------------------------------------------------

    def get(self, tx: Transaction, key: K) -> R | None:
        """The row as `tx` sees it: its own changes, of others what is committed."""
        if self.uncommitted:
            late = self.uncommitted.get(key)
            if late is not None and late[0] is not tx:
                return late[1]
        return self.rows.get(key)

    def scan(self, tx: Transaction) -> Iterator[R]:
        """All rows that `tx` sees, in order of their insertion."""
        if not self.uncommitted:
            yield from list(self.rows.values())
            return
        late = self.uncommitted
        for key, row in list(self.rows.items()):
            mark = late.get(key)
            if mark is None or mark[0] is tx:
                yield row
            elif mark[1] is not None:
                yield mark[1]
        for gone, (owner, before) in list(late.items()):
            if owner is not tx and before is not None and gone not in self.rows:
                yield before

    # -- writing ----------------------------------------------------------------------------

    def lock(self, tx: Transaction, key: K, mode: RowLock = RowLock.UPDATE) -> None:
        """``select ... for update`` (or a weaker `mode`) on one row."""
        if self.row_locks or tx.explicit:
            tx.lock_row(self, key, mode)

    def may_lock(self, tx: Transaction, key: K, mode: RowLock = RowLock.UPDATE) -> bool:
        """What ``skip locked`` asks."""
        return not self.row_locks or tx.may_lock(self, key, mode)

    def await_change(self, tx: Transaction, key: K) -> None:
        """`WouldBlock` while another transaction has changed the row and not ended.

        What ``on conflict do nothing`` does; a row that is only locked does not hold it up.
        """
        late = self.uncommitted.get(key) if self.uncommitted else None
        if late is not None and late[0] is not tx:
            raise WouldBlock(late[0])

    def put(self, tx: Transaction, key: K, row: R) -> None:
        """Insert, or replace the row of the same key."""
        old = self.rows.get(key)
        if tx.explicit or self.row_locks:
            mode = RowLock.UPDATE if old is None else RowLock.NO_KEY_UPDATE
            tx.lock_row(self, key, mode)
            if tx.explicit:
                tx.mark(self, key, old)
        if self.partitions is not None and old is None:
            self._route(row)
        tx.undo.append((self, key, old))
        self.rows[key] = row
        self.reindex(old, row)

    def name_for(self, value: int | None) -> str:
        """The relation that messages name for a row with this partition key."""
        if self.partitions is None:
            return self.name
        default = None
        for partition in self.partitions:
            if partition.is_default:
                default = partition.name
            elif value is not None and partition.takes(value):
                return partition.name
        if default is None:
            raise self._no_partition(value)
        return default

    def _route(self, row: R) -> None:
        """Refuse a row that no partition takes."""
        value = row[self.partition_column]
        for partition in self.partitions or ():
            if partition.takes(value):
                return
        raise self._no_partition(value)

    def _no_partition(self, value: int | None) -> EngineError:
        return EngineError(
            "23514",
            f'no partition of relation "{self.name}" found for row',
            detail=f"Partition key of the failing row contains ({self.partition_key}) = "
            f"({'null' if value is None else uuid_out(value)}).",
        )

    def delete(self, tx: Transaction, key: K) -> bool:
        """Delete the row if there is one; whether there was."""
        old = self.rows.get(key)
        if tx.explicit or self.row_locks:
            if old is None and key not in self.row_locks:
                return False
            tx.lock_row(self, key, RowLock.UPDATE)
            if tx.explicit:
                tx.mark(self, key, old)
        if old is None:
            return False
        tx.undo.append((self, key, old))
        del self.rows[key]
        self.reindex(old, None)
        return True

    def restore_row(self, key: K, row: R | None) -> None:
        """Put back what the undo log kept."""
        current = self.rows.get(key)
        if row is None:
            self.rows.pop(key, None)
        else:
            self.rows[key] = row
        self.reindex(current, row)

    def reindex(self, old: R | None, new: R | None) -> None:
        """Bring the indexes from `old` to `new`; either may be missing."""

    # -- copying ----------------------------------------------------------------------------

    def copy(self) -> Self:
        """An independent table with the same committed rows, which are shared."""
        twin = self.__class__.__new__(self.__class__)
        for name, value in self.__dict__.items():
            twin.__dict__[name] = value.copy() if isinstance(value, dict | list) else value
        for name in self.nested:
            groups = twin.__dict__[name]
            twin.__dict__[name] = {value: keys.copy() for value, keys in groups.items()}
        twin.row_locks, twin.uncommitted = {}, {}
        for key, (_, before) in self.uncommitted.items():
            twin.restore_row(key, before)  # type: ignore[arg-type]
        return twin


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


LIVE = frozenset({"pending", "sleeping", "running"})
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

    Both orders are heaps whose stale entries are dropped when they come up or outnumber the
    rows: pushing and popping are logarithmic and undo needs nothing but another push.
    """

    partition_key = "run_id"

    def __init__(self) -> None:
        super().__init__()
        self.by_task: dict[int, tuple[int, ...]] = {}
        self.due: list[tuple[int, int]] = []
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
                heappush(self.due, (new.available_at, new.run_id))
                if len(self.due) > 2 * len(self.rows) + _SLACK:
                    self._rebuild_due()
        elif new.state == "running" and new.claim_expires_at is not None:
            expires = new.claim_expires_at
            if old is None or old.state != "running" or old.claim_expires_at != expires:
                heappush(self.leases, (expires, new.run_id))
                if len(self.leases) > 2 * len(self.rows) + _SLACK:
                    self._rebuild_leases()

    def _rebuild_due(self) -> None:
        self.due = [
            (row.available_at, row.run_id) for row in self.rows.values() if row.state in CLAIMABLE
        ]
        heapify(self.due)

    def _rebuild_leases(self) -> None:
        self.leases = [
            (row.claim_expires_at, row.run_id)
            for row in self.rows.values()
            if row.state == "running" and row.claim_expires_at is not None
        ]
        heapify(self.leases)

    def pop_due(self, now: int) -> RunRow | None:
        """Take the first claimable run due at `now` off the heap; push back what stays due."""
        heap, rows = self.due, self.rows
        while heap and heap[0][0] <= now:
            moment, run_id = heappop(heap)
            row = rows.get(run_id)
            if row is not None and row.available_at == moment and row.state in CLAIMABLE:
                return row
        return None

    def push_due(self, row: RunRow) -> None:
        """Undo `pop_due`."""
        heappush(self.due, (row.available_at, row.run_id))

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
