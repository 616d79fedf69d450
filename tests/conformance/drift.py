"""Does the emulator still match a schema of Absurd?

``python -m conformance.drift [FILE]`` in the tests' folder says so. Without an argument it reads
the schema in the installed ``absurdctl``, with one the given SQL file: to try a new release,
install its ``absurdctl`` (or unpack its schema) and run this. It names every function, parameter,
return column, attribute, function body, table column, key, index and other statement that differs
from what the emulator declares, one a line; the exit status is 1 if any does.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from absurd_contimg.backends.memory.procedures.signatures import (
    PROCEDURES,
    SCHEMA_VERSION,
    Procedure,
)
from absurd_contimg.backends.memory.schema import NOW, TABLES, Column
from absurd_contimg.backends.memory.values.intervals import interval_out
from absurd_contimg.backends.memory.values.times import Interval

Facts = dict[str, str]
"""What is compared, by name, as ``function cancel_task(text, uuid) body``."""

_SQL_TYPES = {
    "bool": "boolean", "int4": "integer", "int8": "bigint", "float8": "double precision",
}  # fmt: skip
_FUNCTION = re.compile(
    r"create (?:or replace )?function absurd\.(\w+) \((.*?)\) returns (.*?) language \w+(.*?) as "
    r"\$\$(.*?)\$\$ ?;",
)
_TABLE = re.compile(r"create table if not exists absurd\.(\w+) \((.*?)\) ?;")
_QUEUE_TABLE = re.compile(
    r"'create table if not exists absurd\.%I \(((?:[^']|'')*?)\)(?: %s)? ?', '(\w)_'"
)
_INDEX = re.compile(
    r"'create (unique )?index if not exists %I on absurd\.%I ((?:[^']|'')*)', "
    r"\('(\w)_' \|\| \w+\) \|\| '(\w+)'"
)
_COMMA = re.compile(r", ?(?![^()]*\))")
"""A comma outside of parentheses."""


def installed_schema() -> str:
    """The schema text in the installed ``absurdctl``."""
    import absurdctl  # noqa: PLC0415 - only needed where no file is given

    return str(absurdctl.BUNDLED_SCHEMA_SQL)


def _plain(text: str) -> str:
    """SQL without comments and with single spaces."""
    return " ".join(re.sub(r"--[^\n]*", "", text).split())


def digest(body: str) -> str:
    """A function's body without comments and spacing, as a short digest."""
    return hashlib.sha256(_plain(body).encode()).hexdigest()[:16]


def schema_facts(text: str) -> Facts:
    """What a schema text says of its functions and tables."""
    text = _plain(text)
    facts: Facts = {}
    for name, parameters, returns, attributes, body in _FUNCTION.findall(text):
        table = re.match(r"table ?\((.*)\)", returns)
        answer = _items(table[1]) if table else [returns]
        words = [word for word in attributes.split() if word != "volatile"]
        facts.update(_function(name, _items(parameters), answer, words, digest(body)))
    for name, columns in _TABLE.findall(_FUNCTION.sub("", text)):
        facts.update(_table(name, _items(columns)))
    for quoted, letter in _QUEUE_TABLE.findall(text):
        unquoted = quoted.replace("''", "'").replace("%s", "idempotency_key text")
        facts.update(_table(letter, _items(unquoted)))
    for unique, what, letter, suffix in _INDEX.findall(text):
        facts[f"table {letter} index {suffix}"] = unique + what.replace("''", "'")
    for statement in _TABLE.sub("", _FUNCTION.sub("", text)).split(";"):
        if other := statement.strip():
            facts[f"statement {other[:70]}"] = digest(other)
    return facts


def _items(text: str) -> list[str]:
    return [re.sub(r"::\w+", "", item) for item in _COMMA.split(text.strip()) if item]


def emulator_facts() -> Facts:
    """What the emulator says of itself, in the schema's words."""
    facts: Facts = {"statement create schema if not exists absurd": digest(_CREATE_SCHEMA)}
    for procedure in (known for same_name in PROCEDURES.values() for known in same_name):
        parameters = [
            f"{parameter.name} {_sql_type(parameter.type_name)}"
            + (f" default {_literal(parameter.value)}" if parameter.has_default else "")
            for parameter in procedure.parameters
        ]
        attributes = procedure.attributes.split()
        facts.update(
            _function(procedure.name, parameters, _answer(procedure), attributes, procedure.body)
        )
    for letter, table in TABLES.items():
        key = table.primary_key
        columns = [_column(known, key == (known.name,)) for known in table.columns]
        facts.update(_table(letter, columns + [f"primary key ({', '.join(key)})"] * (len(key) > 1)))
        for suffix, columns_and_condition in INDEXES.get(letter, {}).items():
            facts[f"table {letter} index {suffix}"] = columns_and_condition
    return facts


