"""What may stand in a ``from``: tables, partitions, functions, subqueries, common tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlglot import exp

from absurd_contimg.backends.memory import catalog, jsonb, schema
from absurd_contimg.backends.memory.catalog import Relation
from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.locks import TableLock
from absurd_contimg.backends.memory.procedures.partitions import partition_rows
from absurd_contimg.backends.memory.sql import calls, operators
from absurd_contimg.backends.memory.sql.expressions import Compiler, name_of, sql_of, unwrapped
from absurd_contimg.backends.memory.sql.invocations import absurd_call
from absurd_contimg.backends.memory.sql.scope import (
    ColumnInfo,
    Env,
    Expr,
    Node,
    Row,
    Scope,
    Source,
    unsupported,
)
from absurd_contimg.backends.memory.sql.types import (
    BY_NAME,
    INT4,
    INT8,
    JSONB,
    NAME,
    TEXT,
    ArrayType,
    SqlType,
)
from absurd_contimg.backends.memory.transaction import Transaction

if TYPE_CHECKING:
    from absurd_contimg.backends.memory.sql.queries import Planner


def table_columns(letter: str) -> tuple[ColumnInfo, ...]:
    """The columns of a kind of table."""
    return tuple(
        ColumnInfo(column.name, BY_NAME[column.type_name]) for column in schema.TABLES[letter]
    )


def rows_of(tx: Transaction, relation: Relation) -> list[Row]:
    """All rows of a table, or of a partition of one, that `tx` sees."""
    if relation.partition is not None:
        return partition_rows(tx, relation.table, relation.partition)
    return list(relation.table.scan(tx))


def letter_of(table: str) -> str | None:
    """Which kind of table a name means; None for a name that Absurd never gives."""
    if table == "queues":
        return table
    letter, _, rest = table.partition("_")
    return letter if rest and letter in schema.TABLES else None


def alias_of(node: Node) -> tuple[str | None, list[str]]:
    """The alias of something in a ``from``, and its columns' new names."""
    alias = node.args.get("alias")
    if not isinstance(alias, exp.TableAlias):
        return None, []
    name = None if alias.this is None else name_of(alias.this)
    return name, [name_of(column) for column in alias.columns]


