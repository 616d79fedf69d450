"""Locks that outlive a statement: which sessions hold what, and who would have to wait.

Only transactions that a session began leave anything here. A statement on its own runs under the
database's mutex from start to end, so nobody can see its locks; it only asks whether somebody
else's stand in its way.
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


ACCESS_SHARE, ROW_SHARE = TableLock.ACCESS_SHARE, TableLock.ROW_SHARE
"""Named alone, because finding a member of an enumeration takes as long as finding a table."""

ROW_CONFLICTS: tuple[frozenset[RowLock], ...] = (
    frozenset({RowLock.UPDATE}),
    frozenset({RowLock.NO_KEY_UPDATE, RowLock.UPDATE}),
    frozenset({RowLock.SHARE, RowLock.NO_KEY_UPDATE, RowLock.UPDATE}),
    frozenset(RowLock),
)
"""By row lock: those of others that it has to wait for (Postgres' manual, table 13.3)."""

TABLE_CONFLICTS: dict[TableLock, frozenset[TableLock]] = {
    mode: frozenset(other for other in TableLock if other.name in words.split())
    for mode, words in {
        TableLock.ACCESS_SHARE: "ACCESS_EXCLUSIVE",
        TableLock.ROW_SHARE: "EXCLUSIVE ACCESS_EXCLUSIVE",
        TableLock.ROW_EXCLUSIVE: "SHARE SHARE_ROW_EXCLUSIVE EXCLUSIVE ACCESS_EXCLUSIVE",
        TableLock.SHARE_UPDATE_EXCLUSIVE: "SHARE_UPDATE_EXCLUSIVE SHARE SHARE_ROW_EXCLUSIVE "
        "EXCLUSIVE ACCESS_EXCLUSIVE",
        TableLock.SHARE: "ROW_EXCLUSIVE SHARE_UPDATE_EXCLUSIVE SHARE_ROW_EXCLUSIVE EXCLUSIVE "
        "ACCESS_EXCLUSIVE",
        TableLock.SHARE_ROW_EXCLUSIVE: "ROW_EXCLUSIVE SHARE_UPDATE_EXCLUSIVE SHARE "
        "SHARE_ROW_EXCLUSIVE EXCLUSIVE ACCESS_EXCLUSIVE",
        TableLock.EXCLUSIVE: "ROW_SHARE ROW_EXCLUSIVE SHARE_UPDATE_EXCLUSIVE SHARE "
        "SHARE_ROW_EXCLUSIVE EXCLUSIVE ACCESS_EXCLUSIVE",
        TableLock.ACCESS_EXCLUSIVE: " ".join(mode.name for mode in TableLock),
    }.items()
}
"""By table lock: those of others that it has to wait for (Postgres' manual, table 13.2)."""
