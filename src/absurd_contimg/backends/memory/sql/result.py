"""What a statement answers."""

from __future__ import annotations

from dataclasses import dataclass

from absurd_contimg.backends.memory.sql.scope import ColumnInfo, Row


@dataclass(slots=True)
class Result:
    """What a statement answered: `columns` is None for one that gives no rows.

    `tag` is the command tag, `empty` the answer to a text without any statement.
    """

    columns: tuple[ColumnInfo, ...] | None
    rows: list[Row]
    tag: str
    count: int = -1
    empty: bool = False
