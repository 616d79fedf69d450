"""Transaction control and settings: statements that are recognised by their first words."""

from __future__ import annotations

import re
from collections.abc import Callable

from absurd_contimg.backends.memory.errors import EngineError, Unsupported
from absurd_contimg.backends.memory.procedures.partitions import detach_partition
from absurd_contimg.backends.memory.session import (
    Session,
    TransactionStatus,
    in_failed_transaction,
)
from absurd_contimg.backends.memory.sql.result import Result
from absurd_contimg.backends.memory.sql.scope import ColumnInfo
from absurd_contimg.backends.memory.transaction import Transaction
from absurd_contimg.backends.memory.values.types import TEXT

_QUOTED_OR_COMMENT = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\$(\w*)\$.*?\$\1\$|(--[^\n]*|/\*.*?\*/)""", re.DOTALL
)
_NAME = r'("(?:[^"]|"")+"|[A-Za-z_][A-Za-z0-9_$]*)'
_SETTING = r'((?:"[^"]+"|[A-Za-z_][\w$]*)(?:\.(?:"[^"]+"|[A-Za-z_][\w$]*))*)'
_LEVEL = r"(?:\s+isolation\s+level\s+read\s+(?:un)?committed)?"
Control = Callable[[Session], Result]
Run = Callable[[Transaction], Result]


def without_comments(text: str) -> str:
    """The text with blanks for comments."""
    return _QUOTED_OR_COMMENT.sub(lambda match: " " if match[2] else match[0], text).strip()


def first_word(bare: str) -> str:
    """The word that tells what a text without comments is."""
    return re.split(r"[\s;(]", bare, maxsplit=1)[0].lower()


def is_command(text: str) -> bool:
    """Whether it is for the session and no query: transaction control and settings."""
    word = first_word(without_comments(text))
    return word in CONTROLS or word in COMMANDS


def check_outside_block(text: str) -> None:
    """25P01 for what wants a transaction block, where several statements only share one."""
    bare = without_comments(text)
    word = first_word(bare)
    name = {"release": "RELEASE SAVEPOINT", "savepoint": "SAVEPOINT"}.get(word)
    if word == "rollback" and _match(_ROLLBACK_TO, bare) is not None:
        name = "ROLLBACK TO SAVEPOINT"
    if name is not None:
        raise EngineError("25P01", f"{name} can only be used in transaction blocks")


def _match(pattern: str, text: str) -> re.Match[str] | None:
    return re.fullmatch(pattern, text, re.IGNORECASE | re.DOTALL)


def _unquoted(name: str) -> str:
    """An identifier as Postgres folds it."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


def _done(tag: str) -> Result:
    return Result(None, [], tag)


# -- transactions -------------------------------------------------------------------------------


def _begin(text: str) -> Control:
    if not _match(rf"(?:begin(?:\s+(?:work|transaction))?|start\s+transaction){_LEVEL}", text):
        raise Unsupported("transactions other than READ COMMITTED, READ WRITE")

    def control(session: Session) -> Result:
        if session.status is TransactionStatus.FAILED:
            raise in_failed_transaction()
        session.begin()
        return _done("START TRANSACTION" if text[:1] in "sS" else "BEGIN")

    return control


_WORK = r"(?:\s+(?:work|transaction))?(?:\s+and\s+no\s+chain)?"
_ROLLBACK_TO = rf"rollback{_WORK}\s+to\s+(?:savepoint\s+)?{_NAME}"


def _commit(text: str) -> Control:
    if not _match(rf"(?:commit|end){_WORK}", text):
        raise Unsupported("this form of COMMIT")
    return lambda session: _done("COMMIT" if session.commit() else "ROLLBACK")


def _rollback(text: str) -> Control:
    match = _match(_ROLLBACK_TO, text)
    if match is None and not _match(rf"(?:rollback|abort){_WORK}", text):
        raise Unsupported("this form of ROLLBACK")

    def control(session: Session) -> Result:
        if match is not None:
            session.rollback_to_savepoint(_unquoted(match[1]))
        else:
            session.rollback()
        return _done("ROLLBACK")

    return control


