"""Statements: split, compiled once, run as often as asked.

Transaction control and settings are recognised by their first words, everything else is parsed by
sqlglot. Compiled statements are kept by text and types; they serve every database.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from absurd_contimg.backends.memory.commands import (
    control_of,
    first_word,
    run_of,
    semicolons,
    without_comments,
)
from absurd_contimg.backends.memory.errors import EngineError, Unsupported
from absurd_contimg.backends.memory.session import Session
from absurd_contimg.backends.memory.sql.dialect import PARAMETER, EmulatedPostgres, check
from absurd_contimg.backends.memory.sql.expressions import FUNCTIONS
from absurd_contimg.backends.memory.sql.modify import compile_change
from absurd_contimg.backends.memory.sql.queries import compile_query
from absurd_contimg.backends.memory.sql.scope import Env, Node, Plan, Scope
from absurd_contimg.backends.memory.transaction import Transaction
from absurd_contimg.backends.memory.values.types import Result, SqlType

logging.getLogger("sqlglot").addHandler(logging.NullHandler())
STATEMENTS_KEPT_MAX = 512
Run = Callable[[Transaction, Sequence[Any]], Result]


@dataclass(frozen=True, slots=True)
class Statement:
    """`run` works inside a transaction, `control` on the session, even in a failed transaction."""

    text: str
    run: Run | None = None
    control: Callable[[Session], Result] | None = None


@lru_cache(maxsize=STATEMENTS_KEPT_MAX)
def split(text: str) -> tuple[str, ...]:
    """The statements of a text, without their semicolons."""
    parts, start = [], 0
    for cut in semicolons(text):
        parts.append(text[start:cut])
        start = cut + 1
    return tuple(part for part in [*parts, text[start:]] if without_comments(part))


@lru_cache(maxsize=STATEMENTS_KEPT_MAX)
def compiled(text: str, params: tuple[SqlType, ...]) -> Statement:
    """The statement, ready to run with parameters of these types; 0A000 if it is not supported."""
    try:
        control = control_of(text)
        command = run_of(text)
        if control is not None:
            return Statement(text, control=control)
        made = _query(text, params) if command is None else lambda tx, _: command(tx)
    except Unsupported as error:
        raise _quoting(error, text) from None

    def run(tx: Transaction, values: Sequence[Any]) -> Result:
        try:
            return made(tx, values)
        except Unsupported as error:
            raise _quoting(error, text) from None

    return Statement(text, run=run)


def _quoting(error: Unsupported, text: str) -> Unsupported:
    """The same with the statement, its placeholders again as they were."""
    return Unsupported(error.what, PARAMETER.sub("%s", text.strip()))


def _query(text: str, params: tuple[SqlType, ...]) -> Run:
    node, plan = _parsed(text), Plan(params)
    check(node, FUNCTIONS)
    is_change = isinstance(node, exp.Insert | exp.Update | exp.Delete)
    try:
        query = (compile_change if is_change else compile_query)(node, Scope(plan))
        plan.check_determined()
    except Unsupported:
        raise
    except EngineError as error:
        return _failing(plan, error)
    tag = type(node).__name__.upper() if is_change else "SELECT"
    columns = query.columns if query.columns or not is_change else None

    def run(tx: Transaction, values: Sequence[Any]) -> Result:
        rows = query.rows(Env(tx, plan.values(tx, values)))
        count = len(rows)
        shown = f"{tag} 0 {count}" if tag == "INSERT" else f"{tag} {count}"
        return Result(shown, columns, [] if columns is None else rows, count)

    return run


def _failing(plan: Plan, error: EngineError) -> Run:
    """A statement with an error in it, which comes after those of the literals before it."""

    def run(tx: Transaction, values: Sequence[Any]) -> Result:
        plan.values(tx, [None] * len(values))
        raise error.with_traceback(None)

    return run


def _parsed(text: str) -> Node:
    logger = logging.getLogger("sqlglot")
    disabled, logger.disabled = logger.disabled, True  # it warns of what is refused below
    try:
        node = sqlglot.parse_one(text, read=EmulatedPostgres)
    except SqlglotError:
        raise Unsupported("text that its parser does not take") from None
    finally:
        logger.disabled = disabled
    if not isinstance(node, exp.Query | exp.Values | exp.Insert | exp.Update | exp.Delete):
        raise Unsupported(first_word(text).upper())
    return node
