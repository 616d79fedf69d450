"""Postgres' lock modes and which of them conflict.

Only transactions that a session began leave locks behind. A statement on its own runs under the
database's mutex from start to end, so nobody can see its locks; it only asks whether another's
are in its way.
"""

from __future__ import annotations

from enum import IntEnum


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
