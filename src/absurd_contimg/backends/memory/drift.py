"""Does the emulator still match a schema of Absurd?

``python -m absurd_contimg.backends.memory.drift [FILE]`` says so. Without an argument the schema
in the installed ``absurdctl`` is read, with one the given SQL file: to try a new release, install
its ``absurdctl`` (or unpack its schema) and run this. Every function, parameter, default, return
column, attribute, table column, check, index, function body and other statement that differs from
what the emulator was written against is named, one a line; the exit status is 1 if any does.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from absurd_contimg.backends.memory import schema
from absurd_contimg.backends.memory.function_digests import ATTRIBUTES, BODIES
from absurd_contimg.backends.memory.procedures.signatures import PROCEDURES, SCHEMA_VERSION

_TYPES = {
    "INT": "int4", "BIGINT": "int8", "DOUBLE": "float8", "BOOLEAN": "bool", "TEXT": "text",
    "JSONB": "jsonb", "UUID": "uuid", "TIMESTAMPTZ": "timestamptz", "INTERVAL": "interval",
}  # fmt: skip
_TABLE = re.compile(
    r"'create table if not exists absurd\.%I \((?P<columns>(?:[^']|'')*)\)(?:\s*%s)?\s*',\s*"
    r"'(?P<letter>\w)_'",
)
_INDEX = re.compile(
    r"'create (?P<unique>unique )?index if not exists %I on absurd\.%I (?P<what>(?:[^']|'')*)',\s*"
    r"\('(?P<letter>\w)_' \|\| \w+\) \|\| '(?P<suffix>\w+)'"
)
_USUAL = {"LANGUAGE", "VOLATILE", "CALLED"}
"""What a function's attributes need not say: how it is written, and what is so by default."""
Facts = dict[str, str]
"""What is compared, by name, as ``function cancel_task(text, uuid) body``."""


def installed_schema() -> str:
    """The schema text in the installed ``absurdctl``."""
    import absurdctl  # noqa: PLC0415 - only needed where no file is given

    return str(absurdctl.BUNDLED_SCHEMA_SQL)


def schema_facts(text: str) -> Facts:
    """What a schema text says of its functions and tables."""
    facts: Facts = {}
    logger = logging.getLogger("sqlglot")
    disabled, logger.disabled = logger.disabled, True
    try:
        statements = sqlglot.parse(text, read="postgres")
    finally:
        logger.disabled = disabled
    for statement in statements:
        kind = statement.args.get("kind") if isinstance(statement, exp.Create) else None
        if kind == "FUNCTION" and isinstance(statement, exp.Create):
            facts.update(_function_facts(statement))
        elif kind == "TABLE" and isinstance(statement, exp.Create):
            facts.update(_table_facts(statement.this.this.name, statement.this.expressions))
        elif statement is not None and kind != "SCHEMA":
            words = " ".join(str(statement.sql(dialect="postgres", comments=False)).split())
            facts[f"statement {words[:70]}"] = digest(words)
    for match in _TABLE.finditer(text):
        columns = match["columns"].replace("''", "'").replace("%s", "idempotency_key text")
        table = sqlglot.parse_one(f"create table x ({columns})", read="postgres")
        facts.update(_table_facts(match["letter"], table.this.expressions))
    for match in _INDEX.finditer(text):
        what = " ".join(match["what"].replace("''", "'").split())
        facts[f"table {match['letter']} index {match['suffix']}"] = (match["unique"] or "") + what
    return facts


def _function_facts(statement: exp.Create) -> Iterator[tuple[str, str]]:
    defined = statement.this
    parameters = [node for node in defined.expressions if isinstance(node, exp.ColumnDef)]
    types = [_type(node) for node in parameters]
    label = f"function {defined.this.name}({', '.join(types)})"
    yield label, "exists"
    for position, node in enumerate(parameters, 1):
        yield f"{label} parameter {position}", node.name
        default = _constraint(node, exp.DefaultColumnConstraint)
        if default is not None:
            yield f"{label} default of {node.name}", _plain(default.this)
    attributes: list[str] = []
    for item in statement.args["properties"].expressions:
        if not isinstance(item, exp.ReturnsProperty):
            words = str(item.sql(dialect="postgres"))
            attributes += [] if words.split(maxsplit=1)[0] in _USUAL else [words.lower()]
        elif isinstance(item.this, exp.Schema):
            for position, node in enumerate(item.this.expressions, 1):
                yield f"{label} return column {position}", f"{node.name} {_type(node)}"
        else:
            yield f"{label} returns", _TYPES.get(_name(item.this), _name(item.this).lower())
    if attributes:
        yield f"{label} attributes", ", ".join(sorted(attributes))
    yield f"{label} body", digest(str(statement.args["expression"].this))


def _table_facts(table: str, nodes: list[Any]) -> Iterator[tuple[str, str]]:
    position = 0
    for node in nodes:
        if isinstance(node, exp.PrimaryKey):
            keys = ", ".join(item.name for item in node.expressions)
            yield f"table {table} primary key", keys
        elif not isinstance(node, exp.ColumnDef):
            yield f"table {table} constraint {node.sql(dialect='postgres').lower()}", "exists"
        if not isinstance(node, exp.ColumnDef):
            continue
        position += 1
        label = f"table {table} column {node.name}"
        key = _constraint(node, exp.PrimaryKeyColumnConstraint) is not None
        if key:
            yield f"table {table} primary key", node.name
        required = key or _constraint(node, exp.NotNullColumnConstraint) is not None
        yield label, f"{position} {_type(node)}{' not null' if required else ''}"
        default = _constraint(node, exp.DefaultColumnConstraint)
        if default is not None:
            yield f"{label} default", _plain(default.this)
        check = _constraint(node, exp.CheckColumnConstraint)
        if check is not None:
            yield f"{label} check", _check(check.this)
        for item in node.args.get("constraints") or []:
            if not isinstance(item.args.get("kind"), _COLUMN_CONSTRAINTS):
                yield f"{label} {item.sql(dialect='postgres').lower()}", "exists"