INDEXES = {
    "t": {"_ci": "(task_id) where cancellation is not null"},
    "r": {
        "_sai": "(state, available_at)",
        "_ti": "(task_id)",
        "_cei": "(claim_expires_at) where state = 'running' and claim_expires_at is not null",
    },
    "e": {"_eai": "(emitted_at)"},
    "w": {"_eni": "(event_name)", "_ti": "(task_id)"},
    "i": {"_ti": "(task_id)"},
}
"""Postgres' indexes by table and by the end of their names; the emulator keeps its own."""
_CREATE_SCHEMA = "create schema if not exists absurd"


def _sql_type(name: str) -> str:
    return _SQL_TYPES.get(name, name)


def _answer(procedure: Procedure) -> list[str]:
    columns = [f"{name} {_sql_type(type_name)}" for name, type_name in procedure.columns]
    return columns or [_sql_type(procedure.returns)]


def _column(column: Column, is_key: bool) -> str:
    """A column's declaration as the schema writes it."""
    text = f"{column.name} {_sql_type(column.type_name)}"
    if is_key or not column.nullable:
        text += " primary key" if is_key else " not null"
    if column.default is NOW:
        text += " default absurd.current_time()"
    elif column.default is not None:
        text += f" default {_literal(column.default)}"
    if isinstance(column.check, tuple):
        text += f" check ({column.name} in ({', '.join(map(_literal, column.check))}))"
    elif column.check is not None:
        least = "interval '0 seconds'" if column.type_name == "interval" else column.check
        text += f" check ({column.name} >= {least})"
    return text


def _literal(value: object) -> str:
    if isinstance(value, Interval):
        return f"interval '{interval_out(value)}'"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, int) else f"'{value}'"


def _function(
    name: str, parameters: list[str], answer: list[str], attributes: list[str], body: str
) -> Iterator[tuple[str, str]]:
    types = [re.sub(r" default .*", "", item).split(" ", 1)[1] for item in parameters]
    label = f"function {name}({', '.join(types)})"
    yield label, "exists"
    for position, item in enumerate(parameters, 1):
        yield f"{label} parameter {position}", item
    for position, item in enumerate(answer, 1):
        yield f"{label} return column {position}", item
    yield f"{label} attributes", " ".join(sorted(attributes)) or "none"
    yield f"{label} body", body


def _table(table: str, items: list[str]) -> Iterator[tuple[str, str]]:
    for position, item in enumerate(items, 1):
        name, _, rest = item.partition(" ")
        named = "key" if item.startswith("primary key") else f"column {name}"
        yield f"table {table} {named}", f"{position} {rest}"


def differences(text: str) -> list[str]:
    """Everything in which a schema differs from the emulator, one sentence each."""
    theirs, ours = schema_facts(text), emulator_facts()
    sentences: list[str] = []
    for name in sorted(theirs.keys() | ours.keys()):
        if name not in ours:
            sentences.append(f"{name}: new in the schema ({theirs[name]}), the emulator lacks it")
        elif name not in theirs:
            sentences.append(f"{name}: gone from the schema, the emulator has it ({ours[name]})")
        elif theirs[name] != ours[name]:
            sentences.append(f"{name}: {theirs[name]} in the schema, {ours[name]} in the emulator")
    return sentences


def main(arguments: list[str]) -> int:
    """Print the report; 1 if anything differs, 2 if there is nothing to compare with."""
    parser = argparse.ArgumentParser(
        prog="python -m conformance.drift",
        description="Compare a schema of Absurd with what the emulator was written against.",
    )
    parser.add_argument(
        "file", nargs="?", type=Path, help="an SQL file; by default the installed absurdctl's"
    )
    file = parser.parse_args(arguments).file
    try:
        text = installed_schema() if file is None else file.read_text(encoding="utf-8")
    except (OSError, ImportError) as error:
        parser.error(f"no schema to compare with: {error}; install absurdctl or name an SQL file")
    facts = schema_facts(text)
    if not any(name.startswith("function ") for name in facts):
        parser.error(f"{file} has no function of Absurd: is it the schema's SQL file?")
    version = re.search(r"select '([^']+)'::text;", text)
    sentences = differences(text)
    print(
        f"schema {version[1] if version else 'of unknown version'}, emulator of {SCHEMA_VERSION}: "
        f"{len(sentences)} differences in {len(facts)} facts"
    )
    for sentence in sentences:
        print(f"  {sentence}")
    return 1 if sentences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
