"""Two databases driven alike: a real Postgres and the emulator, behind the same psycopg calls.

A database runs a statement in one of its sessions and says what came of it in a form in which both
databases can be compared: ids are numbered in order of their first appearance. Postgres 18 and the
emulator both give ascending ids, so the numbering agrees exactly if the order does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast
from uuid import UUID

import psycopg
from psycopg import sql

from absurd_contimg.backends.memory import MemoryDatabase

SESSIONS = 3
LOCK_TIMEOUT = "15ms"
QUEUES = ("plain", "parted", 'od"d Name')
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Ref:
    """An id by its number; stands in parameters for the id that the database knows."""

    number: int


@dataclass(frozen=True, slots=True)
class Call:
    """One statement in one session.

    Rows with equal values in column `ties` may come in any order; with -1 all rows may.
    """

    session: int
    text: str
    params: tuple[Any, ...] | Mapping[str, Any] | None = None
    ties: int | None = None

    def __str__(self) -> str:
        return f"s{self.session}: {self.text}  {self.params or ''}"


@dataclass(slots=True)
class Names:
    """The numbers of ids, in order of first appearance."""

    numbers: dict[UUID, int] = field(default_factory=dict)
    ids: list[UUID] = field(default_factory=list)

    def number(self, value: UUID) -> str:
        """An id's name, new if it is seen for the first time."""
        if value not in self.numbers:
            self.numbers[value] = len(self.ids)
            self.ids.append(value)
        return f"#{self.numbers[value]}"

    def plain(self, value: object) -> object:
        """A value with every id in it replaced by its name."""
        if isinstance(value, UUID):
            return self.number(value)
        if isinstance(value, str):
            return _UUID.sub(lambda match: self.number(UUID(match.group())), value)
        if isinstance(value, tuple | list):
            return type(value)([self.plain(item) for item in value])
        if isinstance(value, dict):
            return {key: self.plain(item) for key, item in value.items()}
        return f"{type(value).__name__} {value!r}" if isinstance(value, float | bool) else value

    def resolve(self, value: object) -> object:
        """A parameter with references replaced by this database's ids."""
        if isinstance(value, Ref):
            return self.ids[value.number % len(self.ids)] if self.ids else UUID(int=1)
        return value


Answer = tuple[object, ...]


class Database:
    """A database with its sessions and an observer who sees only what is committed."""

    def __init__(self, connections: Sequence[Any], observer: Any, version: str) -> None:
        self.connections = connections
        self.observer = observer
        self.version = version
        self.names = Names()

    def call(self, call: Call) -> Answer:
        """Run a statement and say what came of it."""
        params = call.params
        if isinstance(params, tuple):
            params = tuple(self.names.resolve(value) for value in params)
        return self._run(self.connections[call.session], call.text, params, call.ties)

    def _run(self, connection: Any, text: Any, params: Any, ties: int | None = None) -> Answer:
        try:
            cursor = connection.execute(text, params)
            if cursor.description is None:
                return ("done", cursor.statusmessage, cursor.rowcount)
            columns = [(column.name, column.type_code) for column in cursor.description]
            rows = cursor.fetchall()
        except psycopg.Error as error:
            primary = error.diag.message_primary or str(error)
            return ("error", type(error).__name__, error.sqlstate, self.names.plain(primary))
        if ties is not None:
            keys = [row[ties] for row in rows] if ties >= 0 else []
            assert keys == sorted(keys), f"not in order: {keys}"
            rows = sorted(rows, key=lambda row: ((row[ties],) if ties >= 0 else (), row[0]))
        return ("rows", columns, self.names.plain(rows), cursor.rowcount)

    def tables(self, session: int | None = None) -> Iterator[tuple[str, Answer]]:
        """Every table as the observer sees it, or as a session in a transaction does."""
        connection = self.observer if session is None else self.connections[session]
        queues = self._run(connection, _QUEUES_SQL, None)
        yield "queues", queues
        if queues[0] != "rows":
            return
        names = [
            (letter, row[0])
            for row in queues[2]  # type: ignore[attr-defined]
            for letter in _COLUMNS
            if letter != "i" or row[2] == "partitioned"
        ]
        texts = [_table_sql(letter, name) for letter, name in names]
        for (letter, name), answer in zip(names, self._read(connection, texts), strict=True):
            yield f"{letter}_{name}", answer

    def batch(self, connection: Any) -> AbstractContextManager[Any]:
        """A block in which queries may be sent together."""
        return nullcontext()

    def _read(self, connection: Any, texts: list[str]) -> Iterator[Answer]:
        """The rows of several queries, asked at once."""
        cursors = []
        try:
            with self.batch(connection):
                cursors = [connection.execute(text) for text in texts]
        except psycopg.Error as error:
            primary = self.names.plain(error.diag.message_primary or str(error))
            for _ in texts:
                yield ("error", error.sqlstate, primary)
            return
        for cursor in cursors:
            yield ("rows", None, self.names.plain(cursor.fetchall()))

    def status(self, session: int) -> object:
        """The session's transaction status."""
        return self.connections[session].info.transaction_status.name

    def reset(self) -> None:
        """Roll back, forget ids."""
        for connection in self.connections:
            connection.rollback()
        self.names = Names()


