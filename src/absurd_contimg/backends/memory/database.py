"""`MemoryDatabase`: everything that a Postgres database with Absurd's schema holds."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Reversible
from contextlib import contextmanager
from typing import Any

import psycopg

from absurd_contimg.backends.memory.catalog import Relation, Relations, new_table
from absurd_contimg.backends.memory.dbapi.connection import AsyncMemoryConnection, MemoryConnection
from absurd_contimg.backends.memory.records import python_values
from absurd_contimg.backends.memory.session import Session
from absurd_contimg.backends.memory.store import Clock, Operation, Store


class MemoryDatabase(Store):
    """A database in memory with Absurd's schema and no queue yet.

    `seed` decides the random bits of every id. `clock` gives aware datetimes; without it the
    database follows the wall clock.
    """

    def __init__(self, seed: int = 0, clock: Clock | None = None) -> None:
        super().__init__(seed, clock)
        self.relations: Relations = Relations()
        self.relations.rows["queues"] = Relation("queues", "queues", new_table("queues", "queues"))

    def connect(self, autocommit: bool = False, **options: Any) -> MemoryConnection:
        """A connection shaped as `psycopg.Connection`; `row_factory` is taken as psycopg does."""
        return MemoryConnection(Session(self), autocommit=autocommit, **options)

    async def connect_async(
        self, autocommit: bool = False, **options: Any
    ) -> AsyncMemoryConnection:
        """A connection shaped as `psycopg.AsyncConnection`."""
        return AsyncMemoryConnection(Session(self), autocommit=autocommit, **options)

    @contextmanager
    def patch_connect(self) -> Iterator[None]:
        """A block in which psycopg's ``connect`` leads here, whatever the URL.

        For code that is given a URL and not a connection, such as the SDK's quick start.
        """
        from unittest.mock import patch  # noqa: PLC0415 - slow, and rarely needed

        def options(given: dict[str, Any]) -> dict[str, Any]:
            taken = ("autocommit", "row_factory")
            return {name: given[name] for name in taken if given.get(name) is not None}

        def connect(_conninfo: str = "", **given: Any) -> Any:
            return self.connect(**options(given))

        def connect_async(_conninfo: str = "", **given: Any) -> Any:
            return self.connect_async(**options(given))

        with (
            patch.object(psycopg.Connection, "connect", connect),
            patch.object(psycopg.AsyncConnection, "connect", connect_async),
            patch.object(psycopg, "connect", connect),
        ):
            yield

    def fork(self) -> MemoryDatabase:
        """An independent copy of everything committed, with the same future ids.

        Rows are shared, so this costs one reference a row. Sessions are not copied.
        """
        twin = MemoryDatabase.__new__(MemoryDatabase)
        with self.mutex:
            twin.__dict__.update(self.__dict__)
            twin.uuids = self.uuids.copy()
            twin.relations = self.relations.copy()
            twin.noted = self.noted.copy()
        twin.mutex = threading.RLock()
        twin.ended = threading.Condition(twin.mutex)
        twin.table_locks, twin._waiters, twin.abandoned = {}, [], []
        return twin

    def contents(self) -> tuple[object, ...]:
        """Everything committed that decides what the database does: equal contents, equal futures.

        Rows with their order, which shows where no other order is asked for, and the ids to come.
        The timeline is for people and no part of it.
        """
        tables = tuple(
            (name, known.parent, known.partition, tuple(known.table.rows.items()))
            for name, known in self.relations.rows.items()
        )
        return tables, self.uuids.position()

    def tables(self) -> dict[str, list[dict[str, object]]]:
        """Every table of the schema ``absurd`` with its committed rows, for pandas or the like.

        By name, as ``t_<queue>``; each row is a dict by column. Values are Python's: UUID, aware
        datetime in UTC, parsed JSON (JSON null and SQL NULL are both None), timedelta. Times
        outside of Python's range, infinity among them, are its first or last moment.
        """

        def by_column(row: Any) -> dict[str, object]:
            return dict(zip(row._fields, python_values(row), strict=True))

        with self.mutex:
            return {
                relation.name: [by_column(row) for row in relation.table.scan(None)]
                for relation in self.relations.scan(None)
                if relation.partition is None
            }

    def kept_rows(self, letter: str, queue: str) -> Reversible[Any]:
        """The rows of a table of a queue as they are kept: times in microseconds, JSON as text.

        For those who look often and need few columns; nobody may have a transaction open.
        """
        return self.relations.of_queues[letter][queue].rows.values()

    def snapshot(self) -> MemoryDatabase:
        """What `restore` takes: a fork that nobody works on."""
        return self.fork()

    def restore(self, snapshot: MemoryDatabase) -> None:
        """Go back to the snapshot, which may be restored again.

        Open transactions of this database's sessions are rolled back first by their owners; with
        one still open this raises RuntimeError.
        """
        with self.mutex:
            if self.table_locks:
                raise RuntimeError(
                    "restore: a transaction is open; commit it or roll it back first"
                )
            copy = snapshot.fork()
            self.uuids, self.relations = copy.uuids, copy.relations
            self.noted = copy.noted
            self.transaction_ended()

    @property
    def timeline(self) -> list[Operation]:
        """The latest operations, oldest first."""
        return [Operation(*call) for call in self.noted]

    def timeline_text(self) -> str:
        """The same, one a line."""
        return "\n".join(map(str, self.timeline))
