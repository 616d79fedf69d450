"""Absurd's own schema in a real Postgres, through psycopg 3, which is imported on use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from absurd_contimg.imports_on_use import imports_on_use

if TYPE_CHECKING:
    from absurd_contimg.backends.postgres.backend import PostgresBackend
    from absurd_contimg.backends.postgres.embedded import EmbeddedPostgres

__all__ = ["EmbeddedPostgres", "PostgresBackend"]

__getattr__ = imports_on_use(__name__)