class SourceCompiler:
    """Compiles the entries of a ``from``."""

    def __init__(self, planner: Planner, scope: Scope) -> None:
        self.planner = planner
        self.scope = scope

    def compile(self, node: Node) -> Source:
        """One entry."""
        alias, names = alias_of(node)
        if isinstance(node, exp.Subquery):
            return self._query(node, alias, names)
        if isinstance(node, exp.Lateral):
            return self._lateral(node, alias, names)
        if isinstance(node, exp.Values):
            return self._query(node, alias, names)
        if isinstance(node, exp.Unnest):
            return self._function("unnest", node.expressions, alias, names, node)
        if isinstance(node, exp.Table):
            return self._table(node, alias, names)
        raise unsupported(sql_of(node), "this in a FROM clause")

    def _query(self, node: Node, alias: str | None, names: list[str]) -> Source:
        columns, rows = self.planner.query(unwrapped(node), self.scope.child())
        return Source(
            alias or "",
            _renamed(tuple(columns), names),
            lambda env: rows(env.child()),
            lateral=True,
        )

    def _lateral(self, node: exp.Lateral, alias: str | None, names: list[str]) -> Source:
        inner = node.this
        if isinstance(inner, exp.Subquery):
            return self._query(inner, alias, names)
        if isinstance(inner, exp.Dot):
            call = absurd_call(Compiler(self.scope, self.planner.query), inner.expression)
            return calls.as_source(call, alias, names)
        return self._function(_function_name(inner), inner.expressions, alias, names, node)

    def _table(self, node: exp.Table, alias: str | None, names: list[str]) -> Source:
        inner, database = node.this, node.args.get("db")
        schema_name = None if database is None else name_of(database)
        if isinstance(inner, exp.Identifier):
            return self._named(name_of(inner), schema_name, alias, names, node)
        if schema_name == "absurd" and isinstance(inner, exp.Anonymous):
            call = absurd_call(Compiler(self.scope, self.planner.query), inner)
            return calls.as_source(call, alias, names)
        if schema_name in (None, "pg_catalog"):
            return self._function(
                _function_name(inner), _function_arguments(inner), alias, names, node
            )
        raise unsupported(sql_of(node), "this in a FROM clause")

    def _named(
        self,
        name: str,
        schema_name: str | None,
        alias: str | None,
        names: list[str],
        node: Node,
    ) -> Source:
        if schema_name is None and name in self.scope.ctes:
            columns = _renamed(self.scope.ctes[name], names)
            return Source(alias or name, columns, lambda env: env.ctes[name])
        if schema_name == "information_schema" and name in _INFORMATION:
            columns, rows = _INFORMATION[name]
            return Source(alias or name, columns, rows)
        if schema_name != "absurd":
            shown = name if schema_name is None else f"{schema_name}.{name}"
            if schema_name in (None, "public") and not name.startswith("pg_"):
                raise EngineError("42P01", f'relation "{shown}" does not exist')
            raise unsupported(sql_of(node), "tables outside the schema absurd")
        letter = letter_of(name)
        if letter is None:
            raise EngineError("42P01", f'relation "absurd.{name}" does not exist')
        mode = self.planner.table_lock
        return Source(
            alias or name,
            _renamed(table_columns(letter), names),
            lambda env: rows_of(env.tx, catalog.relation(env.tx, name, mode)),
            relation=name,
        )

    def _function(
        self,
        name: str,
        arguments: list[Node],
        alias: str | None,
        names: list[str],
        node: Node,
    ) -> Source:
        compiler = Compiler(self.scope, self.planner.query)
        made = table_function(name, [compiler.compile(item) for item in arguments])
        if made is None:
            scalar = compiler.compile(node.this if isinstance(node, exp.Table) else node)
            columns: tuple[ColumnInfo, ...] = (ColumnInfo(alias or scalar.name, scalar.kind),)
            return Source(
                alias or scalar.name,
                _renamed(columns, names),
                lambda env: [(scalar.value(env),)],
                lateral=True,
                is_function=True,
            )
        columns, rows = made
        if len(columns) == 1 and alias is not None and name != "jsonb_each":
            columns = (ColumnInfo(alias, columns[0].kind),)
        return Source(alias or name, _renamed(columns, names), rows, lateral=True, is_function=True)


def _renamed(columns: tuple[ColumnInfo, ...], names: list[str]) -> tuple[ColumnInfo, ...]:
    renamed = [ColumnInfo(name, column.kind) for name, column in zip(names, columns, strict=False)]
    return (*renamed, *columns[len(renamed) :])


def _function_name(node: Node) -> str:
    if isinstance(node, exp.Anonymous):
        return str(node.this).lower()
    if "GenerateSeries" in type(node).__name__:
        return "generate_series"
    if isinstance(node, exp.Explode | exp.Unnest):
        return "unnest"
    return ""


def _function_arguments(node: Node) -> list[Node]:
    if isinstance(node, exp.Anonymous):
        return list(node.expressions)
    if "GenerateSeries" in type(node).__name__:
        parts = [node.args.get(key) for key in ("start", "end", "step")]
        return [part for part in parts if part is not None]
    if isinstance(node, exp.Explode):
        return [node.this]
    return []


TableFunction = tuple[tuple[ColumnInfo, ...], Callable[[Env], list[Row]]]


def table_function(name: str, arguments: list[Expr]) -> TableFunction | None:
    """A function of Postgres' own that returns rows; None if we have none of this name."""
    if name == "generate_series":
        return _series(arguments)
    if name == "unnest":
        array = arguments[0]
        if not isinstance(array.kind, ArrayType):
            raise EngineError("42725", "function unnest(unknown) is not unique")
        return (
            (ColumnInfo("unnest", array.kind.element),),
            lambda env: [(item,) for item in array.value(env) or []],
        )
    if name in ("jsonb_each", "jsonb_each_text", "jsonb_object_keys"):
        return _json_members(name, operators.converted(arguments[0], JSONB))
    if name in ("jsonb_array_elements", "jsonb_array_elements_text"):
        return _json_elements(name, operators.converted(arguments[0], JSONB))
    return None


