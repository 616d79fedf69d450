"""Statements: split, compiled once, run as often as asked.

Transaction control and settings are recognised by their first words, everything else is parsed by
sqlglot. Compiled statements are kept by text and types; they serve every database.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from absurd_contimg.backends.memory.errors import EngineError, Unsupported
from absurd_contimg.backends.memory.procedures.partitions import detach_partition
from absurd_contimg.backends.memory.session import Session, in_failed_transaction
from absurd_contimg.backends.memory.sql.dialect import PARAMETER, EmulatedPostgres, check
from absurd_contimg.backends.memory.sql.expressions import FUNCTIONS
from absurd_contimg.backends.memory.sql.modify import compile_change
from absurd_contimg.backends.memory.sql.queries import compile_query
from absurd_contimg.backends.memory.sql.scope import Env, Node, Plan, Scope
from absurd_contimg.backends.memory.transaction import Transaction
from absurd_contimg.backends.memory.values.types import TEXT, ColumnInfo, Result, SqlType

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
        if first_word(text) in _CONTROL_WORDS:
            control, form = _matched(text, _CONTROLS)
            return Statement(text, control=lambda session: control(session, form))
        made: Run
        if first_word(text) in _SETTING_WORDS:
            command, match = _matched(text, _COMMANDS)
            made = lambda tx, _: command(tx, match)  # noqa: E731 - of two kinds of work
        else:
            made = _query(text, params)
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


# -- transaction control and settings -----------------------------------------------------------

T = TypeVar("T")
Match = re.Match[str]
Forms = tuple[tuple[str, Callable[[T, Match], Result]], ...]
"""Patterns of whole statements, each with what it does to a session or a transaction."""
_QUOTED_OR_COMMENT = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\$(\w*)\$.*?\$\1\$|(--[^\n]*|/\*.*?\*/)""", re.DOTALL
)
_NAME = r'("(?:[^"]|"")+"|[A-Za-z_][A-Za-z0-9_$]*)'
_SETTING = r'((?:"[^"]+"|[A-Za-z_][\w$]*)(?:\.(?:"[^"]+"|[A-Za-z_][\w$]*))*)'
_TABLE = rf"(?:absurd\.)?{_NAME}"
_LEVEL = r"(?:\s+isolation\s+level\s+read\s+(?:un)?committed)?"
_WORK = r"(?:\s+(?:work|transaction))?(?:\s+and\s+no\s+chain)?"
_ROLLBACK_TO = rf"rollback{_WORK}\s+to\s+(?:savepoint\s+)?{_NAME}"


def without_comments(text: str) -> str:
    """The text with blanks for comments."""
    return _QUOTED_OR_COMMENT.sub(lambda match: " " if match[2] else match[0], text).strip()


def semicolons(text: str) -> list[int]:
    """Where the statements of a text end; not in quotes and comments."""
    matches = re.finditer(rf"{_QUOTED_OR_COMMENT.pattern}|;", text, re.DOTALL)
    return [match.start() for match in matches if match[0] == ";"]


def first_word(text: str) -> str:
    """The word that tells what a statement is."""
    return re.split(r"[\s;(]", without_comments(text), maxsplit=1)[0].lower()


def is_command(text: str) -> bool:
    """Whether it is for the session and no query: transaction control and settings."""
    return first_word(text) in _CONTROL_WORDS | _SETTING_WORDS


def check_outside_block(text: str) -> None:
    """25P01 for what wants a transaction block, where several statements only share one."""
    name = {"release": "RELEASE SAVEPOINT", "savepoint": "SAVEPOINT"}.get(first_word(text))
    if _match(_ROLLBACK_TO, without_comments(text)) is not None:
        name = "ROLLBACK TO SAVEPOINT"
    if name is not None:
        raise EngineError("25P01", f"{name} can only be used in transaction blocks")


def _matched(text: str, forms: Forms[T]) -> tuple[Callable[[T, Match], Result], Match]:
    for pattern, work in forms:
        match = _match(pattern, without_comments(text))
        if match is not None:
            return work, match
    raise Unsupported(f"this form of {first_word(text).upper()}")


