"""Absurd's own schema in a real Postgres, through psycopg 3, which is imported on use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from absurd_contimg.backends.postgres.backend import PostgresBackend
    from absurd_contimg.backends.postgres.embedded import EmbeddedPostgres

__all__ = ["EmbeddedPostgres", "PostgresBackend"]

_MODULES = {"EmbeddedPostgres": "embedded", "PostgresBackend": "backend"}
"""The module of each name, in this package."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