_COLUMN_CONSTRAINTS = (
    exp.PrimaryKeyColumnConstraint,
    exp.NotNullColumnConstraint,
    exp.DefaultColumnConstraint,
    exp.CheckColumnConstraint,
)


def _constraint(node: Any, kind: type) -> Any:
    for item in node.args.get("constraints") or []:
        if isinstance(item.args.get("kind"), kind):
            return item.args["kind"]
    return None


def _name(node: Any) -> str:
    named = node.this
    text = str(getattr(named, "value", named)).upper()
    return str(node.args.get("kind")).upper() if text.startswith("USER") else text


def _type(node: Any) -> str:
    name = _name(node.args["kind"])
    return _TYPES.get(name, name.lower())


def _plain(node: Any) -> str:
    """A default as the emulator's tables write it."""
    if isinstance(node, exp.Cast):
        node = node.this
    if isinstance(node, exp.Interval):
        return f"interval '{node.this.name} {node.args['unit'].name.lower()}'"
    return str(node.sql(dialect="postgres")).lower()


def _check(node: Any) -> str:
    if isinstance(node, exp.In):
        return "in " + ", ".join(item.name for item in node.expressions)
    bound = node.expression
    number = bound.this.name if isinstance(bound, exp.Interval) else bound.name
    symbol = ">=" if isinstance(node, exp.GTE) else type(node).__name__
    return f"{symbol} {number}"


def digest(body: str) -> str:
    """A function's body without comments and spacing, as a short digest."""
    bare = re.sub(r"--[^\n]*", "", body)
    return hashlib.sha256(" ".join(bare.split()).encode()).hexdigest()[:16]


def emulator_facts() -> Facts:
    """What the emulator says of itself."""
    facts: Facts = {}
    for procedures in PROCEDURES.values():
        for procedure in procedures:
            types = ", ".join(parameter.type_name for parameter in procedure.parameters)
            label = f"function {procedure.name}({types})"
            facts[label] = "exists"
            for position, parameter in enumerate(procedure.parameters, 1):
                facts[f"{label} parameter {position}"] = parameter.name
                if parameter.has_default:
                    facts[f"{label} default of {parameter.name}"] = parameter.default.lower()
            for position, (name, type_name) in enumerate(procedure.columns, 1):
                facts[f"{label} return column {position}"] = f"{name} {type_name}"
            if not procedure.columns:
                facts[f"{label} returns"] = procedure.returns
            if label in ATTRIBUTES:
                facts[f"{label} attributes"] = ATTRIBUTES[label]
            facts[f"{label} body"] = BODIES.get(label, "unknown")
    facts.update(_emulated_tables())
    return facts


def _emulated_tables() -> Iterator[tuple[str, str]]:
    for table, indexes in schema.INDEXES.items():
        for name, what in indexes.items():
            yield f"table {table} index {name}", what
    for table, columns in schema.TABLES.items():
        yield f"table {table} primary key", ", ".join(schema.PRIMARY_KEYS[table])
        for position, column in enumerate(columns, 1):
            label = f"table {table} column {column.name}"
            required = "" if column.nullable else " not null"
            yield label, f"{position} {column.type_name}{required}"
            if column.default is not None:
                yield f"{label} default", column.default
            if column.check is not None:
                yield f"{label} check", "in " + ", ".join(column.check)
            elif column.check_text is not None:
                yield f"{label} check", column.check_text


def differences(text: str) -> list[str]:
    """Everything in which a schema differs from the emulator, one sentence each."""
    theirs, mine = schema_facts(text), emulator_facts()
    found: list[str] = []
    for name in sorted(theirs.keys() | mine.keys()):
        if theirs.get(name) == mine.get(name):
            continue
        if name not in mine:
            found.append(f"{name}: new in the schema ({theirs[name]}), the emulator lacks it")
        elif name not in theirs:
            found.append(f"{name}: gone from the schema, the emulator has it ({mine[name]})")
        else:
            found.append(f"{name}: {theirs[name]} in the schema, {mine[name]} in the emulator")
    return found


def main(arguments: list[str]) -> int:
    """Print the report; 1 if anything differs, 2 if there is nothing to compare with."""
    parser = argparse.ArgumentParser(
        prog="python -m absurd_contimg.backends.memory.drift",
        description="Compare a schema of Absurd with what the emulator was written against.",
    )
    parser.add_argument(
        "file", nargs="?", type=Path, help="an SQL file; by default the installed absurdctl's"
    )
    file = parser.parse_args(arguments).file
    try:
        text = installed_schema() if file is None else file.read_text(encoding="utf-8")
        facts = schema_facts(text)
    except (OSError, ImportError) as error:
        parser.error(f"no schema to compare with: {error}; install absurdctl or name an SQL file")
    except SqlglotError as error:
        parser.error(f"{file or 'the schema'} cannot be read as SQL: {error}")
    if not any(name.startswith("function ") for name in facts):
        parser.error(f"{file} has no function of Absurd: is it the schema's SQL file?")
    version = re.search(r"select '([^']+)'::text;", text)
    found = differences(text)
    print(
        f"schema {version[1] if version else 'of unknown version'}, emulator of {SCHEMA_VERSION}: "
        f"{len(found)} differences in {len(facts)} facts"
    )
    for line in found:
        print(f"  {line}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
