"""What a compiled expression is, what it may refer to, and what it is evaluated in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.session_state import SessionState as Session
from absurd_contimg.backends.memory.sql.types import SqlType
from absurd_contimg.backends.memory.transaction import Transaction

Row = tuple[Any, ...]
Node = Any
"""A node of sqlglot's trees; the name of their base class differs between its releases."""


class Env:
    """Where an expression is evaluated: transaction, parameters, the current row of each table."""

    __slots__ = (
        "aggregates", "ctes", "grouped", "key_set", "outer", "params", "rows", "session", "tx",
        "windows",
    )  # fmt: skip

    def __init__(self, tx: Transaction, params: Sequence[Any], outer: Env | None = None) -> None:
        self.tx = tx
        self.session: Session = tx.session
        self.params = params
        self.outer = outer
        self.rows: list[Row | None] = []
        self.aggregates: list[Any] = []
        self.windows: list[Any] = []
        self.grouped: tuple[Any, ...] = ()
        """The values of the keys, where several sets of them are grouped by."""
        self.key_set: frozenset[int] = frozenset()
        """The keys that this group is by."""
        self.ctes: dict[str, list[Row]] = {} if outer is None else dict(outer.ctes)

    def child(self) -> Env:
        """The environment of a subquery."""
        return Env(self.tx, self.params, self)


Evaluate = Callable[[Env], Any]


class Expr(NamedTuple):
    """A compiled expression: its type, how to get its value, and what a column of it is called."""

    kind: SqlType
    value: Evaluate
    name: str = "?column?"
    constant: bool = False
    rows: Callable[[Env], list[Any]] | None = None
    """For a function that returns a set in the select list: its values."""
    parameter: int | None = None
    """For a parameter whose type is yet to be found out: its number."""
    modifier: int = -1
    """The type modifier, as ``(10,2)`` of a numeric, in Postgres' number; -1 for none."""


class ColumnInfo(NamedTuple):
    """A column of something in a ``from``."""

    name: str
    kind: SqlType
    modifier: int = -1


@dataclass(slots=True)
class Source:
    """One entry of a ``from``: how its rows come, and how its columns are called."""

    alias: str
    columns: tuple[ColumnInfo, ...]
    fetch: Callable[[Env], list[Row]]
    relation: str | None = None
    lateral: bool = False
    is_function: bool = False
    partial: bool = False
    """Whether Postgres has columns here that the emulator has not."""


@dataclass(slots=True)
class Scope:
    """The names that an expression may use, innermost first."""

    sources: list[Source] = field(default_factory=list)
    parent: Scope | None = None
    ctes: dict[str, tuple[ColumnInfo, ...]] = field(default_factory=dict)
    params: tuple[SqlType, ...] = ()
    merged: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """Columns of ``join ... using``: any of the sources' values, by source and column."""
    windows: dict[str, Node] = field(default_factory=dict)
    """What the ``window`` clause names."""
    beside: list[Source] = field(default_factory=list)
    """Tables of the same ``from`` that a subquery in it may not see."""

    def child(self) -> Scope:
        """The scope of a subquery."""
        return Scope([], self, dict(self.ctes), self.params)

    def hidden(self) -> Scope:
        """The same scope without its tables: what a subquery that is not lateral may not see."""
        return Scope([], self.parent, dict(self.ctes), self.params, beside=list(self.sources))

    def find(self, table: str | None, name: str) -> Expr:
        """The column of this name; 42703, 42P01 or 42702 if it cannot be told."""
        depth = 0
        scope: Scope | None = self
        while scope is not None:
            found = scope._find_here(table, name, depth)
            if found is not None:
                return found
            scope, depth = scope.parent, depth + 1
        self._refuse_partial(table, name)
        if table is None:
            raise EngineError("42703", f'column "{name}" does not exist')
        if self._source(table) is None:
            raise self._missing(table)
        raise EngineError("42703", f"column {table}.{name} does not exist")

    def _refuse_partial(self, table: str | None, name: str) -> None:
        """0A000 for a column that a table may have in Postgres and has not here."""
        for source in self.sources:
            if source.partial and table in (None, source.alias):
                raise unsupported(name, f"this column of {source.alias}")

    def _missing(self, table: str) -> EngineError:
        """42P01 for a table that is not in the query, or may not be seen from here."""
        scope: Scope | None = self
        while scope is not None:
            if any(source.alias == table for source in scope.beside):
                return EngineError(
                    "42P01",
                    f'invalid reference to FROM-clause entry for table "{table}"',
                    detail=f'There is an entry for table "{table}", but it cannot be referenced '
                    "from this part of the query.",
                    hint="To reference that table, you must mark this subquery with LATERAL.",
                )
            scope = scope.parent
        return EngineError("42P01", f'missing FROM-clause entry for table "{table}"')

    def check_schema(self, schema: str, table: str) -> None:
        """42P01 for ``schema.table.column`` where that table is not in the query."""
        source = self._source(table)
        if source is None or source.relation != table or schema != "absurd":
            raise EngineError("42P01", f'missing FROM-clause entry for table "{table}"')

    def _source(self, table: str) -> Source | None:
        scope: Scope | None = self
        while scope is not None:
            for source in scope.sources:
                if source.alias == table:
                    return source
            scope = scope.parent
        return None

    def _find_here(self, table: str | None, name: str, depth: int) -> Expr | None:
        hits = [
            (index, position, column)
            for index, source in enumerate(self.sources)
            if table is None or source.alias == table
            for position, column in enumerate(source.columns)
            if column.name == name
        ]
        if not hits:
            return None
        if len(hits) > 1 and table is None:
            merged = self.merged.get(name)
            if merged is None or not {(hit[0], hit[1]) for hit in hits} <= set(merged):
                raise EngineError("42702", f'column reference "{name}" is ambiguous')
            return Expr(hits[0][2].kind, _merged_value(merged), name)
        index, position, found = hits[0]
        value = column_value(index, position, depth)
        return Expr(found.kind, value, name, modifier=found.modifier)


def column_value(index: int, position: int, depth: int = 0) -> Evaluate:
    """How a column of the current row is read, `depth` queries further out."""
    if depth == 0:

        def here(env: Env) -> Any:
            row = env.rows[index]
            return None if row is None else row[position]

        return here

    def outside(env: Env) -> Any:
        for _ in range(depth):
            assert env.outer is not None
            env = env.outer
        row = env.rows[index]
        return None if row is None else row[position]

    return outside


def _merged_value(places: list[tuple[int, int]]) -> Evaluate:
    def value(env: Env) -> Any:
        for index, position in places:
            row = env.rows[index]
            if row is not None and row[position] is not None:
                return row[position]
        return None

    return value