def _series(arguments: list[Expr]) -> TableFunction:
    kind: SqlType = INT8 if any(item.kind is INT8 for item in arguments) else INT4
    if any(item.kind not in (INT4, INT8) and item.kind.name != "int2" for item in arguments):
        raise unsupported("generate_series", "a series of anything but integers")
    values = [operators.converted(item, kind).value for item in arguments]

    def rows(env: Env) -> list[Row]:
        start, end, *rest = (value(env) for value in values)
        step = rest[0] if rest else 1
        if step == 0:
            raise EngineError("22023", "step size cannot equal zero")
        return [(item,) for item in range(start, end + (1 if step > 0 else -1), step)]

    return (ColumnInfo("generate_series", kind),), rows


def _json_members(name: str, source: Expr) -> TableFunction:
    as_string = name == "jsonb_each_text"
    kind = TEXT if as_string else JSONB

    def rows(env: Env) -> list[Row]:
        text = source.value(env)
        if text is None:
            return []
        if jsonb.kind(text) != "object":
            raise EngineError("22023", f"cannot call {name} on a non-object")
        members = jsonb.tree(text)
        if name == "jsonb_object_keys":
            return [(key,) for key in members]
        show = jsonb.as_text if as_string else jsonb.dumps
        return [(key, show(value)) for key, value in members.items()]

    if name == "jsonb_object_keys":
        return (ColumnInfo("jsonb_object_keys", TEXT),), rows
    return (ColumnInfo("key", TEXT), ColumnInfo("value", kind)), rows


def _json_elements(name: str, source: Expr) -> TableFunction:
    as_string = name.endswith("_text")

    def rows(env: Env) -> list[Row]:
        text = source.value(env)
        if text is None:
            return []
        if jsonb.kind(text) != "array":
            word = "an object" if jsonb.kind(text) == "object" else "a scalar"
            raise EngineError("22023", f"cannot extract elements from {word}")
        show = jsonb.as_text if as_string else jsonb.dumps
        return [(show(item),) for item in jsonb.tree(text)]

    return (ColumnInfo("value", TEXT if as_string else JSONB),), rows


# -- information_schema -------------------------------------------------------------------------

_SHOWN = {"int4": "integer", "bool": "boolean", "timestamptz": "timestamp with time zone"}


def _tables(env: Env) -> list[Row]:
    found = sorted(row.name for row in env.session.db.relations.scan(env.tx))
    return [("memory", "absurd", name, "BASE TABLE") for name in found]


def _all_columns(env: Env) -> list[Row]:
    rows: list[Row] = []
    for relation in sorted(env.session.db.relations.scan(env.tx), key=lambda row: row.name):
        for position, column in enumerate(schema.TABLES[relation.letter], 1):
            shown = _SHOWN.get(column.type_name, column.type_name)
            nullable = "YES" if column.nullable else "NO"
            rows.append(("memory", "absurd", relation.name, column.name, position, nullable, shown))
    return rows


def _text_columns(names: str) -> tuple[ColumnInfo, ...]:
    return tuple(
        ColumnInfo(name, INT4 if name == "ordinal_position" else NAME) for name in names.split()
    )


_INFORMATION: dict[str, tuple[tuple[ColumnInfo, ...], Callable[[Env], list[Any]]]] = {
    "tables": (_text_columns("table_catalog table_schema table_name table_type"), _tables),
    "columns": (
        _text_columns(
            "table_catalog table_schema table_name column_name ordinal_position is_nullable "
            "data_type"
        ),
        _all_columns,
    ),
}
DEFAULT_LOCK = TableLock.ACCESS_SHARE
