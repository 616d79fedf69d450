"""Connections of both kinds, to one database for the tests of a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakSet

import psycopg
import pytest

from absurd_contimg.backends.memory import MemoryDatabase


@pytest.fixture(scope="module")
def shared_url(new_database: Callable[[], str]) -> str:
    """One database for all tests of a module."""
    return new_database()


@pytest.fixture(params=["memory", "postgres"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Opens connections to one database with an empty queue."""
    opened = WeakSet[Any]()
    url = request.getfixturevalue("shared_url") if request.param == "postgres" else ""
    db = MemoryDatabase(seed=5)

    def make(**options: Any) -> Any:
        connection = psycopg.connect(url, **options) if url else db.connect(**options)
        opened.add(connection)
        return connection

    with make(autocommit=True) as setup:
        setup.execute("select absurd.drop_queue('q')")
        setup.execute("select absurd.create_queue('q')")
    yield make
    for connection in list(opened):
        connection.close()
