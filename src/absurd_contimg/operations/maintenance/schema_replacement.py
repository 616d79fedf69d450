"""What a restoration takes away when it replaces a schema, and what it may not replace.

Postgres removes with a table what depends on it, and the rights that were given on it.
"""

from __future__ import annotations

import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from absurd_contimg.backends.postgres import lock_holders
from absurd_contimg.backends.postgres.schema import OWN_PROCEDURES
from absurd_contimg.backends.postgres.sessions import Session
from absurd_contimg.errors import SettingError
from absurd_contimg.operations.console import counted
from absurd_contimg.registry.trouble import trouble_of_file

SQLITE = "sqlite:///"
_LISTED = 10
_UNNAMED = {
    "absurd": re.compile("queues|contimg_sites|[a-su-z]_.*", re.DOTALL),
    "contimg": re.compile("registry_schema|alembic_version"),
}
"""The tables whose rows say nothing beside those of others: of a queue only its tasks are named."""
TABLES: LiteralString = (
    "select c.relname from pg_catalog.pg_class c"
    " join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
    " where n.nspname = %s and c.relkind in ('r', 'p') and not c.relispartition order by 1"
)
_THINGS: LiteralString = """
select case c.relkind when 'f' then 'foreign table' when 'v' then 'view'
         when 'm' then 'materialized view' when 'S' then 'sequence' else 'type' end, c.relname
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where n.nspname = %(schema)s and c.relkind in ('f', 'v', 'm', 'S', 'c')
   and not exists (select from pg_catalog.pg_depend d
         where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid
           and d.refclassid = d.classid and d.deptype in ('a', 'i'))
union all
select 'function', p.proname
  from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
 where n.nspname = %(schema)s and not p.proname = any(%(own)s)
union all
select 'type', t.typname
  from pg_catalog.pg_type t join pg_catalog.pg_namespace n on n.oid = t.typnamespace
 where n.nspname = %(schema)s and t.typtype in ('e', 'd', 'r')
 order by 1, 2
"""
"""What somebody has put into a schema beside tables; a counter belongs to its table."""
_DEPENDENTS: LiteralString = """
with own as (
  select oid from pg_catalog.pg_namespace where nspname = any(%(schemas)s)
), members as (
  select 'pg_catalog.pg_class'::regclass as class, c.oid
    from pg_catalog.pg_class c join own on c.relnamespace = own.oid
  union all
  select 'pg_catalog.pg_proc'::regclass, p.oid
    from pg_catalog.pg_proc p join own on p.pronamespace = own.oid
  union all
  select 'pg_catalog.pg_type'::regclass, t.oid
    from pg_catalog.pg_type t join own on t.typnamespace = own.oid
)
select distinct case when rule.oid is null
         then pg_catalog.pg_describe_object(d.classid, d.objid, 0)
         else pg_catalog.pg_describe_object('pg_catalog.pg_class'::regclass, rule.ev_class, 0) end
  from pg_catalog.pg_depend d
  join members m on m.class = d.refclassid and m.oid = d.refobjid
  left join pg_catalog.pg_rewrite rule
    on d.classid = 'pg_catalog.pg_rewrite'::regclass and rule.oid = d.objid
  left join pg_catalog.pg_constraint k
    on d.classid = 'pg_catalog.pg_constraint'::regclass and k.oid = d.objid
  left join pg_catalog.pg_attrdef a
    on d.classid = 'pg_catalog.pg_attrdef'::regclass and a.oid = d.objid
  left join pg_catalog.pg_trigger g
    on d.classid = 'pg_catalog.pg_trigger'::regclass and g.oid = d.objid
  left join pg_catalog.pg_policy y
    on d.classid = 'pg_catalog.pg_policy'::regclass and y.oid = d.objid
  left join pg_catalog.pg_class c
    on c.oid = coalesce(rule.ev_class, k.conrelid, a.adrelid, g.tgrelid, y.polrelid,
         case when d.classid = 'pg_catalog.pg_class'::regclass then d.objid end)
  left join pg_catalog.pg_proc p
    on d.classid = 'pg_catalog.pg_proc'::regclass and p.oid = d.objid
  left join pg_catalog.pg_type t
    on d.classid = 'pg_catalog.pg_type'::regclass and t.oid = d.objid
 where d.deptype in ('n', 'a')
   and (coalesce(c.relnamespace, p.pronamespace, t.typnamespace) not in (select oid from own)
        or d.classid = 'pg_catalog.pg_publication_rel'::regclass)
 order by 1
"""
"""Of two that depend on each other, what is within the schema is not named, nor is what Postgres
made itself for a table, as that for its long values."""

