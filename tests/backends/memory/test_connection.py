# ruff: noqa: E501 - a statement is one line
"""The psycopg-shaped connection: what psycopg's users rely on, held against real psycopg."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import rows, sql
from psycopg.types.json import Jsonb, set_json_loads

from absurd_contimg.backends.memory import MemoryDatabase

Connect = Callable[..., Any]


@pytest.fixture(params=["memory", "postgres"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Opens connections to one database; each test runs on both kinds."""
    opened: list[Any] = []
    url = request.getfixturevalue("database_url") if request.param == "postgres" else ""
    db = MemoryDatabase(seed=5)

    def make(**options: Any) -> Any:
        connection = psycopg.connect(url, **options) if url else db.connect(**options)
        opened.append(connection)
        return connection

    with make(autocommit=True) as setup:
        setup.execute("select absurd.create_queue('q')")
    yield make
    for connection in opened:
        connection.close()


@dataclass
class Spawned:
    task_id: uuid.UUID
    run_id: uuid.UUID
    attempt: int
    created: bool


SPAWN = "select * from absurd.spawn_task(%s, %s, %s)"
ARGUMENTS = ("q", "image", Jsonb({"a": [1, None]}))


def test_connections_are_psycopgs(connect: Connect) -> None:
    """Code that asks for psycopg's classes takes the emulator's."""
    connection = connect()
    assert isinstance(connection, psycopg.Connection)
    cursor = connection.cursor()
    assert isinstance(cursor, psycopg.Cursor)
    assert cursor.connection is connection
    connection.cursor_factory = psycopg.Cursor
    assert isinstance(connection.cursor(), type(cursor))


@pytest.mark.parametrize(
    "factory",
    [rows.tuple_row, rows.dict_row, rows.namedtuple_row, rows.class_row(Spawned), rows.args_row(Spawned), rows.kwargs_row(Spawned)],
)  # fmt: skip
def test_row_factories(connect: Connect, factory: Any) -> None:
    """psycopg's own factories make the rows."""
    connection = connect(autocommit=True)
    row = connection.cursor(row_factory=factory).execute(SPAWN, ARGUMENTS).fetchone()
    fields = row if isinstance(row, dict) else getattr(row, "__dict__", None)
    if fields is None:
        fields = dict(zip(("task_id", "run_id", "attempt", "created"), row, strict=True))
    assert isinstance(fields["task_id"], uuid.UUID)
    assert (fields["attempt"], fields["created"]) == (1, True)


def test_values_come_as_psycopg_gives_them(connect: Connect) -> None:
    """UUID, aware datetime, timedelta, jsonb as Python's values, '' for void."""
    connection = connect(autocommit=True)
    moment = datetime(2024, 5, 6, 7, 8, 9, 123, tzinfo=UTC)
    text = "select %s::uuid, %s::timestamptz, %s::interval, %s::jsonb, absurd.emit_event('q', 'e'), %s::int, %s::text, %s::bool, %s::float8, %s::numeric"
    given = (
        uuid.UUID(int=7),
        moment,
        timedelta(days=1, seconds=5),
        Jsonb({"b": 1, "a": 1.50}),
        5,
        "x",
        True,
        1.5,
        10**20,
    )
    row = connection.execute(text, given).fetchone()
    assert row[:3] == given[:3]
    assert row[3] == {"a": 1.5, "b": 1}
    assert row[4] == ""
    assert list(row[5:]) == [5, "x", True, 1.5, 10**20]
    assert [type(value) for value in row[5:8]] == [int, str, bool]


def test_infinity_is_an_error_as_in_psycopg(connect: Connect) -> None:
    """psycopg cannot load infinity, and says so when the row is fetched."""
    cursor = connect(autocommit=True).execute("select 'infinity'::timestamptz")
    with pytest.raises(psycopg.DataError, match="timestamp too large"):
        cursor.fetchone()


def test_own_json_loads_are_honoured(connect: Connect) -> None:
    """What is registered on the connection loads jsonb."""
    connection = connect(autocommit=True)
    set_json_loads(
        lambda data: ("registered", bytes(data) if isinstance(data, memoryview) else data),
        connection,
    )
    row = connection.execute("select '{\"a\": 1}'::jsonb").fetchone()
    assert row[0][0] == "registered"


def test_cursor_bookkeeping(connect: Connect) -> None:
    """description, rowcount, statusmessage, rownumber, iteration, fetchmany, scroll, nextset."""
    connection = connect(autocommit=True)
    cursor = connection.execute("select a, 'x' as b from (values (1), (2), (3), (4), (5)) v(a)")
    assert [(column.name, column.type_code) for column in cursor.description] == [
        ("a", 23),
        ("b", 25),
    ]
    assert (cursor.rowcount, cursor.rownumber, cursor.statusmessage) == (5, 0, "SELECT 5")
    assert cursor.fetchone() == (1, "x")
    assert cursor.fetchmany(2) == [(2, "x"), (3, "x")]
    assert list(cursor) == [(4, "x"), (5, "x")]
    assert cursor.fetchone() is None
    cursor.scroll(1, "absolute")
    assert cursor.fetchall()[0] == (2, "x")
    cursor.execute("select 1; select 2")
    assert cursor.fetchall() == [(1,)]
    assert cursor.nextset()
    assert cursor.fetchall() == [(2,)]
    assert cursor.nextset() is None
    cursor.execute("set absurd.x = 'y'")
    assert cursor.description is None
    with pytest.raises(psycopg.ProgrammingError, match="didn't produce"):
        cursor.fetchone()
    cursor.close()
    with pytest.raises(psycopg.InterfaceError):
        cursor.execute("select 1")


