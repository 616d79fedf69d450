"""VACUUM (ANALYZE) of Absurd's tables and of the registry: space and statistics after removals."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from psycopg import sql

from absurd_contimg.backends.postgres.connections import BoundedConnection
from absurd_contimg.backends.postgres.lock_holders import (
    OF_VACUUM,
    bound_of_locks,
    naming_holders,
)
from absurd_contimg.registry.trouble import trouble_of_file

_TABLES = (
    "select c.relname from pg_catalog.pg_class c"
    " join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
    " where n.nspname = %s and c.relkind = 'r' order by 1"
)
_BUSY_SECONDS = 10.0


async def vacuum_postgres(url: str, schema: str) -> int:
    """Vacuum and analyse every table of a schema, one at a time; how many.

    It takes no lock that a worker would wait for. Raises `BackendError` if somebody has locked one.
    """
    session = await BoundedConnection.connect(url, autocommit=True)
    session.changes = True  # statistics are committed
    with naming_holders(url, schema, OF_VACUUM):
        async with session:
            await session.execute(bound_of_locks(session))
            cursor = await session.execute(_TABLES, (schema,))
            tables = await cursor.fetchall()
            for (table,) in tables:
                name = sql.Identifier(schema, table)
                await session.execute(sql.SQL("vacuum (analyze) {}").format(name))
    return len(tables)


def vacuum_sqlite(path: Path) -> bool:
    """Give back unused space of an SQLite file; False if it is absent, or used all the time."""
    if not path.exists():
        return False
    with closing(sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)) as database:
        try:
            database.execute("pragma optimize")
            database.execute("vacuum")
        except sqlite3.DatabaseError as error:
            if "locked" in str(error) or "busy" in str(error):
                return False
            raise trouble_of_file(str(path), error) from error
    return True


async def vacuum(database_url: str, registry_url: str) -> str:
    """Vacuum both; a sentence that says what was done."""
    is_shared = registry_url.startswith("postgres")
    count = await vacuum_postgres(database_url, "absurd")
    if is_shared:
        count += await vacuum_postgres(registry_url, "contimg")
        return f"{count} tables vacuumed and analysed."
    done = await asyncio.to_thread(vacuum_sqlite, Path(registry_url.removeprefix("sqlite:///")))
    return f"{count} tables vacuumed and analysed, the registry's file {'too' if done else 'not'}."
