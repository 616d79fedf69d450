"""Backup of registry and queue into a folder, and their restoration.

The registry is copied first: what the queue knows beside it is found again by idempotency keys and
manifests, while a registry that is newer than the queue could name tasks that do not exist. Each
copy is of one moment. Products are on disk and are no part of it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy import select

from absurd_contimg.backends.postgres import lock_holders
from absurd_contimg.backends.postgres.database_errors import OF_TASKS, raise_translated
from absurd_contimg.backends.postgres.queue_sites import FORGET_ALL
from absurd_contimg.backends.postgres.sessions import Session
from absurd_contimg.backends.postgres.synchronous_standby import (
    WAIT_FOR_STANDBY,
    CommitUnconfirmed,
)
from absurd_contimg.core.errors import BackendUnavailable
from absurd_contimg.errors import (
    CorruptInputError,
    MissingInputError,
    OutputError,
    SettingError,
)
from absurd_contimg.operations.maintenance.backup_folder import (
    FORMAT,
    NOTE,
    QUEUE,
    REGISTRY_DUMP,
    REGISTRY_FILE,
    SCHEMAS,
    Backup,
    digest,
    read_backup,
)
from absurd_contimg.operations.maintenance.database_programs import LOCAL_COMMITS, run_program
from absurd_contimg.operations.maintenance.foreign_triggers import (
    ForeignTrigger,
    foreign_triggers,
    without_triggers,
)
from absurd_contimg.operations.maintenance.restoration_guard import (
    locked_for_backup,
    only_restoration,
)
from absurd_contimg.operations.maintenance.schema_replacement import (
    SQLITE,
    TABLES,
    aside_of,
    bounded_session,
    grants_of,
    joined,
    naming_missing_right,
    require_no_dependents,
    require_right_to_copy,
    require_right_to_replace,
    what_would_go,
)
from absurd_contimg.owned_folders import Mark, make_private, temporary_folder
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.tables import ALL_TABLES
from absurd_contimg.registry.trouble import trouble_of_file
from absurd_contimg.whole_files import failures_of, flush

_MARK = Mark("backup", "contimg backup")
_VARIABLES = {"absurd": OF_TASKS, "contimg": "PIPELINE_PRODUCTS_DB"}
"""What names the database of each schema."""
_BUSY_SECONDS = 10.0
"""A registry in SQLite that somebody else has locked is waited for so long."""
_FOLDER_MODE, _FILE_MODE = 0o700, 0o600
"""Histories hold what users gave to their tasks."""
_TRANSACTION_TIMEOUT = b"SET transaction_timeout = 0;"
_TRANSACTION_TIMEOUT_SINCE = 170_000
"""The first version of the server that knows the setting."""
_SCRIPT_HEAD_BYTES = 4_096
_LACKS = (
    "The backup needs what was made by hand beside the tables and is not in this database: make it "
    "first."
)
_NEXT = "All is as it was before; then: contimg restore again, and no contimg db init."
_COUNT = (
    "select count(*) from pg_catalog.pg_class c"
    " join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
    " where n.nspname = %s and c.relkind in ('r', 'p')"
)


@dataclass(frozen=True, slots=True)
class Restoration:
    """What was restored."""

    backup: Backup
    lost_grants: tuple[str, ...]
    """The statements that give other roles the rights again that they had on the tables before."""


def make_backup(
    database_url: str, registry_url: str, folder: Path, now: datetime, site: str | None = None
) -> Backup:
    """Copy registry and queue of a site into a new folder, which is there whole or not at all.

    Raises `SettingError` if the folder is there, if a copy cannot be made, or during a restoration.
    """
    if folder.exists():
        raise SettingError(f"{folder} is there already.", "Give the name of a new folder.")
    left_out = {QUEUE: _require_schema(database_url, SCHEMAS[QUEUE], "tasks")}
    if not registry_url.startswith(SQLITE):
        schema = SCHEMAS[REGISTRY_DUMP]
        left_out[REGISTRY_DUMP] = _require_schema(registry_url, schema, "the registry")
    make_private(folder.parent)
    with (
        locked_for_backup(database_url),
        temporary_folder(folder.parent, _MARK) as temporary,
    ):
        partial = temporary / "backup"
        partial.mkdir(mode=_FOLDER_MODE)
        if registry_url.startswith(SQLITE):
            source = Path(registry_url.removeprefix(SQLITE))
            if source.exists():
                _copy_sqlite(source, partial / REGISTRY_FILE)
        else:
            _dump(registry_url, partial / REGISTRY_DUMP)
        _dump(database_url, partial / QUEUE)
        files = {path.name: digest(path) for path in sorted(partial.iterdir())}
        made_at = now.astimezone(UTC).isoformat(timespec="seconds")
        made = Backup(FORMAT, made_at, files, {k: v for k, v in left_out.items() if v}, site)
        with failures_of(folder):
            (partial / NOTE).write_text(json.dumps(asdict(made), indent=1))
        for path in partial.iterdir():
            path.chmod(_FILE_MODE)
            flush(path)
        flush(partial)
        os.rename(partial, folder)
        flush(folder.parent)
    return made


def restore_backup(
    database_url: str,
    registry_url: str,
    folder: Path,
    *,
    force: bool = False,
    check: Callable[[], None] | None = None,
) -> Restoration:
    """Put queue and registry back as they were. Stop the workers first.

    `check` is called once no other restoration can change what it sees. Raises `SettingError` if
    there is anything that would go, unless `force`, if other schemas depend on the tables, and
    during another restoration or a backup; `UserError` if the backup cannot be read: then all is as
    it was. Killed in between, it is repeated with `force`.
    """
    noted = read_backup(folder)
    dumped = REGISTRY_DUMP in noted.files
    if dumped == registry_url.startswith(SQLITE):
        raise SettingError(
            f"The backup's registry is {'in Postgres' if dumped else 'a file'}, that of the "
            "settings is not.",
            "Set PIPELINE_PRODUCTS_DB as it was.",
        )
    with only_restoration(database_url):
        if check is not None:
            check()
        lost_grants = []
        for url, schema in _places(database_url, registry_url):
            lock_holders.require_commits(url)  # the programs that load it would wait for ever
            with (
                _naming_variable(schema),
                naming_missing_right(schema),
                Session.connect(url, autocommit=True) as session,
            ):
                require_right_to_replace(session, schema)
                require_no_dependents(session, schema)
                lost_grants += [each.statement for each in grants_of(session, schema)]
        going = what_would_go(database_url, registry_url)
        if going and not force:
            raise SettingError(
                f"The database is not empty: {joined(going)}.",
                "These would go. To replace them: --force. Back them up before.",
            )
        _replace(database_url, registry_url, folder, noted)
    return Restoration(noted, tuple(lost_grants))


@contextmanager
def _naming_variable(schema: str) -> Iterator[None]:
    """Raise what `core.errors` has, with the variable that names the database of the schema."""
    try:
        yield
    except psycopg.Error as error:
        raise_translated(error, _VARIABLES[schema])


def _places(database_url: str, registry_url: str) -> list[tuple[str, str]]:
    """The schemas that are replaced, each with the URL of its database."""
    places = [(database_url, SCHEMAS[QUEUE])]
    if not registry_url.startswith(SQLITE):
        places.append((registry_url, SCHEMAS[REGISTRY_DUMP]))
    return places


def _replace(database_url: str, registry_url: str, folder: Path, noted: Backup) -> None:
    with ExitStack() as replaced:
        triggers = noted.left_out
        replaced.enter_context(_loaded(database_url, folder / QUEUE, triggers.get(QUEUE, ())))
        if REGISTRY_DUMP in noted.files:
            dump = folder / REGISTRY_DUMP
            replaced.enter_context(_loaded(registry_url, dump, triggers.get(dump.name, ())))
            _require_tables(registry_url)
        elif REGISTRY_FILE in noted.files:
            _require_registry(folder / REGISTRY_FILE)
            target = Path(registry_url.removeprefix(SQLITE))
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy_sqlite(folder / REGISTRY_FILE, target)


def _require_registry(path: Path) -> None:
    """Raise `CorruptInputError` unless it is a whole registry: its copy replaces the one there."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            ((problem,),) = database.execute("pragma quick_check(1)")
            database.execute("select version from registry_schema").fetchall()
    except sqlite3.Error as error:
        problem = str(error)
    if problem != "ok":
        raise CorruptInputError(f"{path} is no registry: {problem}.", "Use another backup.")
    with tempfile.TemporaryDirectory(prefix="contimg-restore-") as folder:
        copy = Path(folder, path.name)  # it is migrated
        _copy_sqlite(path, copy)
        _require_tables(f"{SQLITE}{copy}")


