"""Patch psycopg: within a block its ``connect`` opens connections to the emulator.

For code that is given a URL and not a connection, such as the SDK's quick start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

_TAKEN = ("autocommit", "row_factory")


def _options(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in _TAKEN if given.get(name) is not None}


@contextmanager
def patch_connect(connect: Callable[..., Any], connect_async: Callable[..., Any]) -> Iterator[None]:
    """Replace `psycopg.connect` and both ``Connection.connect``, whatever URL they are given."""

    def replacement(_conninfo: str = "", **given: Any) -> Any:
        return connect(**_options(given))

    def replacement_async(_conninfo: str = "", **given: Any) -> Any:
        return connect_async(**_options(given))

    replaced: list[tuple[Any, Any]] = [
        (psycopg.Connection, staticmethod(replacement)),
        (psycopg.AsyncConnection, staticmethod(replacement_async)),
        (psycopg, replacement),
    ]
    originals = [(owner, owner.__dict__["connect"]) for owner, _ in replaced]
    for owner, function in replaced:
        owner.connect = function
    try:
        yield
    finally:
        for owner, function in originals:
            owner.connect = function
