"""Transactions: what to undo, what is held, and what others may not see yet.

Tables are changed in place and every change leaves its old row in the undo log. A transaction
that a session began (`explicit`) also leaves a mark on each row: others then read the row as it
was, and wait if they want to write it. A single statement needs no marks, because it ends before
the mutex is given back.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol

from absurd_contimg.backends.memory.locks import (
    ROW_CONFLICTS,
    TABLE_CONFLICTS,
    RowLock,
    TableLock,
)
from absurd_contimg.backends.memory.session_state import SessionState
from absurd_contimg.backends.memory.store import Store

_NONE: dict[str, dict[str | None, Any]] = {kind: {} for kind in "trcewi"}


class LockedTable(Protocol):
    """A table as a transaction sees it: who holds its rows, and how to undo a change."""

    row_locks: dict[Hashable, dict[Transaction, RowLock]]
    uncommitted: dict[Hashable, tuple[Transaction, Any]]

    def restore_row(self, key: Any, row: Any) -> None:
        """Put back what the undo log kept."""


class Transaction:
    """One transaction of one session."""

    __slots__ = (
        "_marks",
        "_row_locks",
        "_table_locks",
        "alone",
        "db",
        "explicit",
        "finished",
        "session",
        "tables",
        "undo",
        "waiting_for",
    )

    def __init__(self, db: Store, session: SessionState, *, explicit: bool) -> None:
        self.db = db
        self.session = session
        self.explicit = explicit
        self.alone = False
        """Whether no session is in a transaction: there are no locks to take or to wait for."""
        self.tables = _NONE
        """By kind and queue, the tables that may be used without a lock."""
        self.undo: list[Callable[[], None] | tuple[LockedTable, Any, Any]] = []
        self.finished = False
        self.waiting_for: Transaction | None = None
        if explicit:
            self._row_locks: list[tuple[LockedTable, Hashable]] = []
            self._marks: list[tuple[LockedTable, Hashable]] = []
            self._table_locks: list[str] = []

    def begin_statement(self) -> None:
        """Be the transaction of one statement, which nobody else ever sees or waits for."""
        db = self.db
        relations = db.relations
        self.alone = not (db.table_locks or relations.uncommitted)
        self.tables = relations.of_queues if self.alone else _NONE
        self.undo = []

    # -- locks ------------------------------------------------------------------------------

    def may_lock(self, table: LockedTable, key: Hashable, mode: RowLock) -> bool:
        """Whether no other transaction holds a conflicting lock on the row."""
        return self._row_holder(table, key, mode) is None

    def lock_row(self, table: LockedTable, key: Hashable, mode: RowLock) -> None:
        """Take the lock until the transaction ends; `WouldBlock` if another is in the way."""
        holder = self._row_holder(table, key, mode)
        if holder is not None:
            raise WouldBlock(holder)
        if not self.explicit:
            return
        holders = table.row_locks.setdefault(key, {})
        before = holders.get(self)
        if before is None or before < mode:
            holders[self] = mode
            self._row_locks.append((table, key))
            self.undo.append(lambda: self._release_row(table, key, before))

    def _row_holder(self, table: LockedTable, key: Hashable, mode: RowLock) -> Transaction | None:
        holders = table.row_locks.get(key)
        if holders:
            conflicts = ROW_CONFLICTS[mode]
            for holder, held in holders.items():
                if holder is not self and held in conflicts:
                    return holder
        return None

    def _release_row(self, table: LockedTable, key: Hashable, to: RowLock | None) -> None:
        holders = table.row_locks.get(key)
        if holders is None:
            return
        if to is None:
            holders.pop(self, None)
        else:
            holders[self] = to
        if not holders:
            del table.row_locks[key]

    def mark(self, table: LockedTable, key: Hashable, before: Any) -> None:
        """Let others go on reading `before` (None: no row) until the transaction ends."""
        if key not in table.uncommitted:
            table.uncommitted[key] = (self, before)
            self._marks.append((table, key))
            self.undo.append(lambda: table.uncommitted.pop(key, None) and None)

    def lock_table(self, name: str, mode: TableLock) -> None:
        """Take a table lock until the transaction ends; `WouldBlock` if another is in the way."""
        held = self.db.table_locks
        self.check_table(name, mode)
        if not self.explicit:
            return
        mine = held.setdefault(name, {}).setdefault(self, set())
        if mode not in mine:
            mine.add(mode)
            self._table_locks.append(name)
            self.undo.append(lambda: self._release_table(name, mode))

    def check_table(self, name: str, mode: TableLock) -> None:
        """`WouldBlock` if another transaction's lock on the table is in the way."""
        holders = self.db.table_locks.get(name)
        if holders:
            conflicts = TABLE_CONFLICTS[mode]
            for holder, modes in holders.items():
                if holder is not self and not conflicts.isdisjoint(modes):
                    raise WouldBlock(holder)

    def _release_table(self, name: str, mode: TableLock | None) -> None:
        holders = self.db.table_locks.get(name)
        if holders is None or self not in holders:
            return
        if mode is not None:
            holders[self].discard(mode)
        if mode is None or not holders[self]:
            del holders[self]
        if not holders:
            del self.db.table_locks[name]

    # -- ends -------------------------------------------------------------------------------

    def rollback_to(self, position: int) -> None:
        """Undo everything after `position` of the undo log, the latest first."""
        undo = self.undo
        while len(undo) > position:
            entry = undo.pop()
            if type(entry) is tuple:
                table, key, row = entry
                table.restore_row(key, row)
            else:
                entry()  # type: ignore[operator]

    def finish(self) -> None:
        """Release what is held. The undo log has been replayed or is not wanted any more."""
        self.finished = True
        self.undo = []
        for table, key in self._marks:
            owner = table.uncommitted.get(key)
            if owner is not None and owner[0] is self:
                del table.uncommitted[key]
        for table, key in self._row_locks:
            self._release_row(table, key, None)
        for name in self._table_locks:
            self._release_table(name, None)
        self._marks, self._row_locks, self._table_locks = [], [], []


class WouldBlock(Exception):
    """The statement needs what `holder` has; undo it, wait for `holder` to end, run it again."""

    def __init__(self, holder: Transaction) -> None:
        super().__init__()
        self.holder = holder
