# ruff: noqa: E501 - a statement is one line
"""Corners of cursors, transactions and parameters, each as psycopg does it on a real server.

Every test runs on both kinds of connection, with the same expectations.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from psycopg.transaction import OutOfOrderTransactionNesting
from psycopg.types.json import Jsonb, set_json_dumps

from absurd_contimg.backends.memory import MemoryDatabase

Connect = Callable[..., Any]
ADD = "insert into absurd.e_q (event_name) values (%s)"
NAMES = "select event_name from absurd.e_q order by 1"


def test_executemany_is_one_transaction_and_leaves_no_result(connect: Connect) -> None:
    """Its count is the sum, its tag the last one; an error undoes the rows before it."""
    connection = connect(autocommit=True)
    cursor = connection.cursor()
    cursor.executemany(ADD, [("a",), ("b",)])
    assert (cursor.rowcount, cursor.statusmessage, cursor.description) == (2, "INSERT 0 1", None)
    with pytest.raises(psycopg.ProgrammingError, match="no result available"):
        cursor.fetchone()
    with pytest.raises(psycopg.errors.UniqueViolation):
        cursor.executemany(ADD, [("c",), ("c",)])
    assert connection.execute(NAMES).fetchall() == [("a",), ("b",)]
    cursor.executemany("select %s::int", [(1,), (2,)], returning=True)
    assert [each.fetchall() for each in cursor.results()] == [[(1,)], [(2,)]]
    assert cursor.set_result(-2).fetchone() == (1,)
    with pytest.raises(IndexError, match="2 result"):
        cursor.set_result(2)


@pytest.mark.parametrize("text", ["", " ; ", "-- only a comment", "/* a ; b */"])
def test_a_text_without_a_statement(connect: Connect, text: str) -> None:
    """It is run and answers nothing."""
    cursor = connect(autocommit=True).execute(text)
    assert (cursor.rowcount, cursor.statusmessage, cursor.description) == (-1, None, None)
    with pytest.raises(psycopg.ProgrammingError, match="didn't produce"):
        cursor.fetchone()


def test_comments_inside_of_quotes_are_none(connect: Connect) -> None:
    """A setting keeps what looks like a comment."""
    connection = connect(autocommit=True)
    connection.execute("/* c */ set absurd.x = 'a -- b' -- c")
    assert connection.execute("show absurd.x").fetchone() == ("a -- b",)
    connection.execute("set absurd.x = '/* k */'")
    assert connection.execute("show absurd.x").fetchone() == ("/* k */",)


def test_status_of_a_transaction_block(connect: Connect) -> None:
    """It goes from one state to the next, and a block cannot be left out of order."""
    connection = connect()
    block = connection.transaction
    status = psycopg.Transaction.Status
    with block() as outer:
        assert (outer.status, outer.savepoint_name) == (status.ACTIVE, "")
        with block() as inner:
            assert inner.savepoint_name == "_pg3_2"
            raise psycopg.Rollback(inner)
    assert (outer.status, inner.status) == (status.COMMITTED, status.ROLLED_BACK_EXPLICITLY)
    with pytest.raises(ZeroDivisionError), block() as failed:
        1 / 0  # noqa: B018
    assert failed.status == status.ROLLED_BACK_WITH_ERROR
    first, second = block(), block()
    first.__enter__()
    second.__enter__()
    for left in (first, second):  # a block that is never left complains when it is collected
        with pytest.raises(OutOfOrderTransactionNesting, match="wrong nesting level"):
            left.__exit__(None, None, None)


def test_a_block_whose_error_was_swallowed_commits_as_a_rollback(connect: Connect) -> None:
    """Postgres answers ROLLBACK to the commit of a failed transaction, and psycopg says nothing."""
    connection = connect()
    with connection.transaction():
        connection.execute(ADD, ("a",))
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("select 1/0")
    assert connection.info.transaction_status == TransactionStatus.IDLE
    assert connection.execute(NAMES).fetchall() == []
    with (
        pytest.raises(psycopg.errors.InFailedSqlTransaction),
        connection.transaction(),
        pytest.raises(psycopg.errors.DivisionByZero),
    ):
        connection.execute("select 1/0")
    other = connect()
    with (
        pytest.raises(psycopg.errors.InvalidSavepointSpecification),
        other.transaction(),
        other.transaction("z"),
    ):
        other.execute("release z")


@pytest.mark.parametrize(
    "text",
    ["begin read only", "set transaction not deferrable", "set default_transaction_read_only = on",
     "start transaction isolation level serializable", "commit and chain", "rollback and chain",
     "set transaction isolation level repeatable read read only", "set work_mem = '1MB'",
     "show jit", "select current_setting('jit', true)", "set datestyle = 'German'",
     "set session characteristics as transaction read write", "set client_encoding = 'LATIN1'"],
)  # fmt: skip
def test_what_would_have_no_effect_is_refused(text: str) -> None:
    """Modes of transactions, chains, and settings that the emulator lacks, each by its name."""
    with MemoryDatabase().connect(autocommit=True) as connection:
        with pytest.raises(psycopg.NotSupportedError, match="the in-memory Absurd"):
            connection.execute(text)
        assert connection.info.transaction_status == TransactionStatus.IDLE


def test_settings_with_one_value_take_that_value(connect: Connect) -> None:
    """So programs that set what is the default anyway work."""
    connection = connect(autocommit=True)
    for text in ("client_encoding = 'utf-8'", "datestyle = ISO", "intervalstyle = postgres"):
        connection.execute(f"set {text}")
    connection.execute("begin isolation level read committed")
    assert connection.execute("show transaction_isolation").fetchone() == ("read committed",)
    connection.execute("set transaction isolation level read committed")
    connection.execute("commit and no chain")


@pytest.mark.parametrize(
    ("lock_timeout", "error"), [("0", "QueryCanceled"), ("10s", "QueryCanceled"), ("1", "LockNotAvailable")]
)  # fmt: skip
def test_the_shorter_timeout_ends_a_wait(connect: Connect, lock_timeout: str, error: str) -> None:
    """``statement_timeout`` or ``lock_timeout``, each with its own error."""
    first, other = connect(), connect(autocommit=True)
    first.execute("select absurd.drop_queue('q')")
    other.execute("set statement_timeout = '20ms'")
    other.execute(f"set lock_timeout = '{lock_timeout}'")
    with pytest.raises(getattr(psycopg.errors, error), match="canceling statement"):
        other.execute("select count(*) from absurd.t_q")


def test_commands_take_no_parameters(connect: Connect) -> None:
    """`set` with a parameter is a syntax error; a placeholder inside of quotes is only text."""
    connection = connect(autocommit=True)
    for text in ("set absurd.x = %s", "show %s", "savepoint %s"):
        with pytest.raises(psycopg.errors.SyntaxError):
            connection.execute(text, ("a",))
    assert connection.execute("select '%s' -- %s", (1, 2)).fetchone() == ("$1",)
    with pytest.raises(psycopg.errors.UndefinedColumn, match=r'column "\$1" does not exist'):
        connection.execute('select "%s"', (1,))


def test_a_bad_template_leaves_the_transaction_begun(connect: Connect) -> None:
    """psycopg sends `begin` before it looks at the parameters."""
    connection = connect()
    with pytest.raises(psycopg.ProgrammingError):
        connection.execute("select %s", (1, 2))
    assert connection.info.transaction_status == TransactionStatus.INTRANS


def test_tags(connect: Connect) -> None:
    """The less usual ones."""
    connection = connect(autocommit=True)
    cursor = connection.cursor()
    texts = ("start transaction", "end", "abort")
    tags = ["START TRANSACTION", "COMMIT", "ROLLBACK"]
    assert [cursor.execute(text).statusmessage for text in texts] == tags


def test_info_tells_only_what_a_server_reports(connect: Connect) -> None:
    """Names as the server spells them; None for other settings."""
    parameter_status = connect(autocommit=True).info.parameter_status
    assert parameter_status("standard_conforming_strings") == "on"
    assert parameter_status("TimeZone") is not None
    assert parameter_status("timezone") is None
    assert parameter_status("lock_timeout") is None


@pytest.mark.parametrize(
    ("text", "params"),
    [
        ("select jsonb_build_object('a', %s)", ("x",)),
        ("select %s is null", (None,)),
    ],
)
def test_a_parameter_whose_type_nothing_tells(connect: Connect, text: str, params: Any) -> None:
    """psycopg sends text without a type, and functions that take any type do not give it first."""
    with pytest.raises(psycopg.errors.IndeterminateDatatype, match="data type of parameter"):
        connect(autocommit=True).execute(text, params)


def test_a_local_setting_outside_of_a_transaction_lasts_as_long_as_its_statement(
    connect: Connect,
) -> None:
    """A statement is a transaction of its own."""
    connection = connect(autocommit=True)
    text = "select set_config('absurd.x', 'a', true), current_setting('absurd.x')"
    assert connection.execute(text).fetchone() == ("a", "a")
    assert connection.execute("select current_setting('absurd.x')").fetchone() == ("",)


@pytest.mark.parametrize(
    "text",
    [
        "insert into absurd.e_q (event_name) values (null)",
        "insert into absurd.e_q (event_name) values ('a'), ('a')",
        "insert into absurd.queues (queue_name) values ('q')",
        "update absurd.queues set storage_mode = 'x'",
        "insert into absurd.c_q (task_id, checkpoint_name) values ('00000000-0000-0000-0000-000000000001', 'a'), ('00000000-0000-0000-0000-000000000001', 'a')",
        "select absurd.set_task_checkpoint_state('q', null, 's', '1', null)",
    ],
)  # fmt: skip
def test_a_broken_constraint_is_named(connect: Connect, text: str, new_database: Any) -> None:
    """Schema, table, column and constraint in `diag`, the key in its detail."""
    answers = []
    for connection in (connect(autocommit=True), psycopg.connect(new_database(), autocommit=True)):
        connection.execute("select absurd.create_queue('q')")
        with pytest.raises(psycopg.Error) as caught:
            connection.execute(text)
        diag = caught.value.diag
        unique = "unique" in str(diag.message_primary)
        names = (diag.schema_name, diag.table_name, diag.column_name, diag.constraint_name)
        answers.append((diag.message_primary, *names, diag.message_detail if unique else None))
        connection.close()
    assert answers[0] == answers[1]


@pytest.mark.parametrize("text", ["savepoint a", "release a", "rollback to a"])
def test_statements_sent_together_are_no_transaction_block(connect: Connect, text: str) -> None:
    """They share a transaction, and yet a savepoint wants a block."""
    connection = connect(autocommit=True)
    with pytest.raises(psycopg.errors.NoActiveSqlTransaction, match="transaction blocks"):
        connection.execute(f"select 1; {text}; select 2")
    assert connection.info.transaction_status == TransactionStatus.IDLE


def test_a_parameter_that_is_not_given(connect: Connect) -> None:
    """An empty mapping passes psycopg's check, and the server misses the parameter."""
    with pytest.raises(psycopg.errors.UndefinedParameter, match=r"there is no parameter \$1"):
        connect(autocommit=True).execute("select %s", {})


