"""Transactions: what to undo, which locks they hold, and what others do not see yet.

Tables change in place and every change leaves its old row in the undo log. A transaction that a
session began (`explicit`) also marks each row: others then read the row as it was, and wait if
they want to write it. A single statement needs neither marks nor locks, because it ends before the
database's mutex is released: it only asks whether another's are in its way.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from enum import IntEnum
from typing import Any, TypeVar, TypeVarTuple

from absurd_contimg.backends.memory.session_state import SessionState
from absurd_contimg.backends.memory.store import Store


class RowLock(IntEnum):
    """Postgres' row locks, weakest first."""

    KEY_SHARE = 0
    SHARE = 1
    NO_KEY_UPDATE = 2
    UPDATE = 3


class TableLock(IntEnum):
    """Postgres' table locks, weakest first."""

    ACCESS_SHARE = 1
    ROW_SHARE = 2
    ROW_EXCLUSIVE = 3
    SHARE_UPDATE_EXCLUSIVE = 4
    SHARE = 5
    SHARE_ROW_EXCLUSIVE = 6
    EXCLUSIVE = 7
    ACCESS_EXCLUSIVE = 8


READ, LOCK_ROWS, WRITE = TableLock.ACCESS_SHARE, TableLock.ROW_SHARE, TableLock.ROW_EXCLUSIVE
"""What ``select``, ``select ... for update`` and ``insert``, ``update`` or ``delete`` take."""

ROW_CONFLICTS: tuple[frozenset[RowLock], ...] = (
    frozenset({RowLock.UPDATE}),
    frozenset({RowLock.NO_KEY_UPDATE, RowLock.UPDATE}),
    frozenset({RowLock.SHARE, RowLock.NO_KEY_UPDATE, RowLock.UPDATE}),
    frozenset(RowLock),
)
"""By row lock: those of others that it has to wait for (Postgres' manual, table 13.3)."""

TABLE_CONFLICTS: dict[TableLock, frozenset[TableLock]] = {
    TableLock(mode): frozenset(map(TableLock, conflicts))
    for mode, conflicts in {
        1: (8,),
        2: (7, 8),
        3: (5, 6, 7, 8),
        4: (4, 5, 6, 7, 8),
        5: (3, 4, 6, 7, 8),
        6: (3, 4, 5, 6, 7, 8),
        7: (2, 3, 4, 5, 6, 7, 8),
        8: (1, 2, 3, 4, 5, 6, 7, 8),
    }.items()
}
"""By table lock: those of others that it has to wait for (Postgres' manual, table 13.2)."""


T = TypeVar("T")
Ts = TypeVarTuple("Ts")
NO_TABLES: dict[str, dict[str | None, Any]] = {letter: {} for letter in "trcewi"}


class WouldBlock(Exception):
    """The statement needs what `holder` has; undo it, wait for `holder` to end, run it again."""

    def __init__(self, holder: Transaction) -> None:
        super().__init__()
        self.holder = holder


class Transaction:
    """One transaction of one session."""

    __slots__ = ("alone", "db", "explicit", "finished", "session", "tables", "undo", "waiting_for")

    def __init__(self, db: Store, session: SessionState, *, explicit: bool) -> None:
        self.db = db
        self.session = session
        self.explicit = explicit
        self.alone = False
        """Whether no session is in a transaction: there are no locks to take or to wait for."""
        self.tables = NO_TABLES
        """By letter and queue, the tables that need no lock."""
        self.undo: list[Callable[[], object] | tuple[Any, Hashable, Any]] = []
        """Rows to put back, and locks and marks to release, which the end does too."""
        self.finished = False
        self.waiting_for: Transaction | None = None

    def read_once(self, read: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """What `read` returns; after a wait, what it returned before (`SessionState.read_once`)."""
        if self.alone:
            return read(*arguments)
        return self.session.read_once(read, *arguments)

    def lock_row(self, table: Any, key: Hashable, mode: RowLock) -> None:
        """Take the lock until the transaction ends; `WouldBlock` if another is in the way."""
        holder = self.row_holder(table, key, mode)
        if holder is not None:
            raise WouldBlock(holder)
        if not self.explicit:
            return
        holders = table.row_locks.setdefault(key, {})
        before = holders.get(self)
        if before is None or before < mode:
            holders[self] = mode
            self.undo.append(lambda: self._release_row(table, key, before))

    def row_holder(self, table: Any, key: Hashable, mode: RowLock) -> Transaction | None:
        """Another transaction that holds a conflicting lock on the row."""
        conflicts = ROW_CONFLICTS[mode]
        holders: dict[Transaction, RowLock] = table.row_locks.get(key, {})
        for holder, held in holders.items():
            if holder is not self and held in conflicts:
                return holder
        return None

    def _release_row(self, table: Any, key: Hashable, before: RowLock | None) -> None:
        holders = table.row_locks[key]
        del holders[self]
        if before is not None:
            holders[self] = before
        if not holders:
            del table.row_locks[key]

    def mark(self, table: Any, key: Hashable, before: Any) -> None:
        """Let others go on reading `before` (None: no row) until the transaction ends."""
        if key not in table.uncommitted:
            table.uncommitted[key] = (self, before)
            self.undo.append(lambda: table.uncommitted.pop(key))

    def lock_table(self, name: str, mode: TableLock) -> None:
        """Take a table lock until the transaction ends; `WouldBlock` if another is in the way."""
        self.check_table(name, mode)
        if not self.explicit:
            return
        modes = self.db.table_locks.setdefault(name, {}).setdefault(self, set())
        if mode not in modes:
            modes.add(mode)
            self.undo.append(lambda: self._release_table(name, mode))

    def check_table(self, name: str, mode: TableLock) -> None:
        """`WouldBlock` if another transaction's lock on the table is in the way."""
        for holder, modes in self.db.table_locks.get(name, {}).items():
            if holder is not self and not TABLE_CONFLICTS[mode].isdisjoint(modes):
                raise WouldBlock(holder)

    def _release_table(self, name: str, mode: TableLock) -> None:
        holders = self.db.table_locks[name]
        holders[self].remove(mode)
        if not holders[self]:
            del holders[self]
        if not holders:
            del self.db.table_locks[name]

    def rollback_to(self, position: int) -> None:
        """Undo everything after `position` of the undo log, the latest first."""
        while len(self.undo) > position:
            entry = self.undo.pop()
            if isinstance(entry, tuple):
                table, key, row = entry
                table.restore_row(key, row)
            else:
                entry()

    def finish(self) -> None:
        """Release what is held; what was changed stays."""
        self.finished = True
        while self.undo:
            entry = self.undo.pop()
            if not isinstance(entry, tuple):
                entry()