def _savepoint(text: str) -> Control:
    match = _match(rf"(savepoint|release)\s+(?:savepoint\s+)?{_NAME}", text)
    if match is None:
        raise Unsupported("this form of SAVEPOINT")
    name, is_release = _unquoted(match[2]), match[1].lower() == "release"

    def control(session: Session) -> Result:
        if session.status is TransactionStatus.FAILED:
            raise in_failed_transaction()
        (session.release_savepoint if is_release else session.savepoint)(name)
        return _done("RELEASE" if is_release else "SAVEPOINT")

    return control


CONTROLS: dict[str, Callable[[str], Control]] = {
    "begin": _begin,
    "start": _begin,
    "commit": _commit,
    "end": _commit,
    "rollback": _rollback,
    "abort": _rollback,
    "savepoint": _savepoint,
    "release": _savepoint,
}


# -- settings and partitions --------------------------------------------------------------------


def _set(text: str) -> Run:
    if _match(rf"set\s+(?:session\s+characteristics\s+as\s+)?transaction{_LEVEL}", text):
        return lambda _: _done("SET")
    match = _match(
        rf"set\s+(?:(session|local)\s+)?(?:(time\s+zone)\s+|{_SETTING}\s*(?:=|\sto\s)\s*)(.+)", text
    )
    if match is None:
        raise Unsupported("this form of SET")
    name = "TimeZone" if match[2] else match[3].replace('"', "")
    local = (match[1] or "").lower() == "local"
    value = None if match[4].lower() in ("default", "local") else _setting_value(match[4])

    def run(tx: Transaction) -> Result:
        tx.session.set(name, value, local=local)
        return _done("SET")

    return run


def _setting_value(raw: str) -> str:
    parts = re.findall(r"'(?:[^']|'')*'|\"[^\"]*\"|[^,\s]+", raw)
    return ", ".join(
        each[1:-1].replace("''", "'") if each[:1] in "'\"" else each.lower() for each in parts
    )


def _reset(text: str) -> Run:
    match = _match(rf"reset\s+(?:(time\s+zone)|{_SETTING})", text)
    if match is None:
        raise Unsupported("this form of RESET")
    name = "timezone" if match[1] else match[2].replace('"', "")

    def run(tx: Transaction) -> Result:
        if name.lower() == "all":
            tx.session.reset_all()
        else:
            tx.session.set(name, None)
        return _done("RESET")

    return run


def _show(text: str) -> Run:
    match = _match(rf"show\s+(?:(time\s+zone)|(transaction\s+isolation\s+level)|{_SETTING})", text)
    if match is None:
        raise Unsupported("this form of SHOW")
    name = "timezone" if match[1] else "transaction_isolation" if match[2] else match[3].lower()
    shown = {"timezone": "TimeZone", "datestyle": "DateStyle", "intervalstyle": "IntervalStyle"}

    def run(tx: Transaction) -> Result:
        value = tx.session.setting(name)
        if value is None:
            raise EngineError("42704", f'unrecognized configuration parameter "{name}"')
        return Result((ColumnInfo(shown.get(name, name), TEXT),), [(value,)], "SHOW", 1)

    return run


def _alter(text: str) -> Run:
    """``alter table ... detach partition``, which absurdctl sends for old partitions."""
    table = rf"(?:absurd\.)?{_NAME}"
    match = _match(
        rf"alter\s+table\s+(?:only\s+)?{table}\s+detach\s+partition\s+{table}"
        r"(?:\s+(?:concurrently|finalize))?",
        text,
    )
    if match is None:
        raise Unsupported("this form of ALTER")
    parent, name = _unquoted(match[1]), _unquoted(match[2])

    def run(tx: Transaction) -> Result:
        detach_partition(tx, parent, name)
        return _done("ALTER TABLE")

    return run


COMMANDS: dict[str, Callable[[str], Run]] = {
    "set": _set,
    "reset": _reset,
    "show": _show,
    "alter": _alter,
}
