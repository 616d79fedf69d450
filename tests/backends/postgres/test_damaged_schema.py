"""A schema that is there in part: what is missing is named, and what mends it."""

from __future__ import annotations

import re
import shlex

import psycopg
import pytest
from psycopg import sql

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.backends.postgres.schema import check_schema, install_schema
from absurd_contimg.core.errors import BackendError, QueueNotFound, SchemaMissing


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


async def test_procedures_that_are_missing_are_put_back(database_url: str) -> None:
    """``db init`` said that all was there, and every command that ``db init`` was to be run.

    Of two procedures of one name one may be missing.
    """
    async with PostgresBackend(database_url) as backend:
        await backend.create_queue("q")
        task = await backend.spawn_task("q", "task", {})
        dropped = ("cancel_task", "create_queue(text)", "claim_task")
        execute(database_url, *(f"drop function absurd.{name}" for name in dropped))
        with pytest.raises(SchemaMissing, match=r"not whole .*cancel_task.*run: contimg db init"):
            await backend.cancel_task("q", task.task_id)
        with pytest.raises(SchemaMissing, match=r"missing .*: cancel_task, claim_task, create_q"):
            check_schema(database_url)
        assert "cancel_task, claim_task, create_queue" in install_schema(database_url)
        assert "already there" in install_schema(database_url)
        check_schema(database_url)
        await backend.cancel_task("q", task.task_id)


async def test_tables_that_are_missing_are_named(database_url: str) -> None:
    """ "There is no queue 'q'; there are: q", said of whatever queue the table was."""
    async with PostgresBackend(database_url) as backend:
        for queue in ("q", "odd name's"):
            await backend.create_queue(queue)
            check_schema(database_url)
            command = re.escape(f"contimg --queue {shlex.quote(queue)} db init")
            with psycopg.connect(database_url, autocommit=True) as connection:
                table = sql.Identifier("absurd", f"w_{queue}")
                connection.execute(sql.SQL("drop table {}").format(table))
            with pytest.raises(SchemaMissing, match=command):
                check_schema(database_url)
            with pytest.raises(QueueNotFound, match=command):
                await backend.histories(queue, [(await backend.spawn_task(queue, "t", {})).task_id])
            await backend.create_queue(queue)
        check_schema(database_url)


async def test_a_user_without_rights_is_no_healthy_database(database_url: str) -> None:
    """``doctor`` found no problem."""
    async with PostgresBackend(database_url) as backend:
        await backend.create_queue("q")
    role = "reader_of_absurd"
    execute(
        database_url,
        f"create role {role} login",
        f"grant usage on schema absurd to {role}",
        f"grant select on all tables in schema absurd to {role}",
    )
    try:
        with pytest.raises(BackendError, match=r"may not read and write absurd\.c_q, absurd\.e_q"):
            check_schema(psycopg.conninfo.make_conninfo(database_url, options=f"-c role={role}"))
        execute(database_url, f"grant all on all tables in schema absurd to {role}")
        check_schema(psycopg.conninfo.make_conninfo(database_url, options=f"-c role={role}"))
    finally:
        execute(database_url, f"drop owned by {role}", f"drop role {role}")


async def test_a_user_who_sees_no_rows_has_no_healthy_database(database_url: str) -> None:
    """Forced row security: a worker saw no task, and ``doctor`` found no problem."""
    async with PostgresBackend(database_url) as backend:
        await backend.create_queue("q")
    role = "filtered_of_absurd"
    url = psycopg.conninfo.make_conninfo(database_url, options=f"-c role={role}")
    table = "alter table absurd.t_q"
    execute(
        database_url,
        f"create role {role} login",
        f"grant usage on schema absurd to {role}",
        f"grant all on all tables in schema absurd to {role}",
        f"{table} owner to {role}",
        f"{table} enable row level security",
    )
    try:
        check_schema(url)  # not for the owner
        execute(database_url, f"{table} force row level security")
        with pytest.raises(BackendError, match=r"Row security hides rows of absurd\.t_q from"):
            check_schema(url)
        check_schema(database_url)
        execute(database_url, "create policy everything on absurd.t_q using (true)")
        check_schema(url)
    finally:
        execute(database_url, f"{table} owner to current_user")
        execute(database_url, f"drop owned by {role}", f"drop role {role}")
