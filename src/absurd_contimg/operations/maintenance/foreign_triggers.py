"""Triggers on our tables whose functions are in other schemas: they are in no backup.

A new database lacks those schemas, and one such trigger would keep all else from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import LiteralString

from absurd_contimg.backends.postgres.sessions import Session

_TRIGGERS: LiteralString = """
select t.oid::text, quote_ident(t.tgname) || ' ON ' || quote_ident(c.relname),
       pg_catalog.pg_get_triggerdef(t.oid) || ';'
  from pg_catalog.pg_trigger t
  join pg_catalog.pg_class c on c.oid = t.tgrelid
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  join pg_catalog.pg_proc p on p.oid = t.tgfoid
  join pg_catalog.pg_namespace o on o.oid = p.pronamespace
 where n.nspname = %s and not t.tgisinternal and o.nspname not in (n.nspname, 'pg_catalog')
   and coalesce(pg_catalog.to_jsonb(t) ->> 'tgparentid', '0') = '0'
 order by 3
"""
"""That of a partition, which its table's has made, is in no dump."""


@dataclass(frozen=True, slots=True)
class ForeignTrigger:
    """A trigger that is left out of a backup."""

    oid: str
    """As the dump names it."""
    name: str
    """It and its table, as the entry of its comment in a dump names them."""
    statement: str
    """What makes it again, once its function is there."""


def foreign_triggers(session: Session, schema: str) -> list[ForeignTrigger]:
    """Those on the tables of a schema."""
    return [ForeignTrigger(*row) for row in session.execute(_TRIGGERS, (schema,)).fetchall()]


def without_triggers(contents: str, triggers: Iterable[ForeignTrigger]) -> str:
    """The table of contents of a dump, as ``pg_restore --list`` prints it, without these."""
    ends = tuple(f" {each.oid} TRIGGER " for each in triggers)
    comments = tuple(f" TRIGGER {each.name} " for each in triggers)
    return "".join(
        line
        for line in contents.splitlines(keepends=True)
        if not any(end in line for end in ends)
        and not (" COMMENT " in line and any(comment in line for comment in comments))
    )
