"""Databases with Absurd's schema for tests: one that is again as it was made serves the next test.

A new one costs a tenth of a second of processor time and three hundred files: of a thousand, the
removal took minutes when the last test was over.
"""

from __future__ import annotations

import itertools
import os
from typing import LiteralString

import psycopg
from psycopg import sql

from absurd_contimg.backends.postgres import EmbeddedPostgres

# The last is what `create_queue` of this package adds to a database.
_EMPTY = """
    select pg_terminate_backend(pid, 5000) from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid();
    select absurd.drop_queue(queue_name) from absurd.queues;
    drop function if exists absurd.contimg_due();
"""
_CATALOGS: tuple[LiteralString, ...] = (
    *("attrdef", "attribute", "cast", "class", "collation", "constraint", "default_acl"),
    *("event_trigger", "extension", "foreign_server", "language", "namespace", "operator"),
    *("policy", "proc", "publication", "rewrite", "statistic_ext", "trigger", "type"),
)
_CATALOG: LiteralString = """
    select count(*), max(xmin::text::bigint) from pg_catalog.pg_{}
"""
_SETTINGS: LiteralString = """
    select datconnlimit, datallowconn, datistemplate, datacl is null,
        (select count(*) from pg_db_role_setting where setdatabase in (0, pg_database.oid)),
        (select count(*) from pg_prepared_xacts where database = datname)
    from pg_database where datname = current_database()
"""
_STATE = " union all ".join(_CATALOG.format(each) for each in _CATALOGS)


class DatabasePool:
    """Databases that are copies of a template."""

    def __init__(self, server: EmbeddedPostgres, template: str) -> None:
        """They are on this server; `template` is a database there."""
        self._server = server
        self._template = template
        self._numbers = itertools.count(1)
        self._free: list[str] = []
        self._state: object = None

    def new(self) -> str:
        """A new database; its URL."""
        return self._server.create_database(self._next_name(), self._template)

    def take(self) -> str:
        """The URL of a database that nothing knows yet."""
        url = self._free.pop() if self._free else self.new()
        if self._state is None:
            with psycopg.connect(url) as connection:
                self._state = _state_of(connection)
        return url

    def give_back(self, url: str) -> None:
        """Make it a database of another name for the next test, if it can be made as it was.

        The name is another, as a process that a test has left may still know the old one.
        """
        name = str(psycopg.conninfo.conninfo_to_dict(url)["dbname"])
        with psycopg.connect(self._server.url("postgres"), autocommit=True) as administration:
            if self._is_as_new(url):
                new = self._next_name()
                administration.execute(
                    sql.SQL("alter database {} rename to {}").format(
                        sql.Identifier(name), sql.Identifier(new)
                    )
                )
                self._free.append(self._server.url(new))
            else:
                administration.execute(
                    sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
                )

    def _next_name(self) -> str:
        return f"test_{os.getpid()}_{next(self._numbers)}"

    def _is_as_new(self, url: str) -> bool:
        """Whether it has no queues any more, and each catalogue is as it was.

        Any change of a catalogue gives a row a transaction that is younger than the template's.
        """
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(_EMPTY)
                return _state_of(connection) == self._state
        except psycopg.Error:  # it is gone, say, or its test has taken rights away
            return False


def _state_of(connection: psycopg.Connection) -> object:
    catalogs = connection.execute(_STATE).fetchall()
    return catalogs, connection.execute(_SETTINGS).fetchall()
