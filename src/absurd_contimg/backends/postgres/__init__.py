"""Absurd's own schema in a real Postgres, through psycopg 3."""

from absurd_contimg.backends.postgres.backend import PostgresBackend
from absurd_contimg.backends.postgres.embedded import EmbeddedPostgres

__all__ = ["EmbeddedPostgres", "PostgresBackend"]
