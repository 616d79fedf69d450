"""What may stand in a ``from``: tables, partitions, functions, subqueries, common tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlglot import exp

from absurd_contimg.backends.memory import catalog, schema
from absurd_contimg.backends.memory.catalog import Relation
from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.procedures.partitions import partition_rows
from absurd_contimg.backends.memory.sql import calls, constants, information
from absurd_contimg.backends.memory.sql.casting import type_of
from absurd_contimg.backends.memory.sql.dialect import sql_of
from absurd_contimg.backends.memory.sql.expressions import Compiler, name_of
from absurd_contimg.backends.memory.sql.invocations import absurd_call
from absurd_contimg.backends.memory.sql.json_records import record_rows
from absurd_contimg.backends.memory.sql.scope import (
    ColumnInfo,
    Node,
    Row,
    Scope,
    Source,
)
from absurd_contimg.backends.memory.sql.set_functions import table_function
from absurd_contimg.backends.memory.sql.types import BY_NAME, INT8, RecordType
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
    return name, [
        name_of(column.this if isinstance(column, exp.ColumnDef) else column)
        for column in alias.columns
    ]


def _defined(node: Node) -> list[ColumnInfo]:
    """The columns of a list of column definitions."""
    alias = node.args.get("alias")
    columns = alias.columns if isinstance(alias, exp.TableAlias) else []
    return [
        ColumnInfo(name_of(column.this), type_of(column.args["kind"]))
        for column in columns
        if isinstance(column, exp.ColumnDef)
    ]


class SourceCompiler:
    """Compiles the entries of a ``from``."""

    def __init__(self, planner: Planner, scope: Scope) -> None:
        self.planner = planner
        self.scope = scope

    def compile(self, node: Node) -> Source:
        """One entry."""
        alias, names = alias_of(node)
        defined = _defined(node)
        if defined:
            return self._record(node, alias, defined)
        if isinstance(node, exp.Subquery):
            if isinstance(node.this, exp.Table):
                raise unsupported(sql_of(node), "joins in brackets")
            return self._query(node, alias, names)
        if isinstance(node, exp.Lateral):
            return self._lateral(node, alias, names)
        if isinstance(node, exp.Values):
            return self._query(node, alias, names)
        if isinstance(node, exp.Unnest):
            ordinality = node.args.get("offset")
            if isinstance(ordinality, exp.Identifier):
                names = [*names, name_of(ordinality)]
            return self._function(
                exp.Anonymous(this="unnest", expressions=node.expressions),
                alias,
                names,
                ordinality=bool(ordinality),
            )
        if isinstance(node, exp.Table):
            return self._table(node, alias, names)
        raise unsupported(sql_of(node), "this in a FROM clause")

    def _query(self, node: Node, alias: str | None, names: list[str]) -> Source:
        lateral = isinstance(node, exp.Lateral)
        outer = self.scope if lateral else self.scope.hidden()
        inner = node.this if lateral else node
        if isinstance(inner, exp.Subquery) and not lateral:
            inner = inner.copy()
            inner.set("alias", None)
        columns, rows = self.planner.query(inner, outer.child())
        return Source(
            alias or "",
            _renamed(tuple(columns), names, alias),
            lambda env: rows(env.child()),
            lateral=True,
        )

    def _record(self, node: Node, alias: str | None, columns: list[ColumnInfo]) -> Source:
        """``jsonb_to_record`` or ``jsonb_to_recordset`` with a list of column definitions."""
        inner = node.this
        if not isinstance(inner, exp.Anonymous) or node.args.get("db") is not None:
            raise unsupported(sql_of(node), "a list of column definitions")
        compiler = Compiler(self.scope, self.planner.query, clause="functions in FROM")
        arguments = [compiler.compile(item) for item in inner.expressions]
        rows = record_rows(str(inner.this).lower(), arguments, columns)
        if rows is None:
            raise unsupported(sql_of(node), "a list of column definitions")
        name = alias or str(inner.this).lower()
        return Source(name, tuple(columns), rows, lateral=True, is_function=True)

    def _lateral(self, node: exp.Lateral, alias: str | None, names: list[str]) -> Source:
        inner = node.this
        if isinstance(inner, exp.Subquery):
            return self._query(node, alias, names)
        return self._call(inner, alias, names, ordinality=bool(node.args.get("ordinality")))

    def _table(self, node: exp.Table, alias: str | None, names: list[str]) -> Source:
        inner, database = node.this, node.args.get("db")
        schema_name = None if database is None else name_of(database)
        if isinstance(inner, exp.Identifier):
            return self._named(name_of(inner), schema_name, alias, names, node)
        if schema_name is not None:
            inner = exp.Dot(this=database, expression=inner)
        return self._call(inner, alias, names, ordinality=bool(node.args.get("ordinality")))

    def _call(
        self, inner: Node, alias: str | None, names: list[str], *, ordinality: bool
    ) -> Source:
        """A function: Absurd's, Postgres' own that return rows, or any other."""
        if isinstance(inner, exp.Dot):
            schema_name = name_of(inner.this) if isinstance(inner.this, exp.Identifier) else ""
            if schema_name == "absurd" and isinstance(inner.expression, exp.Anonymous):
                call = absurd_call(Compiler(self.scope, self.planner.query), inner.expression)
                source = calls.as_source(call, alias, names)
                return _with_ordinality(source, names) if ordinality else source
            if schema_name == "pg_catalog":
                inner = inner.expression
            else:
                raise unsupported(sql_of(inner), "this in a FROM clause")
        return self._function(inner, alias, names, ordinality=ordinality)

    def _named(
        self,
        name: str,
        schema_name: str | None,
        alias: str | None,
        names: list[str],
        node: Node,
    ) -> Source:
        if schema_name is None and name in self.scope.ctes:
            columns = _renamed(self.scope.ctes[name], names, alias or name)
            return Source(alias or name, columns, lambda env: env.ctes[name])
        view = information.VIEWS.get((schema_name or "pg_catalog", name))
        if view is not None:
            select = node.find_ancestor(exp.Select)
            where = None if select is None else select.args.get("where")
            if not information.is_told(where and where.this, view, alias or name):
                raise unsupported(
                    sql_of(node), f"this view without {view.schema_column} = 'absurd' beside it"
                )
            columns = _renamed(view.columns, names, alias or name)
            return Source(alias or name, columns, view.rows, partial=True)
        if schema_name in ("pg_catalog", "information_schema") or (
            schema_name is None and name.startswith("pg_")
        ):
            raise unsupported(sql_of(node), "tables outside the schema absurd")
        shown = name if schema_name is None else f"{schema_name}.{name}"
        letter = letter_of(name) if schema_name == "absurd" else None
        if letter is None:
            raise EngineError("42P01", f'relation "{shown}" does not exist')
        mode = self.planner.table_lock
        constants.check(lambda env: catalog.relation(env.tx, name, mode))
        return Source(
            alias or name,
            _renamed(table_columns(letter), names, alias or name),
            lambda env: rows_of(env.tx, catalog.relation(env.tx, name, mode)),
            relation=name,
        )

    def _function(
        self, node: Node, alias: str | None, names: list[str], *, ordinality: bool
    ) -> Source:
        compiler = Compiler(self.scope, self.planner.query, clause="functions in FROM")
        name = str(node.this).lower() if isinstance(node, exp.Anonymous) else ""
        arguments = [] if not name else [compiler.compile(item) for item in node.expressions]
        made = table_function(name, arguments)
        if made is None:
            scalar = compiler.compile_set(node)
            if isinstance(scalar.kind, RecordType) or scalar.rows is not None:
                raise unsupported(sql_of(node), "this in a FROM clause")
            column = ColumnInfo(alias or scalar.name, scalar.kind)
            source = Source(
                alias or scalar.name,
                (column,),
                lambda env: [(scalar.value(env),)],
                lateral=True,
                is_function=True,
            )
        else:
            columns, rows = made
            if len(columns) == 1 and alias is not None and columns[0].name == name:
                columns = (ColumnInfo(alias, columns[0].kind),)
            source = Source(alias or name, columns, rows, lateral=True, is_function=True)
        if ordinality:
            return _with_ordinality(source, names)
        source.columns = _renamed(source.columns, names, source.alias)
        return source


def _with_ordinality(source: Source, names: list[str]) -> Source:
    """The rows numbered from 1 in a last column."""
    fetch = source.fetch
    source.fetch = lambda env: [(*row, number) for number, row in enumerate(fetch(env), 1)]
    source.columns = _renamed(
        (*source.columns, ColumnInfo("ordinality", INT8)), names, source.alias
    )
    return source


def _renamed(
    columns: tuple[ColumnInfo, ...], names: list[str], alias: str | None
) -> tuple[ColumnInfo, ...]:
    if len(names) > len(columns):
        raise EngineError(
            "42P10",
            f'table "{alias}" has {len(columns)} columns available but {len(names)} columns '
            "specified",
        )
    renamed = [column._replace(name=name) for name, column in zip(names, columns, strict=False)]
    return (*renamed, *columns[len(renamed) :])
