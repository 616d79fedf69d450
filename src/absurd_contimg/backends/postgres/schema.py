"""Installs Absurd's schema from the text in the ``absurdctl`` package, and checks its version."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import LiteralString

import absurdctl
import psycopg

from absurd_contimg.backends.postgres.database_errors import (
    READ_ONLY,
    TAKES_NO_CHANGES,
    raise_translated,
)
from absurd_contimg.backends.postgres.lock_holders import tables_locked
from absurd_contimg.backends.postgres.queue_additions import ADD, MISSING
from absurd_contimg.backends.postgres.queue_sites import ADD_TABLE
from absurd_contimg.backends.postgres.sessions import (
    Session,
    transaction_settings,
)
from absurd_contimg.backends.postgres.transaction_ids import TAKE_ID
from absurd_contimg.core.errors import BackendError, SchemaMissing

SCHEMA_VERSION: str = absurdctl.ABSURD_SCHEMA_TARGET_VERSION
"""The version that ``absurdctl`` carries and this package uses."""

ASIDE: LiteralString = "absurd_before_restoration"
"""What a restoration renames the schema to, until it is done."""

IS_ASIDE: LiteralString = f"select pg_catalog.to_regnamespace('{ASIDE}') is not null"
"""Whether a restoration has begun and has not ended."""

_SQL = absurdctl.BUNDLED_SCHEMA_SQL
_CREATE = re.compile("^create function", re.MULTILINE)
_CREATED = re.compile(r"^create (?:or replace )?function absurd\.(\w+)", re.MULTILINE)
OWN_PROCEDURES = frozenset((*_CREATED.findall(_SQL), "contimg_due"))
"""What Absurd and this package make in the schema, by name."""
_PROCEDURES: LiteralString = (
    "select p.proname from pg_catalog.pg_proc p"
    " join pg_catalog.pg_namespace n on n.oid = p.pronamespace where n.nspname = 'absurd'"
)
_TABLES: LiteralString = (
    "select queue_name, table_name, oid is not null,"
    " coalesce(has_table_privilege(oid, 'select') and has_table_privilege(oid, 'insert')"
    " and has_table_privilege(oid, 'update') and has_table_privilege(oid, 'delete'), false)"
    " from (select q.queue_name, name as table_name, to_regclass(name)::oid as oid"
    " from absurd.queues q, unnest('{t,r,c,e,w}'::text[]) kind,"
    " format('absurd.%I', kind || '_' || q.queue_name) name) tables order by 1, 2"
)
"""Queue and name of each table that there should be; whether it is, and may be used."""

_FILTERED: LiteralString = (
    "select c.relname::text from pg_catalog.pg_class c"
    " join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
    " where n.nspname = 'absurd' and c.relkind in ('r', 'p')"
    " and pg_catalog.row_security_active(c.oid)"
    " and not exists (select from pg_catalog.pg_policies p where p.schemaname = 'absurd'"
    " and p.tablename = c.relname and p.cmd = 'ALL' and p.permissive = 'PERMISSIVE'"
    " and p.qual = 'true' and coalesce(p.with_check, 'true') = 'true') order by 1"
)
"""The tables of which the user sees and writes only rows that a policy allows."""

_LOCK: LiteralString = f"select pg_advisory_xact_lock({0x41425355})"
"""One transaction at a time installs; any number of our own ("ABSU")."""


_BOUND: LiteralString = "set local lock_timeout = '20s'"
"""What somebody else has locked is waited for so long."""


def install_schema(url: str) -> str:
    """Install Absurd's schema, or migrate an older one; what was done, as a sentence.

    With what this package adds (`queue_additions`, `queue_sites`), as far as it may.

    One transaction: a failed installation or migration leaves the database as it was. Raises
    `BackendUnavailable` if the database cannot be reached, and `SchemaMissing` if the database
    holds a newer schema than the installed ``absurdctl``.
    """
    with _transaction(url) as connection:
        connection.execute(_LOCK)
        done = _install(connection)
        connection.execute(ADD)
        connection.execute(ADD_TABLE)
        return done


def _install(connection: Session) -> str:
    require_whole_restoration(_is_aside(connection))
    version = _recorded_version(connection)
    if version is None:
        connection.execute(_SQL.encode())
        return f"Installed Absurd's schema {SCHEMA_VERSION}."
    if version == SCHEMA_VERSION:
        missing = _missing_procedures(connection)
        if not missing:
            return f"Absurd's schema {version} is already there."
        connection.execute(_CREATE.sub("create or replace function", _SQL).encode())
        return f"Put back what was missing in Absurd's schema {version}: {', '.join(missing)}."
    if absurdctl.compare_versions(version, SCHEMA_VERSION) > 0:
        raise SchemaMissing(
            f"The database holds Absurd's schema {version}, newer than the {SCHEMA_VERSION} "
            "that this package uses. Upgrade the package absurdctl."
        )
    steps = absurdctl.resolve_migration_path(
        version, SCHEMA_VERSION, absurdctl.discover_bundled_migrations()
    )
    for step in steps:
        connection.execute(absurdctl.get_migration_sql(step).encode())
    return f"Migrated Absurd's schema from {version} to {SCHEMA_VERSION}."


def check_schema(url: str) -> None:
    """Raise `SchemaMissing` unless the database holds, whole, the schema version that we use.

    And `BackendError` if it takes no changes, or if its user may not use a table, or not all of
    its rows.
    """
    with _transaction(url) as connection:
        if connection.execute("select pg_is_in_recovery()").fetchone() == (True,):
            raise BackendError(READ_ONLY, TAKES_NO_CHANGES)
        require_whole_restoration(_is_aside(connection))
        require_version(_recorded_version(connection))
        if procedures := _missing_procedures(connection):
            raise SchemaMissing(
                f"Procedures are missing in Absurd's schema: {', '.join(procedures)}. "
                "Run: contimg db init"
            )
        tables = connection.execute(_TABLES).fetchall()
        filtered = [table for (table,) in connection.execute(_FILTERED).fetchall()]
        connection.execute(TAKE_ID)
        connection.rollback()  # a commit would wait for a synchronous standby that is gone
    missing = [(queue, table) for queue, table, is_there, _ in tables if not is_there]
    if missing:
        raise SchemaMissing(
            f"Tables are missing: {', '.join(table for _, table in missing)}. Put them back from a "
            f"backup, or make empty ones: contimg --queue {shlex.quote(missing[0][0])} db init"
        )
    barred = [table for _, table, _, is_usable in tables if not is_usable]
    if barred:
        raise BackendError(
            f"The database's user may not read and write {', '.join(barred[:5])}. Grant it, or "
            "name another user in ABSURD_DATABASE_URL."
        )
    if filtered:
        raise BackendError(
            f"Row security hides rows of absurd.{', absurd.'.join(filtered[:5])} from the "
            "database's user: no task is seen that a policy does not name. As the owner: alter "
            "table NAME no force row level security, or alter role USER bypassrls."
        )


def queues_without_additions(url: str) -> list[str]:
    """The queues that lack what this package adds to them: there, workers only poll."""
    with _transaction(url) as connection:
        return [name for (name,) in connection.execute(MISSING).fetchall()]


def require_version(version: str | None) -> None:
    """Raise `SchemaMissing`, saying what to do, unless `version` is the one that we use."""
    if version is None:
        raise SchemaMissing(
            "The database holds no Absurd schema. Run: contimg db init", sqlstate="3F000"
        )
    if version != SCHEMA_VERSION:
        raise SchemaMissing(
            f"The database holds Absurd's schema {version}, and this package uses "
            f"{SCHEMA_VERSION}. Run: contimg db init"
        )


def require_whole_restoration(is_aside: bool) -> None:
    """Raise `SchemaMissing` if `IS_ASIDE` was true: a restoration works or was killed.

    An empty queue is no answer then, and a queue of the backup beside a newer registry is none.
    """
    if is_aside:
        raise SchemaMissing(
            "The restoration of a backup is under way or was interrupted: the tasks from before it "
            f"are in the schema {ASIDE}. Wait for its end; of one that was interrupted, repeat it: "
            "contimg restore FOLDER --force"
        )


def _is_aside(connection: Session) -> bool:
    return connection.execute(IS_ASIDE).fetchone() == (True,)


def _recorded_version(connection: Session) -> str | None:
    has_it = "select to_regprocedure('absurd.get_schema_version()') is not null"
    if connection.execute(has_it).fetchone() != (True,):
        return None
    ((version,),) = connection.execute("select absurd.get_schema_version()").fetchall()
    return str(version)


def _missing_procedures(connection: Session) -> list[str]:
    there = Counter(name for (name,) in connection.execute(_PROCEDURES).fetchall())
    return sorted(Counter(_CREATED.findall(_SQL)) - there)


@contextmanager
def _transaction(url: str) -> Iterator[Session]:
    try:
        with Session.connect(url) as session:
            if session.pooled:
                for statement in transaction_settings(session.info):
                    session.execute(statement)
            session.execute(_BOUND)
            yield session
    except psycopg.errors.LockNotAvailable as error:
        raise tables_locked(url, error) from error
    except psycopg.Error as error:
        raise_translated(error)
