"""A server that gives out no transaction ID: it protects itself against their wraparound."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg

from absurd_contimg.backends.postgres import EmbeddedPostgres
from absurd_contimg.backends.postgres.server_programs import run_program

_NEXT_ID = 2_144_490_000
"""Beyond the stop limit of a new cluster, about 3 million before the wraparound."""
_IDS_PER_SEGMENT = 1 << 20
_SEGMENT_BYTES = 1 << 18


@contextmanager
def ids_used_up(server: EmbeddedPostgres) -> Iterator[None]:
    """A running server is restarted with all transaction IDs given out, and frees none meanwhile.

    A table whose file is away keeps them: no vacuum of it succeeds. Without autovacuum they are
    freed, once it is back, when the next one is refused, and then at once.
    """
    with closing(psycopg.connect(server.url("postgres"), autocommit=True)) as session:
        session.execute("alter system set autovacuum = off")
        session.execute("create table keeper ()")
        ((path,),) = session.execute("select pg_relation_filepath('keeper')").fetchall()
    server.stop("fast")
    data = server.folder / "data"
    away = (data / path).rename(server.folder / "away")
    run_program(server.folder, "pg_resetwal", "-x", str(_NEXT_ID), "-D", str(data))
    with (data / "pg_xact" / f"{_NEXT_ID // _IDS_PER_SEGMENT:04X}").open("wb") as segment:
        segment.truncate(_SEGMENT_BYTES)
    server.start()
    try:
        yield
    finally:
        away.rename(data / path)