def test_query_forms(connect: Connect) -> None:
    """str, bytes, psycopg.sql; positional and named placeholders; %% ."""
    connection = connect(autocommit=True)
    composed = sql.SQL("select count(*) from {} where task_name = {}").format(
        sql.Identifier("absurd", "t_q"), sql.Literal("it's")
    )
    assert connection.execute(composed).fetchone() == (0,)
    assert connection.execute(b"select 1").fetchone() == (1,)
    named = connection.execute("select %(a)s::int + %(b)s::int + %(a)s::int", {"a": 1, "b": 5})
    assert named.fetchone() == (7,)
    assert connection.execute("select 'a%%', %s::text", ("%s",)).fetchone() == ("a%", "%s")
    with pytest.raises(psycopg.ProgrammingError, match="1 placeholders but 2 parameters"):
        connection.execute("select %s", (1, 2))
    with pytest.raises(psycopg.ProgrammingError, match="parameter missing: b"):
        connection.execute("select %(b)s", {"a": 1})


@pytest.mark.parametrize(
    ("text", "kind", "sqlstate"),
    [
        ("select absurd.spawn_task('q', '', '{}')", psycopg.errors.RaiseException, "P0001"),
        ("select absurd.claim_task('none', 'w')", psycopg.errors.UndefinedTable, "42P01"),
        ("select absurd.cancel_task('q', 'x')", psycopg.errors.InvalidTextRepresentation, "22P02"),
        ("select absurd.spawn_task('q', 't', '{}', '{\"retry_strategy\": 5}')", psycopg.DatabaseError, "AB003"),
        ("select absurd.nothing()", psycopg.errors.UndefinedFunction, "42883"),
        ("select * from absurd.t_q limit -1", psycopg.errors.InvalidRowCountInLimitClause, "2201W"),
    ],
)  # fmt: skip
def test_errors_are_psycopgs(connect: Connect, text: str, kind: type, sqlstate: str) -> None:
    """The same classes, with SQLSTATE and message."""
    with pytest.raises(kind) as caught:
        connect(autocommit=True).execute(text)
    assert type(caught.value) is kind
    assert caught.value.sqlstate == sqlstate
    assert caught.value.diag.message_primary in str(caught.value)


def test_transactions(connect: Connect) -> None:
    """commit, rollback, context managers, nested blocks, autocommit, transaction status."""
    first, other = connect(), connect(autocommit=True)
    count = "select count(*) from absurd.t_q"
    first.execute(SPAWN, ARGUMENTS)
    assert first.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
    assert other.execute(count).fetchone() == (0,)
    first.commit()
    assert other.execute(count).fetchone() == (1,)
    first.execute(SPAWN, ARGUMENTS)
    first.rollback()
    with pytest.raises(ZeroDivisionError), other.transaction():  # noqa: PT012 - two steps
        other.execute(SPAWN, ARGUMENTS)
        1 / 0  # noqa: B018
    with other.transaction() as outer:
        other.execute(SPAWN, ARGUMENTS)
        with pytest.raises(psycopg.errors.RaiseException), other.transaction():
            other.execute("select absurd.spawn_task('q', '', '{}')")
        with other.transaction():
            other.execute(SPAWN, ARGUMENTS)
            raise psycopg.Rollback()
        with pytest.raises(psycopg.ProgrammingError, match="forbidden"):
            other.commit()
        assert outer is not None
    assert other.execute(count).fetchone() == (2,)
    with other.transaction(force_rollback=True):
        other.execute(SPAWN, ARGUMENTS)
    assert other.execute(count).fetchone() == (2,)
    first.execute("select 1")
    with pytest.raises(psycopg.ProgrammingError, match="autocommit"):
        first.autocommit = True
    first.rollback()
    first.autocommit = True
    with connect() as third:
        third.execute(SPAWN, ARGUMENTS)
    assert third.closed
    assert other.execute(count).fetchone() == (3,)
    with pytest.raises(psycopg.OperationalError, match="connection is closed"):
        third.execute("select 1")


def test_failed_transaction_and_savepoints(connect: Connect) -> None:
    """25P02 until it ends or goes back to a savepoint; settings go back too."""
    connection = connect()
    connection.execute("set absurd.fake_now = '2024-01-01T00:00:00Z'")
    connection.commit()
    connection.execute(SPAWN, ARGUMENTS)
    connection.execute("savepoint s")
    connection.execute("set absurd.fake_now = '2025-01-01T00:00:00Z'")
    with pytest.raises(psycopg.errors.DivisionByZero):
        connection.execute("select 1/0")
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        connection.execute("select 1")
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
    connection.execute("rollback to savepoint s")
    year = connection.execute("select date_trunc('year', absurd.current_time())").fetchone()
    assert year == (datetime(2024, 1, 1, tzinfo=UTC),)
    assert connection.execute("select count(*) from absurd.t_q").fetchone() == (1,)
    connection.rollback()
    assert connection.execute("select count(*) from absurd.t_q").fetchone() == (0,)


