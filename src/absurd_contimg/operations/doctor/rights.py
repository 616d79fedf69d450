"""The rights of the database's user on Absurd's schema: without one of them, tasks stand still."""

from __future__ import annotations

from typing import LiteralString

from absurd_contimg.backends.postgres.sessions import Session
from absurd_contimg.operations.doctor.software import Finding

_NAMED = 5
_LACKING: LiteralString = r"""
select 'execute on function ' || p.oid::regprocedure, quote_ident(current_user)
  from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
 where n.nspname = 'absurd' and p.proname not like '%cron%'
   and not has_function_privilege(p.oid, 'execute')
union all
select string_agg(r.name, ', ') || ' on table ' || c.oid::regclass, quote_ident(current_user)
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 cross join unnest(array['select', 'insert', 'update', 'delete']) r (name)
 where n.nspname = 'absurd' and c.relkind in ('r', 'p') and not c.relispartition
   and c.relname ~ '^[crtew]_' and not has_table_privilege(c.oid, r.name)
 group by c.oid
 order by 1
"""


def lacking_rights(url: str) -> list[Finding]:
    """A finding if the user may not call a procedure of Absurd, or not use a queue's table."""
    with Session.connect(url) as session:
        lacking = session.execute(_LACKING).fetchall()
    if not lacking:
        return []
    rights, user = [right for right, _ in lacking], lacking[0][1]
    more = f" and {len(rights) - _NAMED} more" if len(rights) > _NAMED else ""
    return [
        Finding(
            False,
            "rights",
            f"The database's user {user} lacks {'; '.join(rights[:_NAMED])}{more}: tasks stand "
            "still where one of them is needed.",
            f"As the owner of the schema absurd: grant {rights[0]} to {user}",
        )
    ]