REFUSED: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    ("server-side cursors", lambda connection: connection.cursor("rows")),
    ("COPY", lambda connection: connection.cursor().copy("copy absurd.t_q to stdout").__enter__()),
    ("stream", lambda connection: next(connection.cursor().stream("select 1"))),
    ("pipelines", lambda connection: connection.pipeline()),
    ("notifications", lambda connection: connection.notifies()),
    ("two-phase commit", lambda connection: connection.tpc_begin("x")),
    ("binary cursors", lambda connection: connection.execute("select 1", binary=True)),
    ("binary parameters", lambda connection: connection.execute("select %b", ["a"])),
    ("ClientCursor", lambda connection: setattr(connection, "cursor_factory", psycopg.ClientCursor)),
    ("PGconn.socket", lambda connection: connection.fileno()),
)  # fmt: skip
REFUSED_ASYNC: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    ("COPY", lambda connection: connection.cursor().copy("copy absurd.t_q to stdout").__aenter__()),
    ("stream", lambda connection: anext(connection.cursor().stream("select 1"))),
    ("two-phase commit", lambda connection: connection.tpc_begin("x")),
    ("binary cursors", lambda connection: connection.execute("select 1", binary=True)),
)  # fmt: skip


@pytest.mark.parametrize(("name", "use"), REFUSED)
def test_what_psycopg_has_and_the_emulator_lacks(name: str, use: Callable[[Any], Any]) -> None:
    """It is refused by its name, with what to do."""
    with (
        MemoryDatabase().connect() as connection,
        pytest.raises(
            psycopg.NotSupportedError,
            match=f"{name}.*absurd_postgres_url.*--absurd-backend postgres",
        ),
    ):
        use(connection)


