"""Statements: split, recognised, compiled once, run as often as asked.

Transaction control and settings are recognised by their first words, because sqlglot does not
know Postgres' forms of them; everything else is parsed by sqlglot. Compiled statements are kept
by text and parameter types; they hold no data and serve every database.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from absurd_contimg.backends.memory import catalog
from absurd_contimg.backends.memory.catalog import CLASSES, Relation
from absurd_contimg.backends.memory.errors import EngineError, undefined_table
from absurd_contimg.backends.memory.locks import TableLock
from absurd_contimg.backends.memory.procedures.partitions import (
    partition_rows,
    remove_partition,
)
from absurd_contimg.backends.memory.session import (
    READ_ONLY,
    Session,
    TransactionStatus,
    in_failed_transaction,
)
from absurd_contimg.backends.memory.sql import constants, vocabulary
from absurd_contimg.backends.memory.sql.dialect import EmulatedPostgres
from absurd_contimg.backends.memory.sql.modify import Modifier
from absurd_contimg.backends.memory.sql.scope import ColumnInfo, Env, Node, Row, Scope
from absurd_contimg.backends.memory.sql.types import TEXT, SqlType
from absurd_contimg.backends.memory.transaction import Transaction

logging.getLogger("sqlglot").addHandler(logging.NullHandler())
STATEMENTS_KEPT_MAX = 512


@dataclass(slots=True)
class Result:
    """What a statement answered: `columns` is None for one that gives no rows.

    `empty` is the answer to a text without any statement.
    """

    columns: list[ColumnInfo] | None
    rows: list[Row]
    tag: str
    count: int = -1
    empty: bool = False


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
        return (text,) if _without_comments(text) else ()
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
    return tuple(part for part in parts if _without_comments(part))


_QUOTED_OR_COMMENT = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\$(\w*)\$.*?\$\1\$|(--[^\n]*|/\*.*?\*/)""", re.DOTALL
)


def _without_comments(text: str) -> str:
    return _QUOTED_OR_COMMENT.sub(lambda match: " " if match[2] else match[0], text).strip()


def _syntax_error(text: str) -> EngineError:
    return EngineError("42601", f"syntax error in: {text.strip()}")


def is_command(text: str) -> bool:
    """Whether it is for the session and no query: transaction control and settings."""
    word = _first_word(_without_comments(text))
    return word in _CONTROLS or word in _COMMANDS


def check_outside_block(text: str) -> None:
    """25P01 for what wants a transaction block, where several statements only share one."""
    bare = _without_comments(text)
    word = _first_word(bare)
    back = word == "rollback" and _rollback_target(bare) is not None
    if back or word in ("savepoint", "release"):
        name = {"release": "RELEASE SAVEPOINT", "rollback": "ROLLBACK TO SAVEPOINT"}
        shown = name.get(word, "SAVEPOINT")
        raise EngineError("25P01", f"{shown} can only be used in transaction blocks")


def _first_word(bare: str) -> str:
    return re.split(r"[\s;(]", bare, maxsplit=1)[0].lower()


@lru_cache(maxsize=STATEMENTS_KEPT_MAX)
def compiled(text: str, params: tuple[SqlType, ...]) -> Statement:
    """The statement, ready to run with parameters of these types."""
    bare = _without_comments(text)
    word = _first_word(bare)
    control = _CONTROLS.get(word)
    if control is not None:
        made = control(bare)
        if made is not None:
            return Statement(text, control=made)
    command = _COMMANDS.get(word)
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
    try:
        vocabulary.check(node, text)
        with constants.collecting(len(params)) as found_out:
            columns, rows = planner.query(node, Scope(params=params))
    except EngineError as error:
        if error.sqlstate == "0A000":  # quote all of it, not only the part
            shown = re.sub(r"__p\d+__", "%s", text.strip())
            raise EngineError("0A000", f"{error.message} (in: {shown})", hint=error.hint) from None
        raise
    verb = type(node).__name__.upper()
    returning = not isinstance(node, exp.Insert | exp.Update | exp.Delete) or bool(columns)
    tag = verb if verb in ("INSERT", "UPDATE", "DELETE") else "SELECT"
    writes = _writing_command(node, tag)

    def run(tx: Transaction, values: Sequence[Any]) -> Result:
        if writes is not None:
            tx.session.check_writable(writes)
        found = rows(Env(tx, found_out.values(tx, values)))
        count = len(found)
        shown = f"{tag} 0 {count}" if tag == "INSERT" else f"{tag} {count}"
        return Result(columns if returning else None, found if returning else [], shown, count)

    return run