def test_locks_skip_wait_and_time_out(connect: Connect) -> None:
    """Claims skip locked runs; a second writer waits, and gives up after its lock timeout."""
    first, other = connect(), connect(autocommit=True)
    task_id, run_id, *_ = other.execute(SPAWN, ARGUMENTS).fetchone()
    first.execute("select * from absurd.claim_task('q', 'w1')")
    assert other.execute("select * from absurd.claim_task('q', 'w2')").fetchall() == []
    other.execute("set lock_timeout = '20ms'")
    with pytest.raises(psycopg.errors.LockNotAvailable, match="lock timeout"):
        other.execute("select absurd.cancel_task('q', %s)", (task_id,))
    with pytest.raises(psycopg.errors.LockNotAvailable, match="could not obtain lock"):
        other.execute("select 1 from absurd.r_q for update nowait")
    other.execute("reset lock_timeout")
    done = threading.Event()

    def cancel() -> None:
        other.execute("select absurd.cancel_task('q', %s)", (task_id,))
        done.set()

    waiting = threading.Thread(target=cancel)
    waiting.start()
    assert not done.wait(0.05)
    first.commit()
    assert done.wait(30)
    waiting.join()
    states = other.execute("select state from absurd.r_q where run_id = %s", (run_id,)).fetchone()
    assert states == ("cancelled",)


def test_deadlocks_are_detected(connect: Connect) -> None:
    """Two transactions that wait for each other: one of them fails."""
    first, other = connect(), connect()
    for name in ("a", "b"):
        first.execute("select absurd.emit_event('q', %s)", (name,))
    first.commit()
    touch = "update absurd.e_q set payload = '1' where event_name = %s"
    first.execute(touch, ("a",))
    other.execute(touch, ("b",))
    outcome: list[str] = []

    def cross() -> None:
        try:
            first.execute(touch, ("b",))
            outcome.append("ok")
        except psycopg.errors.DeadlockDetected:
            outcome.append("deadlock")
        first.rollback()

    thread = threading.Thread(target=cross)
    thread.start()
    try:
        other.execute(touch, ("a",))
        outcome.append("ok")
    except psycopg.errors.DeadlockDetected:
        outcome.append("deadlock")
    other.rollback()
    thread.join(10)
    assert sorted(outcome) == ["deadlock", "ok"]


def test_threads_claim_each_run_once(connect: Connect) -> None:
    """Several connections in several threads: every run is claimed exactly once."""
    connection = connect(autocommit=True)
    for _ in range(40):
        connection.execute(SPAWN, ARGUMENTS)
    claimed: list[uuid.UUID] = []

    def work(own: Any) -> None:
        while rows_claimed := own.execute(
            "select run_id from absurd.claim_task('q', 'w')"
        ).fetchall():
            claimed.extend(row[0] for row in rows_claimed)
            own.execute("select absurd.complete_run('q', %s, '{}')", rows_claimed[0])

    threads = [threading.Thread(target=work, args=(connect(autocommit=True),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(claimed) == len(set(claimed)) == 40


async def test_async_connection_waits_without_blocking_the_loop() -> None:
    """A coroutine that waits for a lock lets the one that holds it go on."""
    db = MemoryDatabase()
    first, other = await db.connect_async(), await db.connect_async(autocommit=True)
    await other.execute("select absurd.create_queue('q')")
    row = await (await other.execute(SPAWN, ARGUMENTS)).fetchone()
    await first.execute("select * from absurd.claim_task('q', 'w')")
    cancel = asyncio.ensure_future(other.execute("select absurd.cancel_task('q', %s)", (row[0],)))
    await asyncio.sleep(0.01)
    assert not cancel.done()
    await first.commit()
    await asyncio.wait_for(cancel, 30)
    async with other.cursor(row_factory=rows.dict_row) as cursor:
        await cursor.execute("select state from absurd.t_q")
        assert [row async for row in cursor] == [{"state": "cancelled"}]
    async with other.transaction():
        await other.execute("select absurd.emit_event('q', 'e')")
    async with first:
        await first.execute("select 1")
    assert first.closed


def test_an_unsupported_statement_is_quoted() -> None:
    """What is not understood is refused, never guessed."""
    connection = MemoryDatabase().connect(autocommit=True)
    for text in (
        "create table absurd.own_table (a int)",
        "select to_char(1, '9')",
        "vacuum absurd.queues",
        "select * from pg_class",
        "explain select 1",
        "merge into absurd.queues q using absurd.queues r on true when matched then delete",
    ):
        with pytest.raises(psycopg.NotSupportedError) as caught:
            connection.execute(text)
        assert text.split()[0].lower() in str(caught.value).lower()
