"""Connections of the registry: SQLite in WAL mode by default, Postgres by URL.

Writers are serialised in both (``BEGIN IMMEDIATE`` in SQLite, one advisory lock in Postgres), so
callers need no retries. Each transaction opens its own connection: any thread may use a `Database`.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from absurd_contimg.errors import AwayError, RegistryAwayError, RegistryDamagedError, SettingError
from absurd_contimg.owned_folders import make_private
from absurd_contimg.products.filesystem import LOCAL
from absurd_contimg.products.manifest import relocated
from absurd_contimg.registry.engines import READ_ONLY, make_engine
from absurd_contimg.registry.lost_registry import (
    POSTGRES_SCHEMA,
    has_tables,
    is_there,
    require_not_lost,
    require_own_file,
)
from absurd_contimg.registry.models import LAST_SCHEMA_VERSION, SchemaVersion
from absurd_contimg.registry.stored_types import unreadable_row
from absurd_contimg.registry.trouble import REBUILD, is_too_long, trouble_of_file, trouble_of_server

if TYPE_CHECKING:
    import psycopg

_PARAMETERS_MAX = 500
"""Some builds of SQLite take no more than 999 in a statement."""

_POSTGRES_LOCK = 0x636F6E74
"""Key of the advisory lock that serialises writers ("cont")."""

_HERE = "."
"""Stands for the output folder in a path."""

HEAD = "0004"
"""The version of the tables that this package works with: the last one of `migrations`."""

_ALEMBIC_TABLE = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
"""As Alembic makes it."""

_PAUSE_SECONDS = 1.0
_PATIENCE_SECONDS = 8.0

_P = ParamSpec("_P")
_T = TypeVar("_T")


def patient(method: Callable[_P, _T]) -> Callable[_P, _T]:
    """Repeat a whole transaction for some seconds while the registry is away."""

    @wraps(method)
    def call(*arguments: _P.args, **options: _P.kwargs) -> _T:
        give_up = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return method(*arguments, **options)
            except RegistryAwayError:
                if time.monotonic() + _PAUSE_SECONDS >= give_up:
                    raise
                time.sleep(_PAUSE_SECONDS)

    return call


def chunks(values: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """Parts of a list that are short enough for the parameters of a statement."""
    for first in range(0, len(values), _PARAMETERS_MAX):
        yield values[first : first + _PARAMETERS_MAX]


class Database:
    """The registry's tables behind a URL or a path to an SQLite file."""

    def __init__(
        self, url: str | Path, *, output_dir: Path | None = None, may_be_new: bool = False
    ) -> None:
        """Paths below `output_dir` are kept relative to it, so that it may move.

        Tables are made if missing. Without `may_be_new`, a registry that the site of `output_dir`
        has had, and that is gone, raises `RegistryDamagedError`; see also `require_own_file`.
        """
        self._engine = make_engine(url)
        self._url = url
        self.output_dir = None if output_dir is None else str(output_dir)
        if output_dir is not None and not self._is_postgres:
            require_own_file(Path(self._place), output_dir)
            if not may_be_new:
                require_not_lost(Path(self._place), output_dir)
        try:
            with self._naming_trouble():
                self._install(None if may_be_new else output_dir)
        except (OSError, sqlite3.Error) as error:
            raise self._named(error) from None  # the errno of a cause would count before it

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that no other writer overlaps; committed at the end."""
        self._require_file()
        with self._naming_trouble(), Session(self._engine) as session, session.begin():
            if self._is_postgres:
                session.execute(text(f"select pg_advisory_xact_lock({_POSTGRES_LOCK})"))
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that sees one state and changes nothing."""
        self._require_file()
        options = self._engine.execution_options(**{READ_ONLY: True})
        with self._naming_trouble(), Session(options) as session:
            yield session

    def stored(self, value: Any) -> Any:
        """A column's value with the paths below the output folder relative to it."""
        return value if self.output_dir is None else relocated(value, self.output_dir, _HERE)

    def resolved(self, value: Any) -> Any:
        """A column's value with the paths as they are now; absolute ones stay."""
        return value if self.output_dir is None else relocated(value, _HERE, self.output_dir)

    def _require_file(self) -> None:
        """SQLite would make a new file, without a table, where one was deleted."""
        if self._is_postgres:
            return
        try:
            is_gone = not Path(self._place).exists()
        except OSError as error:
            raise self._named(error) from None  # the errno of a cause would count before it
        if is_gone:
            folder = Path(self._place).parent
            is_mount_point = not any(folder.glob("*"))
            raise RegistryDamagedError(
                self._place,
                f"The registry {self._place} is gone.",
                f"Mount the disk of {folder}, which is empty." if is_mount_point else REBUILD,
            )

    @contextmanager
    def _naming_trouble(self) -> Iterator[None]:
        """Raise `AwayError` for what is not the fault of the statement: values of rows, too."""
        try:
            yield
        except (IntegrityError, DataError):
            raise
        except DBAPIError as error:
            if is_too_long(error.orig):
                text = f"A text is too long for the registry {self._place}: {error.orig}."
                raise ValueError(text) from error
            is_value = "Could not decode" in str(error.orig)
            unreadable = self._unreadable_row() if is_value else None
            raise unreadable or self._named(error.orig) from error
        except (ValueError, TypeError, LookupError) as error:
            unreadable = self._unreadable_row()
            if unreadable is None:
                raise
            raise unreadable from error

    def _unreadable_row(self) -> RegistryAwayError | None:
        """For a row of another version, or of somebody else, if there is one."""
        from absurd_contimg.registry.tables import METADATA  # noqa: PLC0415 - they import this

        options = self._engine.execution_options(**{READ_ONLY: True})
        try:
            with options.connect() as connection:
                row = unreadable_row(connection, METADATA)
        except DBAPIError as error:
            row = f"{error.orig}" if "Could not decode" in str(error.orig) else ""
        if not row:
            return None
        return RegistryAwayError(
            self._place,
            f"The registry {self._place} has a row that cannot be read: {row}.",
            "Use the version of the package that wrote it, or correct the row.",
        )

    def _named(self, error: BaseException | None) -> AwayError:
        if not self._is_postgres:
            return trouble_of_file(self._place, error)
        url, reason = str(self._url), cast("psycopg.Error", error)
        trouble = trouble_of_server(self._place, url, POSTGRES_SCHEMA, reason)
        if self.output_dir is not None and isinstance(trouble, RegistryDamagedError):
            try:
                _has_tables(self._engine, Path(self.output_dir))
            except AwayError as reason:  # all tables are gone, or a restoration has them aside
                return reason
            except DBAPIError:
                pass
        return trouble

    @property
    def _place(self) -> str:
        return _place(self._engine)

    def close(self) -> None:
        """Close what is open."""
        self._engine.dispose()

    @property
    def _is_postgres(self) -> bool:
        return self._engine.dialect.name == "postgresql"

    def _is_current(self) -> bool:
        """Whether the tables are there in the newest version; waits for no writer."""
        if not self._is_postgres and not Path(self._place).exists():
            return False  # to look would make the file
        options = self._engine.execution_options(**{READ_ONLY: True})
        with options.connect() as connection:
            schema = POSTGRES_SCHEMA if self._is_postgres else None
            if not inspect(connection).has_table(_ALEMBIC_TABLE.name, schema=schema):
                return False
            return connection.scalar(select(_ALEMBIC_TABLE)) == HEAD

    def _install(self, output_dir: Path | None) -> None:
        path = Path(self._engine.url.database or "")
        if not self._is_postgres and path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        if self._is_current():
            return
        if self._is_postgres:
            with self._engine.begin() as connection:
                connection.execute(text(f"select pg_advisory_xact_lock({_POSTGRES_LOCK})"))
                # Asked under the lock, so that nothing is made beside a restoration or a loss.
                has_tables(connection, self._place, output_dir)
                connection.execute(text(f"create schema if not exists {POSTGRES_SCHEMA}"))
                # Alembic's own statements know no translation of schemas.
                connection.execute(text(f"set local search_path to {POSTGRES_SCHEMA}"))
                self._bring_up_to_date(connection)
        else:
            make_private(path.absolute().parent)
            # Switching to WAL never waits for other processes, so a lock of our own does.
            with LOCAL.locked(path.with_name(path.name + ".lock")):
                _make_private_file(path)
                with self._engine.connect() as connection:
                    driver: Any = connection.connection.driver_connection
                    driver.execute("pragma journal_mode = wal").fetchall()
                    # A table that others refer to is replaced; the keys are checked at the end.
                    driver.execute("pragma foreign_keys = off")
                    with connection.begin():
                        self._bring_up_to_date(connection)

    def _bring_up_to_date(self, connection: Connection) -> None:
        """Make or migrate the tables, in one transaction: a kill in the middle changes nothing."""
        connection.execution_options(schema_translate_map=None)
        tables = inspect(connection).get_table_names()
        if _ALEMBIC_TABLE.name in tables:
            revision = connection.scalar(select(_ALEMBIC_TABLE))
            if revision != HEAD:
                self._migrate(connection, revision)
        elif "registry_schema" in tables:
            version = connection.scalar(text("select max(version) from registry_schema"))
            if version not in {None, 1}:
                raise self._unknown_version(version)
            self._migrate(connection, None)
        else:
            self._create(connection, tables)

    def _create(self, connection: Connection, tables: Sequence[str]) -> None:
        """Make a new registry: many times as fast as its history."""
        from absurd_contimg.registry.tables import METADATA  # noqa: PLC0415 - they import this

        foreign = sorted({table.name for table in METADATA.sorted_tables}.intersection(tables))
        if foreign:
            raise SettingError(
                f"{self._place} is no registry: it has tables of another program "
                f"({', '.join(foreign)}).",
                "Give another file or database: PIPELINE_PRODUCTS_DB.",
            )
        METADATA.create_all(connection, checkfirst=False)
        connection.execute(insert(SchemaVersion).values(version=LAST_SCHEMA_VERSION))
        _ALEMBIC_TABLE.create(connection, checkfirst=False)
        connection.execute(insert(_ALEMBIC_TABLE).values(version_num=HEAD))

    def _migrate(self, connection: Connection, revision: str | None) -> None:
        """Migrate what Alembic knows the revision of, or else tables of the first version."""
        from absurd_contimg.registry.migrations import (  # noqa: PLC0415 - rarely needed, slow
            FIRST,
            known_revisions,
            migrate,
        )

        if revision not in {None, *known_revisions()}:
            raise self._unknown_version(revision)
        migrate(connection, stamp=FIRST if revision is None else None)
        if not self._is_postgres and connection.execute(text("pragma foreign_key_check")).first():
            raise RegistryDamagedError(
                self._place,
                f"The registry {self._place} has rows without the rows that they refer to.",
                REBUILD,
            )

    def _unknown_version(self, version: object) -> SettingError:
        return SettingError(
            f"Registry {self._place} has tables of version {version}, and this package knows "
            f"versions up to {HEAD}.",
            "Use the version of the package that made it, or a newer one.",
        )


def _make_private_file(path: Path) -> None:
    """SQLite gives its log and its index the mode of the file, and who may read them may lock."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def exists(url: str, *, output_dir: Path | None = None) -> bool:
    """Whether a registry may be there, which makes none; raises `AwayError` where it is gone.

    Or, of a site, where it is not for the site alone (`require_own_file`).

    True while its server is away: to open it says why.
    """
    engine = make_engine(url)
    if engine.dialect.name == "postgresql":
        try:
            return _has_tables(engine, output_dir)
        except DBAPIError:
            return True
    path = Path(_place(engine))
    if output_dir is not None:
        require_own_file(path, output_dir)
        require_not_lost(path, output_dir)
    return is_there(path)


def _has_tables(engine: Engine, output_dir: Path | None) -> bool:
    with engine.connect() as connection:
        return has_tables(connection, _place(engine), output_dir)


def _place(engine: Engine) -> str:
    """The file, or the server and database."""
    url = engine.url
    is_file = engine.dialect.name != "postgresql"
    return str(url.database) if is_file else f"{url.host}/{url.database}"
