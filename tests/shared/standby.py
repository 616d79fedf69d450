"""A server whose synchronous standby is gone."""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

_LOOK_SECONDS = 0.2
_COMMITS = b"select pg_logical_emit_message(true, 'test', '')"


@contextmanager
def standby_gone(url: str) -> Iterator[None]:
    """Every commit waits on the server of a superuser's database, if it is to be durable."""
    with psycopg.connect(url, autocommit=True) as superuser:
        superuser.execute("alter system set synchronous_standby_names = 'gone'")
        superuser.execute("select pg_reload_conf()")
        try:
            while not _commits_wait(url):  # a process of the server reads the setting in its time
                pass
            yield
        finally:
            superuser.execute("alter system reset synchronous_standby_names")
            superuser.execute("select pg_reload_conf()")


def _commits_wait(url: str) -> bool:
    with psycopg.connect(url, autocommit=True) as session:
        session.execute("set synchronous_commit = on")  # off in a server that is not durable
        session.pgconn.send_query(_COMMITS)
        session.pgconn.flush()
        answered, _, _ = select.select([session.fileno()], [], [], _LOOK_SECONDS)
        session.cancel_safe()
        session.close()
        return not answered
