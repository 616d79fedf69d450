"""Installs Absurd's schema from the text in the ``absurdctl`` package, and checks its version."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import LiteralString

import absurdctl
import psycopg

from absurd_contimg.backends.postgres.database_errors import raise_translated, unavailable
from absurd_contimg.backends.postgres.sessions import (
    Session,
    transaction_settings,
)
from absurd_contimg.core.errors import SchemaMissing

SCHEMA_VERSION: str = absurdctl.ABSURD_SCHEMA_TARGET_VERSION
"""The version that ``absurdctl`` carries and this package uses."""

_LOCK: LiteralString = f"select pg_advisory_xact_lock({0x41425355})"
"""One transaction at a time installs; any number of our own ("ABSU")."""


def install_schema(url: str) -> str:
    """Install Absurd's schema, or migrate an older one; what was done, as a sentence.

    One transaction: a failed installation or migration leaves the database as it was. Raises
    `BackendUnavailable` if the database cannot be reached, and `SchemaMissing` if the database
    holds a newer schema than the installed ``absurdctl``.
    """
    with _transaction(url) as connection:
        connection.execute(_LOCK)
        version = _recorded_version(connection)
        if version is None:
            connection.execute(absurdctl.BUNDLED_SCHEMA_SQL.encode())
            return f"Installed Absurd's schema {SCHEMA_VERSION}."
        if version == SCHEMA_VERSION:
            return f"Absurd's schema {version} is already there."
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
    """Raise `SchemaMissing` unless the database holds the schema version that we use."""
    with _transaction(url) as connection:
        require_version(_recorded_version(connection))


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


def _recorded_version(connection: Session) -> str | None:
    has_it = "select to_regprocedure('absurd.get_schema_version()') is not null"
    if connection.execute(has_it).fetchone() != (True,):
        return None
    ((version,),) = connection.execute("select absurd.get_schema_version()").fetchall()
    return str(version)


@contextmanager
def _transaction(url: str) -> Iterator[Session]:
    try:
        with Session.connect(url) as session:
            if session.pooled:
                for statement in transaction_settings(session.info):
                    session.execute(statement)
            yield session
    except psycopg.ProgrammingError as error:
        if error.sqlstate is not None:
            raise_translated(error)
        raise unavailable(error) from error  # the URL is malformed
    except psycopg.Error as error:
        raise_translated(error)
