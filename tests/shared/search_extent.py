"""How much of what is tried `make test` tries: `make search` tries all of it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypeVar

_Mutant = TypeVar("_Mutant")


def is_search() -> bool:
    """Whether this is `make search`."""
    return os.environ.get("HYPOTHESIS_PROFILE") == "search"


def examples(number: int) -> int:
    """This many examples in `make search`, otherwise a third: the same ones each time."""
    return number if is_search() else -(-number // 3)


def some_mutants(mutants: Iterable[_Mutant], every: int) -> list[_Mutant]:
    """All mutants in `make search`, otherwise every n-th of them, always the same ones."""
    return list(mutants)[:: 1 if is_search() else every]
