"""What a statement answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from absurd_contimg.backends.memory.values.types import SqlType

Row = tuple[Any, ...]


class ColumnInfo(NamedTuple):
    """A column of a result, or of something in a ``from``."""

    name: str
    kind: SqlType


@dataclass(slots=True)
class Result:
    """A command tag, and rows if the statement has columns."""

    tag: str
    columns: tuple[ColumnInfo, ...] | None = None
    rows: list[Row] = field(default_factory=list)
    count: int = -1
