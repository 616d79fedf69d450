"""Patch psycopg: within a block its ``connect`` opens connections to the emulator.

For code that is given a URL and not a connection, such as the SDK's quick start.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

_TAKEN = ("autocommit", "row_factory")


@contextmanager
def patch_connect(
    open_connection: Callable[..., Any], open_async: Callable[..., Awaitable[Any]]
) -> Iterator[None]:
    """Let `psycopg.connect` and both ``Connection.connect`` open these, whatever their URL."""

    def options(given: dict[str, Any]) -> dict[str, Any]:
        return {name: given[name] for name in _TAKEN if given.get(name) is not None}

    def connect(_: Any, _conninfo: str = "", /, **given: Any) -> Any:
        return open_connection(**options(given))

    async def connect_async(_: Any, _conninfo: str = "", /, **given: Any) -> Any:
        return await open_async(**options(given))

    places: list[tuple[Any, str, Any]] = [
        (psycopg.Connection, "connect", classmethod(connect)),
        (psycopg.AsyncConnection, "connect", classmethod(connect_async)),
        (psycopg, "connect", lambda conninfo="", **given: connect(None, conninfo, **given)),
    ]
    before = [(owner, name, owner.__dict__[name]) for owner, name, _ in places]
    for owner, name, replacement in places:
        setattr(owner, name, replacement)
    try:
        yield
    finally:
        for owner, name, original in before:
            setattr(owner, name, original)