_GRANTS: LiteralString = """
with given as (
  select 'the schema' as name, 'schema ' || quote_ident(%(schema)s) as object,
         null as attribute, n.nspowner as owner, n.nspacl as acl
    from pg_catalog.pg_namespace n where n.nspname = any(%(schemas)s)
  union all
  select c.relname, case c.relkind when 'S' then 'sequence ' else 'table ' end
           || quote_ident(%(schema)s) || '.' || quote_ident(c.relname), null, c.relowner, c.relacl
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
   where n.nspname = any(%(schemas)s) and c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')
  union all
  select c.relname, 'table ' || quote_ident(%(schema)s) || '.' || quote_ident(c.relname),
         a.attname, c.relowner, a.attacl
    from pg_catalog.pg_attribute a join pg_catalog.pg_class c on c.oid = a.attrelid
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
   where n.nspname = any(%(schemas)s) and a.attacl is not null and not a.attisdropped
)
select distinct name,
       case r.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(r.grantee)) end as role,
       'grant ' || string_agg(lower(r.privilege_type)
           || coalesce(' (' || quote_ident(attribute) || ')', ''), ', ' order by r.privilege_type)
         || ' on ' || object || ' to '
         || case r.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(r.grantee)) end
         || case when r.is_grantable then ' with grant option' else '' end || ';' as statement
  from given, pg_catalog.aclexplode(acl) r
 where r.grantee <> owner
 group by name, object, attribute, r.grantee, r.is_grantable
 order by 2, 1, 3
"""

_WITHOUT_RIGHT: LiteralString = """
select quote_ident(n.nspname) || '.' || quote_ident(c.relname),
       quote_ident(pg_get_userbyid(c.relowner)), quote_ident(current_user)
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where n.nspname = any(%s) and c.relkind = any(%s)
   and not (c.relispartition and %s) and not has_table_privilege(c.oid, %s)
 order by 1
"""


@dataclass(frozen=True, slots=True)
class Grant:
    """Rights of a role on one thing in a schema."""

    name: str
    """Of the table or sequence, or "the schema"."""
    role: str
    statement: str
    """What gives them again."""


def what_would_go(database_url: str, registry_url: str) -> list[str]:
    """What a restoration would replace: what is not ours, tables with rows, rights of others."""
    lines = _rows(database_url, "absurd")
    if not registry_url.startswith(SQLITE):
        return lines + _rows(registry_url, "contimg")
    path = Path(registry_url.removeprefix(SQLITE))
    if not path.exists():
        return lines
    try:
        return lines + _rows_of_file(path)
    except sqlite3.Error as error:
        raise trouble_of_file(str(path), error) from error


def _rows_of_file(path: Path) -> list[str]:
    lines = []
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        names = database.execute("select name from sqlite_master where type = 'table' order by 1")
        for (name,) in names.fetchall():
            quoted = name.replace('"', '""')
            ((count,),) = database.execute(f'select count(*) from "{quoted}"')
            if count and name not in ("registry_schema", "alembic_version"):
                lines.append(f"registry: {counted(count, 'row')} of {name}")
    return lines


def aside_of(schema: str) -> str:
    """The name that a schema has while another takes its place."""
    return f"{schema}_before_restoration"


