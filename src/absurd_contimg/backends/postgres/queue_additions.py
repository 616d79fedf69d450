"""What this package adds to the tables of a queue where it may; nothing relies on it.

An index in the order in which runs are claimed, so that a claim takes as long with a million
pending runs as with ten; and a trigger that notifies idle workers of each run that is due, by
whatever client. Both are dropped with the queue, and are part of a dump of the schema.
"""

from __future__ import annotations

from typing import LiteralString

_MISSING: LiteralString = """
    select queue_name, runs, not exists (
        select from pg_catalog.pg_trigger where tgrelid = runs and tgname = 'contimg_due'
      ) as lacks_trigger,
      pg_catalog.to_regclass(pg_catalog.format('absurd.%I', 'r_' || queue_name || '_due')) is null
        as lacks_index
      from (select queue_name,
        pg_catalog.to_regclass(pg_catalog.format('absurd.%I', 'r_' || queue_name)) as runs
        from absurd.queues) queues
     where runs is not null
"""

MISSING: LiteralString = (
    f"select queue_name from ({_MISSING}) queues where lacks_trigger or lacks_index order by 1"
)
"""The queues to which something may be added."""

ADD: LiteralString = f"""
do $do$
declare
  queue record;
begin
  if not exists (select from ({_MISSING}) queues where lacks_trigger or lacks_index) then
    return;
  end if;
  perform pg_catalog.pg_advisory_xact_lock({0x41425355});
  perform pg_catalog.set_config('lock_timeout', '2s', true);
  begin
    if pg_catalog.to_regproc('absurd.contimg_due') is null then
      create function absurd.contimg_due() returns trigger language plpgsql as $$
      begin
        -- Transactions that notify are committed one after the other. Of those that spawn at the
        -- same time, one does, and the others lose nothing by it: what they add is found by the
        -- claims that follow, or by the next poll.
        if pg_catalog.pg_try_advisory_xact_lock({0x41425355}, pg_catalog.hashtext(tg_argv[0])) then
          perform pg_catalog.pg_notify(tg_argv[0], new.state);
        end if;
        return null;
      end $$;
    end if;
  exception when insufficient_privilege then null;
  end;
  for queue in {_MISSING} loop
    begin
      if queue.lacks_trigger then
        execute pg_catalog.format(
          'create trigger contimg_due after insert or update of state on %s'
          ' for each row when (new.state in (''pending'', ''sleeping''))'
          ' execute function absurd.contimg_due(%L)',
          queue.runs, 'r_' || queue.queue_name);
      end if;
    exception when insufficient_privilege or undefined_function or lock_not_available then null;
    end;
    begin
      if queue.lacks_index then
        execute pg_catalog.format(
          'create index %I on %s (available_at, run_id) where state in (''pending'', ''sleeping'')',
          'r_' || queue.queue_name || '_due', queue.runs);
      end if;
    exception when insufficient_privilege or lock_not_available then null;
    end;
  end loop;
end $do$
"""
"""Adds what is missing to every queue, as far as the role may and the tables are not in use."""


def channel(queue_name: str) -> str:
    """The channel on which the trigger notifies: the name of the queue's table of runs."""
    return f"r_{queue_name}"