def _writing_command(node: Node, tag: str) -> str | None:
    """What Postgres calls the statement when it refuses it in a read-only transaction."""
    if tag != "SELECT" or node.find(exp.Insert, exp.Update, exp.Delete) is not None:
        return tag
    return "SELECT FOR UPDATE" if node.find(exp.Lock) is not None else None


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
            f"the in-memory Absurd does not support this statement: {text.strip()}",
            hint="It knows queries, changes of Absurd's tables, its functions, settings and "
            "transactions.",
        )
    return node


def run_statement(statement: Statement, values: Sequence[Any]) -> Callable[[Transaction], Result]:
    """What `Session.run` takes."""
    run = statement.run
    assert run is not None
    return lambda tx: run(tx, values)


# -- transaction control and settings -----------------------------------------------------------

Control = Callable[[Session], Result]
_NAME = r'("(?:[^"]|"")+"|[A-Za-z_][A-Za-z0-9_$]*)'


def unquoted(name: str) -> str:
    """An identifier as Postgres folds it."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


def _begin(text: str) -> Control | None:
    if not re.match(r"(?:begin|start\s+transaction)\b", text, re.IGNORECASE):
        return None
    read_only = _transaction_modes(text)
    tag = "START TRANSACTION" if text[:1] in "sS" else "BEGIN"

    def control(session: Session) -> Result:
        if session.status is TransactionStatus.FAILED:
            raise in_failed_transaction()
        session.begin(read_only=read_only)
        return Result(None, [], tag)

    return control


def _transaction_modes(text: str) -> bool | None:
    """Whether the transaction may only read; 0A000 for a level that the emulator lacks."""
    level = re.search(r"isolation\s+level\s+(\w+(?:\s+\w+)?)", text, re.IGNORECASE)
    if level is not None and not re.match(r"read\s+(un)?committed", level[1], re.IGNORECASE):
        raise EngineError("0A000", f"the in-memory Absurd only has read committed, not: {text}")
    access = re.search(r"\bread\s+(only|write)\b", text, re.IGNORECASE)
    return None if access is None else access[1].lower() == "only"


def _commit(text: str) -> Control:
    chain = _chains(text)

    def control(session: Session) -> Result:
        tag = "COMMIT" if session.commit() else "ROLLBACK"
        if chain:
            session.begin()
        return Result(None, [], tag)

    return control


def _chains(text: str) -> bool:
    """``and chain``: the next transaction begins at once."""
    return re.search(r"(?<!\bno)\s+chain\s*\Z", text, re.IGNORECASE) is not None


def _rollback_target(text: str) -> re.Match[str] | None:
    return re.match(
        rf"rollback(?:\s+(?:work|transaction))?\s+to\s+(?:savepoint\s+)?{_NAME}\s*\Z",
        text,
        re.IGNORECASE,
    )


def _rollback(text: str) -> Control:
    match = _rollback_target(text)

    chain = _chains(text)

    def control(session: Session) -> Result:
        if match is None:
            session.rollback()
            if chain:
                session.begin()
        else:
            session.rollback_to_savepoint(unquoted(match[1]))
        return Result(None, [], "ROLLBACK")

    return control


def _savepoint(text: str) -> Control | None:
    match = re.match(rf"(savepoint|release)\s+(?:savepoint\s+)?{_NAME}\s*\Z", text, re.IGNORECASE)
    if match is None:
        return None
    name = unquoted(match[2])
    release = match[1].lower() == "release"

    def control(session: Session) -> Result:
        if session.status is TransactionStatus.FAILED:
            raise in_failed_transaction()
        if release:
            session.release_savepoint(name)
            return Result(None, [], "RELEASE")
        session.savepoint(name)
        return Result(None, [], "SAVEPOINT")

    return control


_CONTROLS: dict[str, Callable[[str], Control | None]] = {
    "begin": _begin,
    "start": _begin,
    "commit": _commit,
    "end": _commit,
    "rollback": _rollback,
    "abort": _rollback,
    "savepoint": _savepoint,
    "release": _savepoint,
}

Run = Callable[[Transaction, Sequence[Any]], Result]
_SETTING = r'((?:"[^"]+"|[A-Za-z_][\w$]*)(?:\.(?:"[^"]+"|[A-Za-z_][\w$]*))?)'


def _set(text: str) -> Run | None:
    zone = re.match(
        r"set\s+(?:(session|local)\s+)?time\s+zone\s+(.+)\Z", text, re.IGNORECASE | re.DOTALL
    )
    match = re.match(
        rf"set\s+(?:(session|local)\s+)?{_SETTING}\s*(?:=|\sto\s)\s*(.+)\Z",
        text,
        re.IGNORECASE | re.DOTALL,
    )
    if zone is not None:
        scope, name, raw = zone[1], "TimeZone", zone[2]
    elif match is not None:
        scope, name, raw = match[1], match[2].replace('"', ""), match[3]
    elif re.match(r"set\s+(session\s+characteristics|transaction)\b", text, re.IGNORECASE):
        return _set_transaction(text)
    else:
        return None
    local = (scope or "").lower() == "local"
    value = _setting_value(raw.strip())

    def run(tx: Transaction, _: Sequence[Any]) -> Result:
        tx.session.set(name, value, local=local)
        return Result(None, [], "SET")

    return run


def _set_transaction(text: str) -> Run:
    read_only = _transaction_modes(text)
    local = re.match(r"set\s+transaction", text, re.IGNORECASE) is not None

    def run(tx: Transaction, _: Sequence[Any]) -> Result:
        if read_only is not None:
            name = READ_ONLY if local else f"default_{READ_ONLY}"
            tx.session.set(name, "on" if read_only else "off", local=local)
        return Result(None, [], "SET")

    return run


def _setting_value(raw: str) -> str | None:
    if raw.lower() in ("default", "local"):
        return None
    parts = re.findall(r"'(?:[^']|'')*'|\"[^\"]*\"|[^,\s]+", raw)
    shown = [part[1:-1].replace("''", "'") if part[:1] in "'\"" else part.lower() for part in parts]
    return ", ".join(shown)


def _reset(text: str) -> Run | None:
    match = re.match(rf"reset\s+(?:{_SETTING}|(time\s+zone))\s*\Z", text, re.IGNORECASE)
    if match is None:
        return None
    name = "TimeZone" if match[2] else match[1].replace('"', "")

    def run(tx: Transaction, _: Sequence[Any]) -> Result:
        if name.lower() == "all":
            tx.session.reset_all()
        else:
            tx.session.set(name, None)
        return Result(None, [], "RESET")

    return run


def _show(text: str) -> Run | None:
    match = re.match(
        rf"show\s+(?:{_SETTING}|(time\s+zone)|(transaction\s+isolation\s+level))\s*\Z",
        text,
        re.IGNORECASE,
    )
    if match is None:
        return None
    name = "TimeZone" if match[2] else "transaction_isolation" if match[3] else match[1]
    shown = {"timezone": "TimeZone", "datestyle": "DateStyle", "intervalstyle": "IntervalStyle"}

    def run(tx: Transaction, _: Sequence[Any]) -> Result:
        value = tx.session.setting(name)
        if value is None:
            raise EngineError("42704", f'unrecognized configuration parameter "{name}"')
        column = ColumnInfo(shown.get(name.lower(), name.lower()), TEXT)
        return Result([column], [(value,)], "SHOW", 1)

    return run


def _discard(text: str) -> Run | None:
    match = re.match(r"discard\s+(all|plans|sequences|temp|temporary)\s*\Z", text, re.IGNORECASE)
    if match is None:
        return None
    what = match[1].upper().removesuffix("ORARY")

    def run(tx: Transaction, _: Sequence[Any]) -> Result:
        if what == "ALL":
            if tx.explicit:
                raise EngineError("25001", "DISCARD ALL cannot run inside a transaction block")
            tx.session.reset_all()
        return Result(None, [], f"DISCARD {what}")

    return run


_TABLE = rf"(?:absurd\.)?{_NAME}"
_LOCK_MODES = {
    "access share": TableLock.ACCESS_SHARE,
    "row share": TableLock.ROW_SHARE,
    "row exclusive": TableLock.ROW_EXCLUSIVE,
    "share update exclusive": TableLock.SHARE_UPDATE_EXCLUSIVE,
    "share": TableLock.SHARE,
    "access exclusive": TableLock.ACCESS_EXCLUSIVE,
}


def _lock(text: str) -> Run | None:
    match = re.match(
        rf"lock\s+(?:table\s+)?(?:only\s+)?{_TABLE}(?:\s+in\s+([a-z\s]+?)\s+mode)?\s*\Z",
        text,
        re.IGNORECASE,
    )
    mode = (
        _LOCK_MODES.get(" ".join((match[2] or "access exclusive").lower().split()))
        if match
        else None
    )
    if match is None or mode is None:
        return None
    name = unquoted(match[1])

    def run(tx: Transaction, _: Sequence[Any]) -> Result:
        if not tx.explicit:
            raise EngineError("25P01", "LOCK TABLE can only be used in transaction blocks")
        catalog.relation(tx, name, mode)
        return Result(None, [], "LOCK TABLE")

    return run


def _alter(text: str) -> Run | None:
    match = re.match(
        rf"alter\s+table\s+(?:only\s+)?{_TABLE}\s+detach\s+partition\s+{_TABLE}"
        r"(?:\s+(?:concurrently|finalize))?\s*\Z",
        text,
        re.IGNORECASE,
    )
    if match is None:
        return None
    parent_name, name = unquoted(match[1]), unquoted(match[2])

    def run(tx: Transaction, _: Sequence[Any]) -> Result:
        detach_partition(tx, parent_name, name)
        return Result(None, [], "ALTER TABLE")

    return run


def detach_partition(tx: Transaction, parent_name: str, name: str) -> None:
    """``alter table ... detach partition``: the partition becomes a table with its rows."""
    parent = catalog.relation(tx, parent_name, TableLock.ACCESS_EXCLUSIVE)
    child = catalog.find(tx, name)
    if child is None:
        raise undefined_table(name)
    if child.partition is None or child.parent != parent_name:
        raise EngineError(
            "42P01", f'relation "{name}" is not a partition of relation "{parent_name}"'
        )
    rows = partition_rows(tx, parent.table, child.partition)
    table = CLASSES[parent.letter]()
    table.name = name
    for row in rows:
        key = parent.table.key_of(row)
        parent.table.delete(tx, key)
        table.put(tx, key, row)
    remove_partition(tx, parent, child.partition)
    tx.db.relations.put(tx, name, Relation(name, parent.letter, table))


_COMMANDS: dict[str, Callable[[str], Run | None]] = {
    "set": _set,
    "reset": _reset,
    "show": _show,
    "discard": _discard,
    "lock": _lock,
    "alter": _alter,
}