def require_no_dependents(session: Session, schema: str) -> None:
    """Raise `SettingError` if something outside a schema would be removed with it."""
    values = {"schemas": [schema, aside_of(schema)]}
    names = [name for (name,) in session.execute(_DEPENDENTS, values).fetchall()]
    if names:
        raise SettingError(
            f"What depends on the schema {schema} would be removed with its tables, and is in no "
            f"backup: {joined(names)}.",
            "Save their definitions, drop or move them, then contimg restore again; after it, make "
            "them again.",
        )


def require_right_to_copy(session: Session, schema: str) -> None:
    """Raise `SettingError` if a table of a schema may not be read."""
    for table, owner, user in _without_right(
        session, [schema], "rpS", "select", of_partitions=True
    ):
        raise SettingError(
            f"The user {user} lacks the right select on {table} of role {owner}, so the schema "
            f"{schema} cannot be copied.",
            f"As {owner} or a superuser: grant select on {table} to {user}; or move it: "
            f"alter table {table} set schema public",
        )


def require_right_to_replace(session: Session, schema: str) -> None:
    """Raise `SettingError` if a table of a schema may not be locked, as before its removal."""
    schemas = [schema, aside_of(schema)]
    for table, owner, user in _without_right(session, schemas, "rp", "update, delete, truncate"):
        raise SettingError(
            f"The user {user} has none of the rights update, truncate and delete on {table} of "
            f"role {owner}, so the schema {schema} cannot be replaced.",
            f"As {owner} or a superuser, move it: alter table {table} set schema public",
        )


def _without_right(
    session: Session, schemas: list[str], kinds: str, right: str, *, of_partitions: bool = False
) -> list[tuple[str, str, str]]:
    """Table, owner and user of each table; a partition is locked with its table, but copied."""
    values = (schemas, list(kinds), not of_partitions, right)
    return session.execute(_WITHOUT_RIGHT, values).fetchall()


def grants_of(session: Session, schema: str) -> list[Grant]:
    """The rights on a schema and its tables that others than the owners have."""
    values = {"schema": schema, "schemas": [schema, aside_of(schema)]}
    return session.cursor(row_factory=class_row(Grant)).execute(_GRANTS, values).fetchall()


def describe_grants(schema: str, grants: Iterable[Grant]) -> list[str]:
    """A line for each role."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    for grant in grants:
        if grant.name not in names[grant.role]:
            names[grant.role].append(grant.name)
    return [f"{schema}: rights of {role} on {joined(names[role], ', ')}" for role in names]


def _rows(url: str, schema: str) -> list[str]:
    """What is no table, the tables that have rows, with their number, and rights of others."""
    with bounded_session(url, schema) as session:
        values = {"schema": schema, "own": list(OWN_PROCEDURES)}
        things = session.execute(_THINGS, values).fetchall()
        lines = [f"{schema}: the {kind} {name}" for kind, name in things]
        for (name,) in session.execute(TABLES, (schema,)).fetchall():
            if _UNNAMED[schema].fullmatch(name):
                continue
            count = sql.SQL("select count(*) from {}").format(sql.Identifier(schema, name))
            ((rows,),) = session.execute(count).fetchall()
            if rows:
                lines.append(f"{schema}: {counted(rows, 'row')} of {name}")
        return lines + describe_grants(schema, grants_of(session, schema))


@contextmanager
def bounded_session(url: str, schema: str) -> Iterator[Session]:
    """A session that waits for a lock within a bound; any lock keeps a table from being removed."""
    with (
        lock_holders.naming_holders(url, schema, weakest=0),
        naming_missing_right(schema),
        Session.connect(url, autocommit=True) as session,
    ):
        session.execute(lock_holders.bound_of_locks(session))
        yield session


@contextmanager
def naming_missing_right(schema: str) -> Iterator[None]:
    """Raise `SettingError` where the user lacks a right, with the server's words."""
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise SettingError(
            f"The database's user lacks a right on the schema {schema}: "
            f"{error.diag.message_primary or error}.",
            "Name its owner in the URL, or grant the right.",
        ) from error


def joined(names: list[str], separator: str = "; ") -> str:
    """The first of the names, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return separator.join(names[:_LISTED]) + more
