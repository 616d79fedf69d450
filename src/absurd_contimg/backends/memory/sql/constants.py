"""What a statement finds out once before it runs: its tables, literals and parameters.

Postgres looks up tables and reads literals while it parses a statement, and parameters when they
are bound, whether or not a row will ever need them. So a word that is no number fails although
no row is compared with it. The compiled steps are collected here, per thread while it compiles.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from absurd_contimg.backends.memory.sql.scope import Env, Evaluate
from absurd_contimg.backends.memory.sql.types import SqlType
from absurd_contimg.backends.memory.transaction import Transaction


class Constants:
    """The steps of one statement, and the types that its parameters turned out to have."""

    def __init__(self, parameters: int) -> None:
        self._count = parameters
        self._early: list[tuple[int, Evaluate]] = []
        self._late: list[tuple[int, Evaluate]] = []
        self.found: dict[int, tuple[SqlType, Evaluate]] = {}
        """By parameter, the type it was first used as, and its value in that type."""

    def once(self, evaluate: Evaluate, *, late: bool = False) -> Evaluate:
        """Evaluate before the statement runs; what gives the value from then on."""
        index = self._count
        self._count += 1
        (self._late if late else self._early).append((index, evaluate))
        return lambda env: env.params[index]

    def values(self, tx: Transaction, params: Sequence[Any]) -> Sequence[Any]:
        """Parameters and everything found out; raises what Postgres would before running."""
        if not self._early and not self._late:
            return params
        found: list[Any] = [*params, *[None] * (self._count - len(params))]
        env = Env(tx, found)
        for index, evaluate in self._early:
            found[index] = evaluate(env)
        for index, evaluate in self._late:
            found[index] = evaluate(env)
        return found


class _Current(threading.local):
    constants: Constants | None = None


_current = _Current()


@contextmanager
def collecting(parameters: int) -> Iterator[Constants]:
    """Collect the steps of the statement that is compiled in this block."""
    before, made = _current.constants, Constants(parameters)
    _current.constants = made
    try:
        yield made
    finally:
        _current.constants = before


def current() -> Constants | None:
    """Those of the statement that this thread compiles."""
    return _current.constants


def check(step: Callable[[Env], Any]) -> None:
    """Run a step before the statement."""
    if _current.constants is not None:
        _current.constants.once(step)
