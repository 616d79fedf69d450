"""How much of what is tried `make test` tries: `make search` tries all of it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypeVar

_Item = TypeVar("_Item")


def is_search() -> bool:
    """Whether this is `make search`."""
    return os.environ.get("HYPOTHESIS_PROFILE") == "search"


def examples(number: int) -> int:
    """This many examples in `make search`, otherwise a third: the same ones each time."""
    return number if is_search() else -(-number // 3)


def some_of(items: Iterable[_Item], every: int, first: int = 0) -> list[_Item]:
    """All of them in `make search`, otherwise every n-th, always the same ones."""
    return list(items) if is_search() else list(items)[first % every :: every]