@pytest.mark.parametrize(("name", "use"), REFUSED_ASYNC)
async def test_the_same_on_an_asynchronous_connection(name: str, use: Callable[[Any], Any]) -> None:
    """What psycopg writes twice is refused twice."""
    async with await MemoryDatabase().connect_async() as connection:
        with pytest.raises(psycopg.NotSupportedError, match=f"{name}.*--absurd-backend postgres"):
            await use(connection)


def test_executemany_keeps_what_came_before_an_error_of_the_callers_own(connect: Connect) -> None:
    """psycopg's pipeline has sent it by then; several statements are refused as with parameters."""
    connection = connect(autocommit=True)
    cursor = connection.cursor()

    def names() -> Iterator[tuple[str]]:
        yield ("before",)
        raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"):
        cursor.executemany(ADD, names())
    assert connection.execute(NAMES).fetchall() == [("before",)]
    with pytest.raises(psycopg.errors.SyntaxError):
        cursor.executemany("select 1; select 2", [()])
    assert cursor.rowcount == 0


@pytest.mark.parametrize(
    ("text", "value", "shown"),
    [
        ("select %s::numeric::text", 1e300, "1" + 300 * "0"),
        ("select (-0.0)::numeric::text || %s", "", "0.0"),
    ],
)
def test_parameters_are_of_the_type_that_psycopg_sends(
    connect: Connect, text: str, value: Any, shown: str
) -> None:
    """And what Postgres makes of it."""
    assert connect(autocommit=True).execute(text, [value]).fetchone() == (shown,)


