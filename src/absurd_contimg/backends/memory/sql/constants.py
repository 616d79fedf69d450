"""What a statement finds out once before it runs: its tables, literals and parameters.

Postgres looks up tables and reads literals while it parses a statement, and parameters when they
are bound, in order of their numbers, whether or not a row will ever need them. So a word that is no
number fails although no row is compared with it, and before anything that is wrong further on in
the statement. The compiled steps are collected here, per thread while it compiles.
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

    def __init__(self, parameters: tuple[SqlType, ...]) -> None:
        self._parameters = parameters
        self._count = len(parameters)
        self._early: list[tuple[int, Evaluate]] = []
        self._late: dict[int, tuple[int, Evaluate]] = {}
        self.found: dict[int, tuple[SqlType, Evaluate]] = {}
        """By parameter, the type it was first used as, and its value in that type."""

    def once(self, evaluate: Evaluate, parameter: int | None = None) -> Evaluate:
        """Evaluate before the statement runs; what gives the value from then on.

        With the number of a parameter, when that one is bound.
        """
        index = self._count
        self._count += 1
        if parameter is None:
            self._early.append((index, evaluate))
        else:
            self._late.setdefault(parameter, (index, evaluate))
        return lambda env: env.params[index]

    def values(self, tx: Transaction, params: Sequence[str | None]) -> Sequence[Any]:
        """Parameters, given as text, and everything found out; raises what Postgres would."""
        found: list[Any] = [*params, *[None] * (self._count - len(params))]
        env = Env(tx, found)
        self._parse(env, found)
        for number, (kind, text) in enumerate(zip(self._parameters, params, strict=True)):
            late = self._late.get(number)
            if late is not None:
                found[late[0]] = late[1](env)
            elif text is not None:
                found[number] = kind.read(text, tx.session)
        return found

    def check(self, tx: Transaction) -> None:
        """Raise what Postgres would while it parses what has been compiled so far."""
        found: list[Any] = [None] * self._count
        self._parse(Env(tx, found), found)

    def _parse(self, env: Env, found: list[Any]) -> None:
        for index, evaluate in self._early:
            found[index] = evaluate(env)


class _Current(threading.local):
    constants: Constants | None = None


_current = _Current()


@contextmanager
def collecting(parameters: tuple[SqlType, ...]) -> Iterator[Constants]:
    """Collect the steps of the statement with parameters of these types, compiled in this block."""
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
