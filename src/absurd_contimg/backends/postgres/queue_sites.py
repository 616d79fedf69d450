"""Which site each queue belongs to, in a table beside Absurd's where it may be made.

It goes with the queue: when that is dropped, and into a dump of the schema.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import LiteralString

from absurd_contimg.backends.postgres.connections import Connections
from absurd_contimg.backends.postgres.lock_holders import bound_of_locks, naming_holders
from absurd_contimg.backends.postgres.sessions import Session
from absurd_contimg.core.errors import BackendError

ADD_TABLE: LiteralString = """
do $do$
begin
  if pg_catalog.to_regclass('absurd.contimg_sites') is not null then
    return;
  end if;
  perform pg_catalog.set_config('lock_timeout', '2s', true);
  create table absurd.contimg_sites (
    queue_name text primary key references absurd.queues (queue_name) on delete cascade,
    site text not null,
    output_dir text not null,
    registry text not null
  );
exception when insufficient_privilege or lock_not_available then null;
end $do$
"""
"""Makes the table unless it is there, if the role may."""

FORGET_ALL: LiteralString = """
do $do$
begin
  if pg_catalog.to_regclass('absurd.contimg_sites') is not null then
    delete from absurd.contimg_sites;
  end if;
end $do$
"""
"""After a restoration: the next process that starts says whose the queues are."""

_OTHERS: LiteralString = """
select queue_name from absurd.queues where queue_name <> all(%s)
"""
_OTHERS_BY_SITE: LiteralString = """
select queue_name from absurd.queues left join absurd.contimg_sites using (queue_name)
where case when site is null then queue_name <> all(%s) else site is distinct from %s end
"""

_NOT_THERE = ("42P01", "42501")
"""The SQLSTATE of a table that is missing, or that the role may not use."""


@dataclass(frozen=True, slots=True)
class QueueSite:
    """The site of a queue, as the last of its processes to start knew it."""

    queue_name: str
    site: str
    """The identity that is in the output folder, too."""
    output_dir: str
    """Where the folder is, with the host."""
    registry: str
    """Where the registry is."""


def find_other_queues(url: str, own: Sequence[str], site: str | None) -> list[str]:
    """The queues in a database that belong to another site, or to nobody known and are not `own`.

    Raises what psycopg raises, and `BackendError` if somebody has locked the tables.
    """
    with naming_holders(url), Session.connect(url, autocommit=True) as session:
        session.execute(bound_of_locks(session))
        query = "select to_regclass('absurd.queues') is null, to_regclass('absurd.contimg_sites')"
        ((is_empty, table),) = session.execute(query).fetchall()
        if is_empty:
            return []
        rows = (
            session.execute(_OTHERS, (list(own),))
            if table is None
            else session.execute(_OTHERS_BY_SITE, (list(own), site))
        )
        return sorted(name for (name,) in rows.fetchall())


class QueueSites:
    """The table in a database."""

    def __init__(self, database: Connections) -> None:
        self._database = database

    async def of_queues(self, queues: Iterable[str]) -> dict[str, QueueSite] | None:
        """What is recorded of the queues, by name; None if nothing can be recorded."""
        recorded, wanted = await self.all(), set(queues)
        if recorded is None:
            return None
        return {name: each for name, each in recorded.items() if name in wanted}

    async def all(self) -> dict[str, QueueSite] | None:
        """What is recorded of all queues, by name; None if nothing can be recorded."""
        query = b"select queue_name, site, output_dir, registry from absurd.contimg_sites"
        try:
            rows = await self._database.rows(QueueSite, query)
        except BackendError as error:
            if error.sqlstate not in _NOT_THERE:
                raise
            return None
        return {row.queue_name: row for row in rows}

    async def enter(self, sites: Sequence[QueueSite], *, moves: bool = False) -> bool:
        """Record the sites of queues that exist; whether the role may. One that is recorded stays.

        With `moves` its places become those of the given one.
        """
        query = (
            "insert into absurd.contimg_sites (queue_name, site, output_dir, registry)"
            " select queue_name, %s, %s, %s from absurd.queues where queue_name = %s"
            " on conflict (queue_name) do "
        )
        query += (
            "update set output_dir = excluded.output_dir, registry = excluded.registry"
            " where contimg_sites.site = excluded.site"
            if moves
            else "nothing"
        )
        try:
            async with self._database.connection(changes=True) as connection:
                for each in sites:
                    values = (each.site, each.output_dir, each.registry, each.queue_name)
                    await connection.execute(query, values)
        except BackendError as error:
            if error.sqlstate not in _NOT_THERE:
                raise
            return False
        return True

    async def forget(self, queues: Iterable[str]) -> None:
        """Let the queues belong to no site."""
        async with self._database.connection(changes=True) as connection:
            await connection.execute(
                "delete from absurd.contimg_sites where queue_name = any(%s)", (list(queues),)
            )
