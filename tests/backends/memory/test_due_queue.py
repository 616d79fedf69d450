"""`DueQueue` against the sorted rows themselves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from absurd_contimg.backends.memory import MemoryDatabase
from absurd_contimg.backends.memory.session import Session
from absurd_contimg.backends.memory.tables import DueQueue
from absurd_contimg.backends.memory.transaction import Transaction

Row = tuple[int, int | None]
"""A key, and its moment."""


def moment_of(row: Row) -> int | None:
    return row[1]


def popped(tx: Transaction, queue: DueQueue[Row], rows: dict[object, Row]) -> list[Row]:
    """All rows that are due at 5, each once."""
    taken: dict[Row, None] = {}
    while (row := queue.pop(tx, rows, 5)) is not None:
        taken[row] = None
    return list(taken)


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.one_of(st.none(), st.integers(0, 9)), st.booleans()),
        max_size=200,
    )
)
def test_rows_come_in_the_order_of_their_moments(steps: list[tuple[int, int | None, bool]]) -> None:
    """Whatever changes between, and in a copy too; no row comes before its moment, and all are back
    when the transaction is undone."""
    rows: dict[object, Row] = {}
    queue: DueQueue[Row] = DueQueue(moment_of)
    db = MemoryDatabase()
    tx = Transaction(db, Session(db), explicit=False)
    for key, moment, is_popped in steps:
        old, rows[key] = rows.get(key), (key, moment)
        if old is None or old[1] != moment:
            queue.push(rows, (key, moment))
        if is_popped:
            due = [row for row in rows.values() if row[1] is not None and row[1] <= 5]
            expected = sorted(due, key=lambda row: (row[1], row[0]))
            for tried in (queue.copy(), queue):
                assert popped(tx, tried, rows) == expected
            tx.rollback_to(0)
