"""How the registry connects: to a file of SQLite, or to Postgres as everything else does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, NullPool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from absurd_contimg.errors import SettingError
from absurd_contimg.registry.column_values import column_json
from absurd_contimg.registry.lost_registry import POSTGRES_SCHEMA
from absurd_contimg.secrets import is_plain_path, mask

BUSY_SECONDS = 10.0
"""A writer waits this long for another; less than the operations guide's busy_timeout (30 s), so
that a worker can stop; waiting work comes again."""

REGISTRY_SETTING = "PIPELINE_PRODUCTS_DB"
_OF_POSTGRES = re.compile(r"postgres(ql)?(\+psycopg)?://")
_FORMS_OF_SETTING = "Use a file's path, sqlite:///PATH or postgresql://USER@HOST/DATABASE."

READ_ONLY = "registry_read_only"
"""An execution option: the transaction takes no lock of writers."""


def make_engine(url: str | Path) -> Engine:
    """An engine for a file's path or a URL; raises `SettingError` for what is neither."""
    if isinstance(url, str) and "://" not in url and not is_plain_path(url):
        raise SettingError(
            "The registry's setting is neither a plain path nor a known URL.", _FORMS_OF_SETTING
        )
    full_url = f"sqlite:///{url}" if isinstance(url, Path) or "://" not in url else url
    try:
        # The path of a file is taken as it is: it may hold ``?`` and ``%``.
        scheme, _, path = full_url.partition(":///")
        is_file = scheme == "sqlite"
        if _OF_POSTGRES.match(full_url):
            parsed = _server_url(full_url)
        else:
            parsed = URL.create(scheme, database=path) if is_file else make_url(full_url)
        options: dict[str, Any] = {"poolclass": NullPool, "json_serializer": column_json}
        if parsed.drivername.startswith("sqlite"):
            if not parsed.database or parsed.database == ":memory:":
                raise SettingError(
                    f"Registry {mask(str(url))} is no file.", "Give the path of a file."
                )
            options["connect_args"] = {"timeout": BUSY_SECONDS, "check_same_thread": False}
        engine = create_engine(parsed, **options)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise SettingError(
            mask(f"Registry URL {str(url)!r} is not understood ({error})."),
            _FORMS_OF_SETTING,
        ) from error
    if engine.dialect.name == "sqlite":
        _begin_immediately(engine)
        return engine
    _open_our_sessions(engine, full_url)
    return engine.execution_options(schema_translate_map={None: POSTGRES_SCHEMA})


def _server_url(text: str) -> URL:
    """What SQLAlchemy needs to know of a server, and messages name; libpq reads the text itself."""
    from absurd_contimg.backends.postgres.connection_strings import place_of  # noqa: PLC0415 - slow

    hosts, database = place_of(text, REGISTRY_SETTING)
    return URL.create("postgresql+psycopg", host=hosts, database=database)


def _begin_immediately(engine: Engine) -> None:
    """Begin transactions here: the driver begins them late and not exclusively."""

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        # A commit is on the disk when it returns: a registered product stays registered.
        connection.execute("pragma synchronous = full")
        connection.execute("pragma foreign_keys = on")

    @event.listens_for(engine, "begin")
    def _begun(connection: Any) -> None:
        read_only = connection.get_execution_options().get(READ_ONLY, False)
        connection.exec_driver_sql("begin" if read_only else "begin immediate")


def _open_our_sessions(engine: Engine, url: str) -> None:
    """Connect as everything else does that uses Postgres: several hosts, and services, too."""
    from absurd_contimg.backends.postgres.sessions import (  # noqa: PLC0415 - slow
        Session as PostgresSession,
    )
    from absurd_contimg.backends.postgres.sessions import transaction_settings  # noqa: PLC0415

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, _arguments: Any, options: Any) -> PostgresSession:
        return PostgresSession.connect(url, context=options["context"])  # which writes its JSON

    @event.listens_for(engine, "begin")
    def _begun(connection: Any) -> None:
        # Through SQLAlchemy, which wraps its errors and gives up a connection that is lost.
        session: PostgresSession = connection.connection.driver_connection
        settings = transaction_settings(session.info) if session.pooled else ()
        lock_timeout = f"set local lock_timeout = '{BUSY_SECONDS * 1000:.0f}ms'"
        for statement in (*(each.decode() for each in settings), lock_timeout):
            connection.exec_driver_sql(statement).close()