def _require_tables(registry_url: str) -> None:
    """Raise `UserError` unless this version of the package can use or migrate the registry."""
    with closing(Database(registry_url)) as database, database.reading() as session:
        for table in ALL_TABLES:
            session.execute(select(table).limit(1)).first()


def _copy_sqlite(source: Path, target: Path) -> None:
    """All of a database as of one moment, in one transaction; others may use both."""
    try:
        with (
            closing(sqlite3.connect(source, timeout=_BUSY_SECONDS)) as reader,
            closing(sqlite3.connect(target, timeout=_BUSY_SECONDS)) as writer,
        ):
            try:  # to copy from what is locked would wait without a bound
                reader.execute("select count(*) from sqlite_master").fetchall()
            except sqlite3.Error as error:
                raise trouble_of_file(str(source), error) from error
            reader.backup(writer)
    except sqlite3.Error as error:
        raise OutputError(
            f"{source} could not be copied to {target}: {error}.",
            "Free space on the disk of the copy, or choose another folder.",
        ) from error


def _dump(url: str, target: Path) -> None:
    schema = SCHEMAS[target.name]
    bound = f"--lock-wait-timeout={lock_holders.LOCK_SECONDS:g}s"
    start = time.monotonic()
    try:
        with _naming_variable(schema):
            run_program(
                "pg_dump", url, "--format=custom", bound, f"--schema={schema}", f"--file={target}"
            )
    except SettingError as error:
        # Its first lock also fails for other reasons, at once, and in the server's language.
        waited = time.monotonic() - start >= lock_holders.LOCK_SECONDS
        if not waited or "Query was: LOCK TABLE" not in str(error):
            raise
        raise lock_holders.tables_locked(url, error, schema) from error


