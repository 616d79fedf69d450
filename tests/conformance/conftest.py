"""Two empty databases side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from absurd_contimg.backends.memory import MemoryDatabase


@pytest.fixture(scope="module")
def sides(new_database: Any) -> Iterator[tuple[Any, Any]]:
    """A connection to Postgres and one to the emulator."""
    options = {"autocommit": True, "options": "-c timezone=Etc/UTC", "prepare_threshold": None}
    with (
        psycopg.connect(new_database(), **options) as real,
        MemoryDatabase().connect(autocommit=True) as ours,
    ):
        yield real, ours
