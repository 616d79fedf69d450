"""Statements: split, recognised, compiled once, run as often as asked.

Transaction control and settings are recognised by their first words, because sqlglot does not
know Postgres' forms of them; everything else is parsed by sqlglot. Compiled statements are kept
by text and parameter types; they hold no data and serve every database.
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

from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.session import (
    Session,
)
from absurd_contimg.backends.memory.sql import constants, vocabulary
from absurd_contimg.backends.memory.sql.coercion import undetermined
from absurd_contimg.backends.memory.sql.commands import (
    COMMANDS,
    CONTROLS,
    first_word,
    without_comments,
)
from absurd_contimg.backends.memory.sql.dialect import EmulatedPostgres
from absurd_contimg.backends.memory.sql.expressions import PARAMETER
from absurd_contimg.backends.memory.sql.modify import Modifier
from absurd_contimg.backends.memory.sql.result import Result
from absurd_contimg.backends.memory.sql.scope import Env, Node, Scope
from absurd_contimg.backends.memory.sql.types import UNKNOWN, SqlType
from absurd_contimg.backends.memory.transaction import Transaction

logging.getLogger("sqlglot").addHandler(logging.NullHandler())
STATEMENTS_KEPT_MAX = 512


@dataclass(frozen=True, slots=True)
class Statement:
    """A compiled statement.

    `run` works inside a transaction; `control` works on the session itself and is allowed in a
    failed transaction.
    """

    text: str
    run: Callable[[Transaction, Sequence[Any]], Result] | None = None
    control: Callable[[Session], Result] | None = None


@lru_cache(maxsize=STATEMENTS_KEPT_MAX)
def split(text: str) -> tuple[str, ...]:
    """The statements of a text, without their semicolons."""
    if ";" not in text:
        return (text,) if without_comments(text) else ()
    try:
        tokens = sqlglot.tokenize(text, read="postgres")
    except SqlglotError:
        raise _syntax_error(text) from None
    parts: list[str] = []
    start = 0
    for token in tokens:
        if token.token_type.name == "SEMICOLON":
            parts.append(text[start : token.start])
            start = token.end + 1
    parts.append(text[start:])
    return tuple(part for part in parts if without_comments(part))


def _syntax_error(text: str) -> EngineError:
    return EngineError(
        "42601",
        f"syntax error in: {_as_written(text)}",
        hint="If Postgres takes it, it is syntax that the in-memory Absurd does not know.",
    )


@lru_cache(maxsize=STATEMENTS_KEPT_MAX)
def compiled(text: str, params: tuple[SqlType, ...]) -> Statement:
    """The statement, ready to run with parameters of these types."""
    bare = without_comments(text)
    word = first_word(bare)
    control = CONTROLS.get(word)
    if control is not None:
        made = control(bare)
        if made is not None:
            return Statement(text, control=made)
    command = COMMANDS.get(word)
    if command is not None:
        done = command(bare)
        if done is not None:
            return Statement(text, run=done)
    return Statement(text, run=_query(text, params))


def _query(
    text: str, params: tuple[SqlType, ...]
) -> Callable[[Transaction, Sequence[Any]], Result]:
    node = parsed(text)
    planner = Modifier().planner
    with constants.collecting(params) as found_out:
        try:
            vocabulary.check(node, text)
            columns, rows = planner.query(node, Scope(params=params))
        except EngineError as error:
            return _refused(found_out, _quoting(error, text))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            # a tree of a shape that no compiler foresaw: better refused than a traceback
            raise unsupported(_as_written(text), "this statement") from error
    used = {int(number) for number in PARAMETER.findall(text)}
    for number, kind in enumerate(params):
        if kind is UNKNOWN and number not in used:  # its placeholder stood in quotes
            return _refused(found_out, undetermined(number))
    verb = type(node).__name__.upper()
    returning = not isinstance(node, exp.Insert | exp.Update | exp.Delete) or bool(columns)
    tag = verb if verb in ("INSERT", "UPDATE", "DELETE") else "SELECT"

    def run(tx: Transaction, values: Sequence[Any]) -> Result:
        given = found_out.values(tx, values)
        found = rows(Env(tx, given))
        count = len(found)
        shown = f"{tag} 0 {count}" if tag == "INSERT" else f"{tag} {count}"
        return Result(columns if returning else None, found if returning else [], shown, count)

    return run


def _quoting(error: EngineError, text: str) -> EngineError:
    """The error; what only the emulator lacks quotes the whole statement, not only the part."""
    if error.sqlstate != "0A000" or not error.message.startswith("the in-memory Absurd"):
        return error
    shown = _as_written(f"{error.message} (in: {text.strip()})")
    return EngineError("0A000", shown, hint=error.hint)


def _as_written(text: str) -> str:
    """The text with its placeholders again."""
    return PARAMETER.sub("%s", text.strip())


def _refused(
    found_out: constants.Constants, error: EngineError
) -> Callable[[Transaction, Sequence[Any]], Result]:
    """A statement with an error in it, which comes after those of the literals before it."""

    def run(tx: Transaction, _: Sequence[Any]) -> Result:
        found_out.check(tx)
        raise error.with_traceback(None)

    return run


def parsed(text: str) -> Node:
    """sqlglot's tree of one statement; 42601 if it cannot parse it, 0A000 if it gave up."""
    logger = logging.getLogger("sqlglot")
    disabled, logger.disabled = logger.disabled, True  # it warns of what we refuse below
    try:
        node = sqlglot.parse_one(text, read=EmulatedPostgres)
    except SqlglotError:
        raise _syntax_error(text) from None
    finally:
        logger.disabled = disabled
    queries = (exp.Query, exp.Values, exp.Insert, exp.Update, exp.Delete)
    if not isinstance(node, queries):
        raise EngineError(
            "0A000",
            f"the in-memory Absurd does not support this statement: {_as_written(text)}",
            hint="It knows queries, changes of Absurd's tables, its functions, settings and "
            "transactions.",
        )
    return node


def run_statement(statement: Statement, values: Sequence[Any]) -> Callable[[Transaction], Result]:
    """What `Session.run` takes."""
    run = statement.run
    assert run is not None
    return lambda tx: run(tx, values)