def _match(pattern: str, text: str) -> Match | None:
    return re.fullmatch(pattern, text, re.IGNORECASE | re.DOTALL)


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


def _begin(session: Session, match: Match) -> Result:
    if session.failed:
        raise in_failed_transaction()
    session.begin()
    return Result("START TRANSACTION" if match[0][:1] in "sS" else "BEGIN")


def _commit(session: Session, _: Match) -> Result:
    return Result("COMMIT" if session.commit() else "ROLLBACK")


def _rollback(session: Session, match: Match) -> Result:
    if match.re.groups:
        session.rollback_to_savepoint(_unquoted(match[1]))
    else:
        session.rollback()
    return Result("ROLLBACK")


def _savepoint(session: Session, match: Match) -> Result:
    if session.failed:
        raise in_failed_transaction()
    tag, name = match[1].upper(), _unquoted(match[2])
    (session.savepoint if tag == "SAVEPOINT" else session.release_savepoint)(name)
    return Result(tag)


def _set(tx: Transaction, match: Match) -> Result:
    scope, zone, setting, raw = match.groups()
    parts = re.findall(r"'(?:[^']|'')*'|\"[^\"]*\"|[^,\s]+", raw)
    shown = [part[1:-1].replace("''", "'") if part[:1] in "'\"" else part.lower() for part in parts]
    value = None if raw.lower() in ("default", "local") else ", ".join(shown)
    name = "TimeZone" if zone else setting.replace('"', "")
    tx.session.set(name, value, local=(scope or "").lower() == "local")
    return Result("SET")


def _reset(tx: Transaction, match: Match) -> Result:
    name = "timezone" if match[1] else match[2].replace('"', "")
    if name.lower() == "all":
        tx.session.settings, tx.session.local = {}, {}
    else:
        tx.session.set(name, None)
    return Result("RESET")


def _show(tx: Transaction, match: Match) -> Result:
    name = "timezone" if match[1] else match[2].lower()
    shown = {"timezone": "TimeZone", "datestyle": "DateStyle", "intervalstyle": "IntervalStyle"}
    value = tx.session.setting(name)
    if value is None:
        raise EngineError("42704", f'unrecognized configuration parameter "{name}"')
    return Result("SHOW", (ColumnInfo(shown.get(name, name), TEXT),), [(value,)], 1)


def _detach(tx: Transaction, match: Match) -> Result:
    """``alter table ... detach partition``, which absurdctl sends for old partitions."""
    detach_partition(tx, _unquoted(match[1]), _unquoted(match[2]))
    return Result("ALTER TABLE")


_CONTROLS: Forms[Session] = (
    (rf"(?:begin(?:\s+(?:work|transaction))?|start\s+transaction){_LEVEL}", _begin),
    (rf"(?:commit|end){_WORK}", _commit),
    (rf"(?:rollback|abort){_WORK}", _rollback),
    (_ROLLBACK_TO, _rollback),
    (rf"(savepoint|release)\s+(?:savepoint\s+)?{_NAME}", _savepoint),
)
_COMMANDS: Forms[Transaction] = (
    (
        rf"set\s+(?:session\s+characteristics\s+as\s+)?transaction{_LEVEL}",
        lambda _, __: Result("SET"),
    ),
    (rf"set\s+(?:(session|local)\s+)?(?:(time\s+zone)\s+|{_SETTING}\s*(?:=|\sto\s)\s*)(.+)", _set),
    (rf"reset\s+(?:(time\s+zone)|{_SETTING})", _reset),
    (rf"show\s+(?:(time\s+zone)|{_SETTING})", _show),
    (
        rf"alter\s+table\s+(?:only\s+)?{_TABLE}\s+detach\s+partition\s+{_TABLE}"
        r"(?:\s+(?:concurrently|finalize))?",
        _detach,
    ),
)
_CONTROL_WORDS = {"begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release"}
_SETTING_WORDS = {"set", "reset", "show", "alter"}
