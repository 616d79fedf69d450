"""Outages of a `TroubledSite`: of its database, its registry, its folders and its terminal."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

from small_disk import mounted
from standby import standby_gone
from troubled_site import DATABASE, ROLE, TroubledSite

Outage = Callable[[TroubledSite], AbstractContextManager[None]]

_TABLES = (
    "select format('%%I.%%I', n.nspname, c.relname) from pg_class c"
    " join pg_namespace n on n.oid = c.relnamespace"
    " where n.nspname = %s and c.relkind in ('r', 'p')"
)


@contextmanager
def server_away(site: TroubledSite) -> Iterator[None]:
    """Its socket is gone."""
    socket = site.server.folder / "socket" / ".s.PGSQL.5432"
    moved = socket.rename(socket.with_name("moved"))
    try:
        yield
    finally:
        moved.rename(socket)


@contextmanager
def no_standby(site: TroubledSite) -> Iterator[None]:
    """Every commit waits for a synchronous standby."""
    durable = f"alter role {ROLE} set synchronous_commit = on"
    relaxed = f"alter role {ROLE} reset synchronous_commit"
    with changed_by(durable, relaxed)(site), standby_gone(site.server.url("postgres")):
        yield


def changed_by(statement: str, back: str) -> Outage:
    """The administrator does something, and undoes it."""

    @contextmanager
    def outage(site: TroubledSite) -> Iterator[None]:
        with site.admin() as session:
            session.execute(statement.encode())
        try:
            yield
        finally:
            with site.admin() as session:
                session.execute(back.encode())

    return outage


no_connection_left = changed_by(
    f"alter role {ROLE} connection limit 0", f"alter role {ROLE} connection limit -1"
)
closed_database = changed_by(
    f"alter database {DATABASE} allow_connections false",
    f"alter database {DATABASE} allow_connections true",
)
read_only_role = changed_by(
    f"alter role {ROLE} set default_transaction_read_only = on",
    f"alter role {ROLE} reset default_transaction_read_only",
)


def tables(site: TroubledSite, schema: str) -> list[str]:
    """All tables of a schema, quoted."""
    with site.admin(DATABASE) as session:
        return [str(name) for (name,) in session.execute(_TABLES, (schema,))]


def locked_tables(schema: str) -> Outage:
    """A session of another role has locked every table of a schema."""

    @contextmanager
    def outage(site: TroubledSite) -> Iterator[None]:
        names = ", ".join(tables(site, schema))
        with site.admin(DATABASE) as session, session.transaction():
            session.execute(f"lock table {names} in access exclusive mode".encode())
            yield

    return outage


@contextmanager
def prepared_transaction(site: TroubledSite) -> Iterator[None]:
    """It holds locks on the queues' tables, and no session does."""
    names = ", ".join(tables(site, "absurd"))
    with site.admin(DATABASE) as session:
        session.execute("begin")
        session.execute(f"lock table {names} in access exclusive mode".encode())
        session.execute("prepare transaction 'of a test'")
    try:
        yield
    finally:
        with site.admin(DATABASE) as session:
            session.execute("rollback prepared 'of a test'")


@contextmanager
def revoked_rights(site: TroubledSite) -> Iterator[None]:
    """The site's role may read, and owns nothing."""
    with site.admin(DATABASE) as session:
        for schema in ("absurd", "contimg"):
            session.execute(f"alter schema {schema} owner to postgres".encode())
            for table in tables(site, schema):
                session.execute(f"alter table {table} owner to postgres".encode())
            session.execute(f"revoke all on all tables in schema {schema} from {ROLE}".encode())
            session.execute(f"grant usage on schema {schema} to {ROLE}".encode())
            session.execute(f"grant select on all tables in schema {schema} to {ROLE}".encode())
        session.execute(f"alter database {DATABASE} owner to postgres".encode())
    yield


def registry_file(site: TroubledSite) -> Path:
    """The registry in SQLite."""
    return site.root / "state" / "registry.sqlite3"


@contextmanager
def locked_file(site: TroubledSite) -> Iterator[None]:
    """Another process has the registry for itself."""
    with closing(sqlite3.connect(registry_file(site), isolation_level=None)) as holder:
        holder.execute("pragma locking_mode = exclusive")
        holder.execute("begin exclusive")
        yield


@contextmanager
def overwritten_file(site: TroubledSite) -> Iterator[None]:
    """The registry holds something else."""
    for path in registry_file(site).parent.glob("registry.sqlite3-*"):
        path.unlink()
    registry_file(site).write_bytes(b"no database at all" * 5000)
    yield


def read_only(name: str) -> Outage:
    """The disk of a folder can only be read."""

    @contextmanager
    def outage(site: TroubledSite) -> Iterator[None]:
        folder = str(site.root / name)
        subprocess.run(["mount", "--bind", folder, folder], check=True)
        try:
            subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
            yield
        finally:
            subprocess.run(["umount", "-l", folder], check=True)

    return outage


def moved_away(name: str) -> Outage:
    """A folder is not there."""

    @contextmanager
    def outage(site: TroubledSite) -> Iterator[None]:
        (site.root / name).rename(site.root / f"{name}-away")
        yield

    return outage


def full_disk(name: str) -> Outage:
    """The disk of a folder is full."""

    @contextmanager
    def outage(site: TroubledSite) -> Iterator[None]:
        content = (site.root / name).rename(site.root / f"{name}-before")
        with mounted(site.root / name) as disk:
            subprocess.run(["cp", "-a", f"{content}/.", str(disk)], check=True)
            descriptor = os.open(disk / "filler", os.O_WRONLY | os.O_CREAT)
            try:
                while True:
                    os.write(descriptor, bytes(4096))
            except OSError:
                os.close(descriptor)
            yield

    return outage
