"""What has to hold for a restoration: it is alone with the database, and nobody works on it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from typing import LiteralString

import psycopg
from psycopg.errors import LockNotAvailable

from absurd_contimg.backends.postgres.queue_sites import find_other_queues
from absurd_contimg.backends.postgres.sessions import Session, transaction_settings
from absurd_contimg.errors import SettingError, UserError
from absurd_contimg.registry.database import Database, exists
from absurd_contimg.registry.service_records import SILENT_AFTER_SECONDS, list_services

_KEYS: LiteralString = f"{0x636F6E74}, {0x72657374}"
"""Of the advisory lock ("cont", "rest"): restorations take it alone, backups share it."""
_PATIENCE_MS = 1_000
"""The server needs a moment to see that a process was killed."""
_HOLDER = (
    "select mode from pg_catalog.pg_locks where locktype = 'advisory' and granted"
    f" and (classid, objid) = ({_KEYS}) and database ="
    " (select oid from pg_catalog.pg_database where datname = current_database())"
)


@contextmanager
def only_restoration(database_url: str) -> Iterator[None]:
    """Keep other restorations and backups of a database away; `SettingError` if there is one.

    Of two restorations at once, each would take what the other has loaded for what was there.
    """
    with Session.connect(database_url) as session:
        _lock(session, f"select pg_advisory_xact_lock({_KEYS})")
        yield


@contextmanager
def locked_for_backup(database_url: str) -> Iterator[None]:
    """Keep restorations away, of which a copy would have a part; `SettingError` if there is one.

    Nothing is locked in a database that cannot be reached: the copy says why.
    """
    try:
        session = Session.connect(database_url)
    except psycopg.OperationalError:
        yield
        return
    with session:
        _lock(session, f"select pg_advisory_xact_lock_shared({_KEYS})")
        yield


def _lock(session: Session, statement: LiteralString) -> None:
    """Lock until the transaction ends: behind a pooler no lock of a session would last.

    The programs that this process starts inherit the connection, so that the lock lasts as long as
    they do, should this process be killed.
    """
    if session.pooled:
        for setting in transaction_settings(session.info):
            session.execute(setting)
    session.execute(f"set local lock_timeout = {_PATIENCE_MS}".encode())
    try:
        session.execute(statement)
    except LockNotAvailable:
        session.rollback()
        modes = {mode for (mode,) in session.execute(_HOLDER).fetchall()}
        other = "backup" if modes == {"ShareLock"} else "restoration"
        raise SettingError(
            f"Another {other} of the database {session.info.dbname!r} is under way.",
            "Wait for its end, then look before you repeat: contimg status",
        ) from None
    os.set_inheritable(session.fileno(), True)


def require_stopped(registry_url: str, now: datetime) -> None:
    """Raise `SettingError` if a service of this site runs; a damaged registry names none."""
    try:
        if not exists(registry_url):
            return
        with closing(Database(registry_url)) as database:
            services = list_services(database)
    except UserError:
        return  # it is what has to be restored
    seconds = now.timestamp()
    running = [
        f"{each.kind} {each.name} on {each.host}"
        for each in services
        if each.stopped_at is None and not each.is_silent(seconds)
    ]
    if running:
        raise SettingError(
            f"These services run, or did a moment ago: {', '.join(running)}. They would work on "
            "what is being replaced.",
            "Stop them first (docs/maintenance.md). One that was killed counts as running for "
            f"{SILENT_AFTER_SECONDS:g} s.",
        )


def require_no_other_queues(database_url: str, own: Sequence[str], site: str | None) -> None:
    """Raise `SettingError` if the database has queues of another site or program.

    `own` are the names of this site's queues, `site` its identity. A dump holds all of Absurd's
    schema: the others would be set back too.
    """
    if others := find_other_queues(database_url, own, site):
        names = ", ".join(map(repr, others[:10]))
        raise SettingError(
            f"The database holds queues of another site or program, too: {names}. A restoration "
            "would set them back to the time of the backup, and end what works on them.",
            "Restore into a database of its own (ABSURD_DATABASE_URL); or, when all that works "
            "on them is stopped: --all-queues",
        )
