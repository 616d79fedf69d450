"""A value that its column cannot have is refused where it is read, by table, row and column."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from search_extent import some_of
from sqlalchemy import Column, insert, select

from absurd_contimg.errors import RegistryAwayError
from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.registry.models import ObservationGroup, SchemaVersion
from absurd_contimg.registry.stored_types import (
    StoredDate,
    StoredInteger,
    StoredJson,
    StoredNumber,
    StoredState,
    StoredText,
    StoredTime,
)
from absurd_contimg.registry.tables import METADATA

HOSTILE: dict[str, object] = {
    "text": "abc",
    "bytes": b"\xff\x00",
    "infinite": float("inf"),
    "huge": 1e300,
    "nested": "[" * 100_000,
    "digits": '{"a": ' + "7" * 5000 + "}",
    "list": "[1]",
    "object": '{"a": 1}',
    "year": "0000-99-99T00:00:00+00:00",
}
COLUMNS = [(table.name, column.name) for table in METADATA.sorted_tables for column in table.c]


def ordinary(column: Column[Any]) -> object:
    kind = column.type
    if isinstance(kind, StoredState):
        return kind.names[0]
    if isinstance(kind, StoredTime):
        return "2026-01-01T00:00:00+00:00"
    if isinstance(kind, StoredJson):
        return kind.kind()
    if isinstance(kind, StoredNumber):
        return 60_000.0
    return "key" if isinstance(kind, StoredText) else 1


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with a row in each table."""
    path = tmp_path_factory.mktemp("full") / "registry.sqlite3"
    with Registry(path).database.writing() as session:
        for table in METADATA.sorted_tables:
            if table is not SchemaVersion.__table__:  # which has its row
                session.execute(insert(table).values({c.name: ordinary(c) for c in table.c}))
    return path


def refusal(registry: Registry, table: str) -> str | None:
    """How a table is refused when it is read."""
    try:
        with registry.database.reading() as session:
            session.execute(select(METADATA.tables[table])).all()
    except RegistryAwayError as error:
        return str(error)
    return None


@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_every_column_is_checked(full: Path, table: str, column: str) -> None:
    registry = Registry(full)
    assert refusal(registry, table) is None
    kind = METADATA.tables[table].c[column].type
    number = COLUMNS.index((table, column))
    tried = some_of(HOSTILE, 3, first=number)  # another third for the next column
    refused = set()
    with closing(sqlite3.connect(full, isolation_level=None)) as connection:
        connection.execute("pragma synchronous = off")
        (earlier,) = connection.execute(f"select {column} from {table}").fetchone()
        for name in tried:
            value = HOSTILE[name]
            try:
                connection.execute(f"update {table} set {column} = ?", [value])
            except sqlite3.IntegrityError:  # a key that SQLite itself checks
                refused.add(name)
                continue
            message = refusal(registry, table)
            connection.execute(f"update {table} set {column} = ?", [earlier])
            if message is not None:
                refused.add(name)
                assert f"{full} has a row that cannot be read: in table {table}, row " in message
                assert f"column {column}: " in message
                assert len(message) < 600 + len(str(full))
    expected = {
        StoredTime: set(HOSTILE),
        StoredState: set(HOSTILE),
        StoredNumber: {"text", "bytes", "nested", "digits", "list", "object", "year"},
        StoredDate: set(HOSTILE),
        StoredInteger: set(HOSTILE),
        StoredJson: {"text", "bytes", "infinite", "huge", "nested", "digits", "year"},
    }
    for of_type, names in expected.items():
        if isinstance(kind, of_type):
            assert refused >= names & set(tried)


def test_row_is_named_and_a_mistake_of_the_caller_is_not_taken_for_it(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry.sqlite3")
    registry.set_group_status("2026-01-01T00:00:00", GroupStatus.DISCOVERED)
    registry.set_group_status("2026-01-02T00:00:00", GroupStatus.DISCOVERED)
    with registry.database.writing() as session:
        session.connection().exec_driver_sql(
            "update observation_groups set mid_mjd = 'noon' where group_id like '%-02T%'"
        )
    row = "row 2026-01-02T00:00:00, column mid_mjd: 'noon' (it is no number)"
    with pytest.raises(RegistryAwayError, match=re.escape(row)):
        registry.groups()
    with pytest.raises(ValueError, match="of the caller"):
        mistake(Registry(tmp_path / "other.sqlite3"))


def mistake(registry: Registry) -> None:
    with registry.database.reading() as session:
        session.execute(select(ObservationGroup.group_id))
        raise ValueError("of the caller")