# jsonb as text, so that JSON null and SQL null differ, and 1 and 1.0.
_COLUMNS = {
    "t": "task_id, task_name, params::text, headers::text, retry_strategy::text, max_attempts, "
    "cancellation::text, "
    "enqueue_at::text, first_started_at::text, state, attempts, last_attempt_run, "
    "completed_payload::text, cancelled_at::text, idempotency_key",
    "r": "run_id, task_id, attempt, state, claimed_by, claim_expires_at::text, "
    "available_at::text, wake_event, event_payload::text, started_at::text, completed_at::text, "
    "failed_at::text, result::text, failure_reason::text, created_at::text",
    "c": "task_id, checkpoint_name, state::text, status, owner_run_id, updated_at::text",
    "e": "event_name, payload::text, emitted_at::text",
    "w": "task_id, run_id, step_name, event_name, timeout_at::text, created_at::text",
    "i": "idempotency_key, task_id",
}
_ORDER = {"t": "1", "r": "1", "c": "1, 2", "e": "1", "w": "2, 3", "i": "1"}


@lru_cache
def _table_sql(letter: str, queue: str) -> str:
    name = sql.Identifier(f"{letter}_{queue}").as_string(None)
    return f"select {_COLUMNS[letter]} from absurd.{name} order by {_ORDER[letter]}"


_QUEUES_SQL = (
    "select queue_name, created_at::text, storage_mode, default_partition, "
    "partition_lookahead::text, partition_lookback::text, cleanup_ttl::text, cleanup_limit, "
    "detach_mode, detach_min_age::text from absurd.queues order by 1"
)


class PostgresDatabase(Database):
    """The real engine."""

    def __init__(self, url: str) -> None:
        options = {"autocommit": True, "options": "-c timezone=Etc/UTC"}
        connections = [psycopg.connect(url, **options) for _ in range(SESSIONS)]
        observer = psycopg.connect(url, **options)
        for connection in [*connections, observer]:
            connection.prepare_threshold = 2
        # A vacuum's locks would let statements run into the lock timeout at random.
        observer.execute("alter system set autovacuum = off")
        observer.execute("select pg_reload_conf()")
        super().__init__(connections, observer, "postgres")
        self.reset()

    def reset(self) -> None:
        """Drop all queues and forget all settings."""
        super().reset()
        for connection in self.connections:
            connection.execute("reset all")
            connection.execute("set absurd.other = default")
            connection.execute(f"set lock_timeout = '{LOCK_TIMEOUT}'")
        self.observer.execute("reset lock_timeout")
        self.observer.execute(_DROP_LEFTOVERS)
        self.observer.execute(f"set lock_timeout = '{LOCK_TIMEOUT}'")

    def batch(self, connection: Any) -> AbstractContextManager[Any]:
        """A pipeline: one round trip for all queries."""
        return cast(AbstractContextManager[Any], connection.pipeline())

    def partitions(self) -> list[tuple[Any, ...]]:
        """Partitions with their parents and bounds."""
        return self.observer.execute(_PARTITIONS_SQL).fetchall()  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close all connections."""
        for connection in [*self.connections, self.observer]:
            connection.close()


_DROP_LEFTOVERS = """
do $$
declare v text;
begin
  for v in select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where n.nspname = 'absurd' and c.relkind in ('r', 'p') and c.relname <> 'queues'
  loop
    execute format('drop table if exists absurd.%I cascade', v);
  end loop;
  delete from absurd.queues;
end $$
"""
_PARTITIONS_SQL = """
select parent.relname, child.relname, pg_get_expr(child.relpartbound, child.oid)
  from pg_inherits i
  join pg_class child on child.oid = i.inhrelid
  join pg_class parent on parent.oid = i.inhparent
  join pg_namespace n on n.oid = parent.relnamespace
 where n.nspname = 'absurd' and child.relkind = 'r'
 order by 1, 2
"""


class EmulatorDatabase(Database):
    """The emulator; `database` makes one."""

    database: type[MemoryDatabase] = MemoryDatabase

    def __init__(self) -> None:
        super().__init__([], None, "memory")
        self.reset()

    def reset(self) -> None:
        """Begin with a new database."""
        self.db = self.database(seed=1)
        self.connections = [self.db.connect(autocommit=True) for _ in range(SESSIONS)]
        self.observer = self.db.connect(autocommit=True)
        super().reset()
        for connection in [*self.connections, self.observer]:
            connection.execute("set lock_timeout = '1ms'")  # nobody lets go meanwhile
            connection.execute("set absurd.other = default")  # known ever after, as in Postgres

    def partitions(self) -> list[tuple[Any, ...]]:
        """Partitions with their parents and bounds, worded as Postgres words them."""
        partitions = []
        for relation in self.db.relations.rows.values():
            partition = relation.partition
            if partition is None:
                continue
            bound = "DEFAULT"
            if partition.lower is not None and partition.upper is not None:
                low, high = UUID(int=partition.lower), UUID(int=partition.upper)
                bound = f"FOR VALUES FROM ('{low}') TO ('{high}')"
            partitions.append((relation.parent, relation.name, bound))
        return sorted(partitions)