@contextmanager
def _loaded(url: str, source: Path, left_out: Sequence[ForeignTrigger]) -> Iterator[None]:
    """Put a dump in the place of its schema; what was there is put back if the block fails."""
    schema = SCHEMAS[source.name]
    aside = aside_of(schema)
    with _naming_variable(schema), bounded_session(url, schema) as session:
        session.execute(b"" if session.pooled else f"set {LOCAL_COMMITS}".encode())
        if _exists(session, schema):  # else a restoration was killed, and what is aside counts
            with session.transaction():
                for (name,) in session.execute(TABLES, (schema,)).fetchall():
                    # It is removed at the end, which may not wait for somebody who uses it.
                    lock = sql.SQL("lock table {} in access exclusive mode")
                    session.execute(lock.format(sql.Identifier(schema, name)))
                require_no_dependents(session, schema)  # nobody can make one now
                session.execute(f"drop schema if exists {aside} cascade".encode())
                session.execute(f"alter schema {schema} rename to {aside}".encode())
        try:
            with _naming_what_lacks():
                _restore(url, session.info.server_version, source, left_out)
            if schema == SCHEMAS[QUEUE]:
                session.execute(FORGET_ALL)
            ((tables,),) = session.execute(_COUNT, (schema,)).fetchall()
            if not tables:
                raise CorruptInputError(
                    f"{source} holds no tables of {schema}.", "Use another backup."
                )
            _require_confirmed(url)
            yield
        except BaseException:
            session.execute(f"drop schema if exists {schema} cascade".encode())
            if _exists(session, aside):
                session.execute(f"alter schema {aside} rename to {schema}".encode())
            raise
        session.execute(f"drop schema if exists {aside} cascade".encode())


def _require_confirmed(url: str) -> None:
    """Raise `BackendUnavailable` unless synchronous standbys have all that was loaded."""
    try:
        with Session.connect(url, autocommit=True) as session, session.transaction():
            session.execute(b"select pg_catalog.pg_logical_emit_message(true, 'contimg', '')")
    except CommitUnconfirmed as error:
        raise BackendUnavailable(f"All is as it was before. {WAIT_FOR_STANDBY}") from error


@contextmanager
def _naming_what_lacks() -> Iterator[None]:
    """What to do next: an empty schema, as a new database asks for, would hide what is lost."""
    try:
        yield
    except SettingError as error:
        lacks = "does not exist" in error.problem
        remedy = _LACKS if lacks else error.remedy or "Correct the cause."
        raise SettingError(error.problem, f"{remedy} {_NEXT}") from error


def _restore(
    url: str, server_version: int, source: Path, left_out: Sequence[ForeignTrigger] = ()
) -> None:
    """Load a dump, in one transaction, without some triggers.

    What pg_restore sets since Postgres 17 an older server does not know. There the script that it
    makes is loaded, without that line.
    """
    options = ["--exit-on-error", "--no-owner", "--no-privileges"]
    with tempfile.TemporaryDirectory(prefix="contimg-restore-") as folder:
        if left_out:
            contents = Path(folder, "contents")
            run_program("pg_restore", None, "--list", f"--file={contents}", str(source))
            contents.write_text(without_triggers(contents.read_text(), left_out))
            options.append(f"--use-list={contents}")
        if server_version >= _TRANSACTION_TIMEOUT_SINCE:
            run_program("pg_restore", url, "--single-transaction", *options, str(source))
            return
        script = Path(folder, source.name)
        run_program("pg_restore", None, *options, f"--file={script}", str(source))
        with script.open("r+b") as file:
            place = file.read(_SCRIPT_HEAD_BYTES).find(_TRANSACTION_TIMEOUT)
            if place >= 0:
                file.seek(place)
                file.write(b"-- ")
        as_one = ("--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1")
        run_program("psql", url, *as_one, f"--file={script}")


def _require_schema(url: str, schema: str, what: str) -> list[ForeignTrigger]:
    """What a dump leaves out; raises `UserError` where nothing is there, or may be copied.

    pg_dump tells no cause.
    """
    with suppress(psycopg.OperationalError), Session.connect(url) as session:  # the copy names it
        if not _exists(session, schema):
            raise MissingInputError(
                f"The database {session.info.dbname!r} holds no schema {schema}, so no {what}: "
                "nothing is copied.",
                f"Check {_VARIABLES[schema]}. In a new database: contimg db init",
            )
        require_right_to_copy(session, schema)
        return foreign_triggers(session, schema)
    return []


def _exists(session: Session, schema: str) -> bool:
    query = "select 1 from pg_catalog.pg_namespace where nspname = %s"
    return session.execute(query, (schema,)).fetchone() is not None
