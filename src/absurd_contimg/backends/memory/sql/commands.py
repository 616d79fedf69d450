"""Transaction control, settings and locks: statements that are recognised by their first words."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from absurd_contimg.backends.memory import catalog
from absurd_contimg.backends.memory.catalog import CLASSES, Relation
from absurd_contimg.backends.memory.errors import EngineError, undefined_table, unsupported
from absurd_contimg.backends.memory.locks import TableLock
from absurd_contimg.backends.memory.procedures.partitions import partition_rows, remove_partition
from absurd_contimg.backends.memory.session import (
    Session,
    TransactionStatus,
    in_failed_transaction,
)
from absurd_contimg.backends.memory.sql.result import Result
from absurd_contimg.backends.memory.sql.scope import ColumnInfo
from absurd_contimg.backends.memory.sql.types import TEXT
from absurd_contimg.backends.memory.tables import Tasks
from absurd_contimg.backends.memory.transaction import Transaction

_QUOTED_OR_COMMENT = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\$(\w*)\$.*?\$\1\$|(--[^\n]*|/\*.*?\*/)""", re.DOTALL
)


def without_comments(text: str) -> str:
    """The text with blanks for comments."""
    return _QUOTED_OR_COMMENT.sub(lambda match: " " if match[2] else match[0], text).strip()


def is_command(text: str) -> bool:
    """Whether it is for the session and no query: transaction control and settings."""
    word = first_word(without_comments(text))
    return word in CONTROLS or word in COMMANDS


def check_outside_block(text: str) -> None:
    """25P01 for what wants a transaction block, where several statements only share one."""
    bare = without_comments(text)
    word = first_word(bare)
    back = word == "rollback" and _rollback_target(bare) is not None
    if back or word in ("savepoint", "release"):
        name = {"release": "RELEASE SAVEPOINT", "rollback": "ROLLBACK TO SAVEPOINT"}
        shown = name.get(word, "SAVEPOINT")
        raise EngineError("25P01", f"{shown} can only be used in transaction blocks")


def first_word(bare: str) -> str:
    """The word that tells what a text without comments is."""
    return re.split(r"[\s;(]", bare, maxsplit=1)[0].lower()


Control = Callable[[Session], Result]
_NAME = r'("(?:[^"]|"")+"|[A-Za-z_][A-Za-z0-9_$]*)'


def unquoted(name: str) -> str:
    """An identifier as Postgres folds it."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


def _begin(text: str) -> Control | None:
    if not re.match(r"(?:begin|start\s+transaction)\b", text, re.IGNORECASE):
        return None
    _check_modes(text)
    tag = "START TRANSACTION" if text[:1] in "sS" else "BEGIN"

    def control(session: Session) -> Result:
        if session.status is TransactionStatus.FAILED:
            raise in_failed_transaction()
        session.begin()
        return Result(None, [], tag)

    return control


_MODES = re.compile(
    r"(?:begin|start|set)(?:\s+(?:work|transaction))?"
    r"(?:\s+isolation\s+level\s+read\s+(?:un)?committed)?\s*\Z",
    re.IGNORECASE,
)


def _check_modes(text: str) -> None:
    """0A000 for a transaction of another kind than the one that there is."""
    if not _MODES.match(text):
        raise unsupported(text, "transactions other than read committed, read write")


def _commit(text: str) -> Control:
    _check_not_chained(text)

    def control(session: Session) -> Result:
        return Result(None, [], "COMMIT" if session.commit() else "ROLLBACK")

    return control


def _check_not_chained(text: str) -> None:
    if re.search(r"(?<!\bno)\s+chain\s*\Z", text, re.IGNORECASE):
        raise unsupported(text, "and chain")


def _rollback_target(text: str) -> re.Match[str] | None:
    return re.match(
        rf"rollback(?:\s+(?:work|transaction))?\s+to\s+(?:savepoint\s+)?{_NAME}\s*\Z",
        text,
        re.IGNORECASE,
    )


def _rollback(text: str) -> Control:
    match = _rollback_target(text)
    _check_not_chained(text)

    def control(session: Session) -> Result:
        if match is not None:
            session.rollback_to_savepoint(unquoted(match[1]))
        else:
            session.rollback()
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


CONTROLS: dict[str, Callable[[str], Control | None]] = {
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
_SETTING = r'((?:"[^"]+"|[A-Za-z_][\w$]*)(?:\.(?:"[^"]+"|[A-Za-z_][\w$]*))*)'


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
    _check_modes(text)
    return lambda _tx, _values: Result(None, [], "SET")


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
_LOCK_MODES = {mode.name.replace("_", " ").lower(): mode for mode in TableLock}


def _lock(text: str) -> Run | None:
    match = re.match(
        rf"lock\s+(?:table\s+)?(only\s+)?{_TABLE}(?:\s+in\s+([a-z\s]+?)\s+mode)?\s*\Z",
        text,
        re.IGNORECASE,
    )
    mode = (
        _LOCK_MODES.get(" ".join((match[3] or "access exclusive").lower().split()))
        if match
        else None
    )
    if match is None or mode is None:
        return None
    name, only = unquoted(match[2]), match[1] is not None

    def run(tx: Transaction, _: Sequence[Any]) -> Result:
        if not tx.explicit:
            raise EngineError("25P01", "LOCK TABLE can only be used in transaction blocks")
        found = catalog.relation(tx, name, mode)
        if not only and found.partition is None:
            for partition in found.table.partitions or ():
                tx.lock_table(partition.name, mode)
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
    if parent.table.partitions is None or parent.partition is not None:
        raise EngineError(
            "42809",
            f'ALTER action DETACH PARTITION cannot be performed on relation "{parent.name}"',
            detail="This operation is not supported for tables.",
        )
    child = catalog.find(tx, name)
    if child is None:
        raise undefined_table(name)
    if child.partition is None or child.parent != parent_name:
        raise EngineError(
            "42P01", f'relation "{name}" is not a partition of relation "{parent_name}"'
        )
    for partition in parent.table.partitions:
        if partition.is_default or partition is child.partition:
            tx.lock_table(partition.name, TableLock.ACCESS_EXCLUSIVE)
    rows = partition_rows(tx, parent.table, child.partition)
    table = CLASSES[parent.letter]()
    table.name = name
    if isinstance(table, Tasks):
        table.unique_key = False  # as in its parent
    for row in rows:
        key = parent.table.key_of(row)
        parent.table.delete(tx, key)
        table.put(tx, key, row)
    remove_partition(tx, parent, child.partition)
    catalog.relations(tx).put(tx, name, Relation(name, parent.letter, table))


COMMANDS: dict[str, Callable[[str], Run | None]] = {
    "set": _set,
    "reset": _reset,
    "show": _show,
    "discard": _discard,
    "lock": _lock,
    "alter": _alter,
}