@pytest.mark.parametrize(
    ("query", "placeholder"),
    [("select %s", "'%s' (format: AUTO)"), ("select %t", "'%t' (format: TEXT)")],
)  # fmt: skip
def test_a_value_that_cannot_be_adapted_is_told_with_its_placeholder(
    connect: Connect, query: str, placeholder: str
) -> None:
    """As psycopg words it."""
    with pytest.raises(psycopg.ProgrammingError) as caught:
        connect().execute(query, [{"a": 1}])
    assert str(caught.value) == f"cannot adapt type 'dict' using placeholder {placeholder}"


class Point(NamedTuple):
    x: int


def point_as(text: str) -> type[psycopg.adapt.Dumper]:
    """A dumper that gives this text for every point."""

    class PointDumper(psycopg.adapt.Dumper):
        def dump(self, obj: Any) -> bytes:
            return text.encode()

    return PointDumper


POINT = "select %s::text"


def test_each_statement_takes_the_dumpers_of_its_time(connect: Connect) -> None:
    """Of its cursor, else of the connection as it was when the cursor was made."""
    connection = connect(autocommit=True)

    def shown(executor: Any) -> Any:
        return executor.execute(POINT, (Point(1),)).fetchone()[0]

    early, own = connection.cursor(), connection.cursor()
    assert shown(early) == "(1)"  # a tuple is a row
    own.adapters.register_dumper(Point, point_as("own"))
    assert [shown(own), shown(early), shown(connection)] == ["own", "(1)", "(1)"]
    connection.adapters.register_dumper(Point, point_as("first"))
    assert [shown(own), shown(early), shown(connection)] == ["own", "(1)", "first"]
    connection.adapters.register_dumper(Point, point_as("second"))
    assert [shown(connection), shown(own), shown(early)] == ["second", "own", "(1)"]


def test_each_statement_takes_the_json_encoder_of_its_time(connect: Connect) -> None:
    """Of all connections, or of this one."""
    connection = connect(autocommit=True)

    def shown() -> Any:
        return connection.execute("select %s::jsonb", (Jsonb(1),)).fetchone()[0]

    assert shown() == 1
    try:
        set_json_dumps(lambda _: "2")
        assert shown() == 2
    finally:
        set_json_dumps(json.dumps)
    assert shown() == 1
    set_json_dumps(lambda _: "3", connection)
    assert shown() == 3


def test_each_statement_takes_the_types_of_its_time(connect: Connect) -> None:
    """A list of what a new dumper gives is an array of its type."""
    connection = connect(autocommit=True)

    class AsInteger(psycopg.adapt.Dumper):
        oid = psycopg.adapters.types["int8"].oid

        def dump(self, obj: Any) -> bytes:
            return b"7"

    assert connection.execute("select %s::bigint = any(%s)", (7, [1])).fetchone() == (False,)
    connection.adapters.register_dumper(Point, AsInteger)
    assert connection.execute("select %s::bigint = any(%s)", (7, [Point(1)])).fetchone() == (True,)
