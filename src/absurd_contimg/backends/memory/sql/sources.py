"""The ``from`` clause: tables, procedures, subqueries, and how their rows are joined."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlglot import exp

from absurd_contimg.backends.memory import catalog, schema
from absurd_contimg.backends.memory.errors import EngineError, Unsupported
from absurd_contimg.backends.memory.procedures.partitions import partition_rows
from absurd_contimg.backends.memory.sql import calls
from absurd_contimg.backends.memory.sql.dialect import name_of
from absurd_contimg.backends.memory.sql.expressions import Compiler, Subquery
from absurd_contimg.backends.memory.sql.scope import Env, Evaluate, Node, Place, Scope, Source
from absurd_contimg.backends.memory.transaction import RowLock, TableLock
from absurd_contimg.backends.memory.values import types
from absurd_contimg.backends.memory.values.types import ColumnInfo, Row

Rows = list[Row | None]
"""The current row of each source."""
Pair = tuple[Place, Place]
"""Two columns that have to be equal, the second of the source that is joined."""
_HASHED = (types.BOOL, types.TEXT, types.TIMESTAMPTZ, types.UUID)
"""Types whose equal values are equal in Python."""


def letter_of(table: str) -> str | None:
    """Which kind of table a name means; None for a name that Absurd never gives."""
    letter, _, rest = table.partition("_")
    return table if table == "queues" else letter if rest and letter in schema.TABLES else None


def table_source(node: Node, alias: str | None, scope: Scope, mode: TableLock) -> Source:
    """A table of the schema ``absurd``, or a partition of one; 42P01 if there is none such."""
    database, name = node.args.get("db"), name_of(node.this)
    shown = name if database is None else f"{name_of(database)}.{name}"
    if shown.startswith(("pg_", "information_schema.")):
        raise Unsupported(f"system catalogues ({shown})")
    letter = letter_of(name)
    if database is None or name_of(database) != "absurd" or letter is None:
        raise EngineError("42P01", f'relation "{shown}" does not exist')
    scope.plan.before(lambda env: catalog.relation(env.tx, name, mode))

    def fetch(env: Env) -> list[Row]:
        relation = catalog.relation(env.tx, name, mode)
        if relation.partition is not None:
            return partition_rows(env.tx, relation.table, relation.partition)
        return list(relation.table.scan(env.tx))

    table = schema.TABLES[letter]
    columns = [ColumnInfo(column.name, types.BY_NAME[column.type_name]) for column in table.columns]
    return Source(alias or name, tuple(columns), fetch, name, table.primary_key)


@dataclass(slots=True)
class FromClause:
    """Compiles a ``from`` clause into what gives the combinations of its sources' rows."""

    scope: Scope
    subquery: Subquery
    mode: TableLock = TableLock.ACCESS_SHARE
    star: list[Place] = field(default_factory=list)
    """The columns of ``*``."""
    _segment: int = 0
    """Where in `star` that begins what the last comma begins."""
    _joins: list[tuple[Source, bool, list[Evaluate], list[Pair]]] = field(default_factory=list)
    """Each source with whether it is left joined, its conditions, its pairs."""

    def add(self, node: Node, joins: list[exp.Join]) -> None:
        """The first entry of the clause, and those that are joined to it."""
        for join in [exp.Join(this=node), *(node.args.get("joins") or []), *joins]:
            side, kind = (str(join.args.get(name) or "").upper() for name in ("side", "kind"))
            if side not in ("", "LEFT") or kind not in ("", "INNER", "OUTER", "CROSS"):
                raise Unsupported(f"{side or kind} JOIN")
            if not (side or kind or join.args.get("on") or join.args.get("using")):
                self._segment = len(self.star)
            self.add_source(self._source(join.this), join, is_left=side == "LEFT")

    def add_source(self, source: Source, join: Node, *, is_left: bool = False) -> None:
        """One more source, with the ``on`` or ``using`` of its join."""
        if any(source.alias == other.alias for other in self.scope.sources if source.alias):
            raise EngineError("42712", f'table name "{source.alias}" specified more than once')
        index = len(self.scope.sources)
        using = [name_of(item) for item in join.args.get("using") or []]
        pairs = [self._merged(name, source, index) for name in using]
        self.scope.sources.append(source)
        first, hidden = [pair[0] for pair in pairs], {pair[1] for pair in pairs}
        self.scope.hidden |= hidden
        before = [place for place in self.star[self._segment :] if place not in first]
        after = [(index, n) for n in range(len(source.columns)) if (index, n) not in hidden]
        self.star[self._segment :] = [*first, *before, *after]
        on, tests = join.args.get("on"), list[Evaluate]()
        compiler = Compiler(self.scope, self.subquery, clause="JOIN conditions")
        for node in [] if on is None else _conjuncts(on):
            pair = self._pair(node, index)
            if pair is None:
                tests.append(compiler.condition(node, "JOIN/ON"))
            else:
                pairs.append(pair)
        self._joins.append((source, is_left, tests, pairs))

    def _merged(self, name: str, source: Source, index: int) -> Pair:
        """The left and the right column of one name in ``using``, which is the left one after."""
        left = self.scope.place_of(None, name)
        position = next((n for n, each in enumerate(source.columns) if each.name == name), None)
        if left is None or position is None:
            raise EngineError(
                "42703",
                f'column "{name}" specified in USING clause does not exist in '
                f"{'left' if left is None else 'right'} table",
            )
        if not _is_hashed(self._kind(left), source.columns[position].kind):
            raise Unsupported("USING with columns of these types")
        return left, (index, position)

    def _kind(self, place: Place) -> types.SqlType:
        return self.scope.sources[place[0]].columns[place[1]].kind

    def _pair(self, node: Node, index: int) -> Pair | None:
        """The columns that a condition compares by ``=``, the second of source `index`."""
        if not isinstance(node, exp.EQ):
            return None
        places = []
        for side in (node.left, node.right):
            if not isinstance(side, exp.Column):
                return None
            table = name_of(side.args["table"]) if side.table else None
            place = self.scope.place_of(table, name_of(side.this))
            if place is None:
                return None
            places.append(place)
        left, right = sorted(places)
        fits = left[0] < right[0] == index and _is_hashed(self._kind(left), self._kind(right))
        return (left, right) if fits else None

    def matching(self, clause: exp.Where | None) -> Callable[[Env], list[Env]]:
        """The rows where the condition holds; its equalities of columns serve inner joins too."""
        where, condition, steps = None if clause is None else clause.this, None, []
        if where is not None:
            compiler = Compiler(self.scope, self.subquery, clause="WHERE")
            condition = compiler.condition(where, "WHERE")
        for index, (source, is_left, tests, pairs) in enumerate(self._joins):
            if where is not None and not is_left:
                more = [self._pair(node, index) for node in _conjuncts(where)]
                pairs += [pair for pair in more if pair is not None]
            steps.append(_step(source, is_left, tests, pairs))

        first = self._joins[0][0] if len(self._joins) == 1 and condition is None else None
        if first is not None:  # the usual case, which every call of a procedure is
            return lambda env: [env.with_rows((row,)) for row in first.fetch(env)]

        def match(env: Env) -> list[Env]:
            combined: list[Rows] = [[]]
            for step in steps:
                combined = step(env, combined)
            envs = [env.with_rows(rows) for rows in combined]
            return [each for each in envs if condition is None or condition(each) is True]

        return match

    # -- sources ----------------------------------------------------------------------------

    def _source(self, node: Node) -> Source:
        written = node.args.get("alias")
        alias = None if written is None or written.this is None else name_of(written.this)
        if isinstance(node, exp.Subquery | exp.Values):
            source = self._query(node, alias)
        elif isinstance(node, exp.Table):
            source = self._table(node, alias)
        else:
            raise Unsupported("this in a FROM clause")
        names = [] if written is None else [name_of(item) for item in written.columns]
        source.columns = renamed(f'table "{source.alias}"', source.columns, names)
        return source

    def _query(self, node: Node, alias: str | None) -> Source:
        inner = node.this if isinstance(node, exp.Subquery) else node
        if isinstance(inner, exp.Table):
            raise Unsupported("joins in brackets")
        scope = Scope(self.scope.plan, self.scope.parent, tables=self.scope.tables)
        query = self.subquery(inner, scope)
        self.scope.correlated = self.scope.correlated or scope.correlated
        return Source(alias or "", query.columns, lambda env: query.rows(env.with_rows(())))

    def _table(self, node: exp.Table, alias: str | None) -> Source:
        inner, database = node.this, node.args.get("db")
        if not isinstance(inner, exp.Identifier):
            if database is None:
                raise Unsupported("functions other than procedures in FROM")
            compiler = Compiler(self.scope, self.subquery, clause="functions in FROM")
            return calls.as_source(calls.procedure_call(database, inner, compiler.compile), alias)
        query = self.scope.tables.get(name_of(inner)) if database is None else None
        if query is not None:
            return Source(alias or name_of(inner), query.columns, query.rows)
        return table_source(node, alias, self.scope, self.mode)


def renamed(
    shown: str, columns: tuple[ColumnInfo, ...], names: list[str]
) -> tuple[ColumnInfo, ...]:
    """The columns with the first ones' new names."""
    if len(names) > len(columns):
        raise EngineError(
            "42P10",
            f"{shown} has {len(columns)} columns available but {len(names)} columns specified",
        )
    first = [column._replace(name=name) for name, column in zip(names, columns, strict=False)]
    return (*first, *columns[len(first) :])


def _is_hashed(left: types.SqlType, right: types.SqlType) -> bool:
    return (left is right and left in _HASHED) or (
        left in types.INTEGERS and right in types.INTEGERS
    )


def _conjuncts(node: Node) -> Iterator[Node]:
    """The conditions that a condition joins with ``and``."""
    if isinstance(node, exp.And | exp.Paren):
        for inner in (node.left, node.right) if isinstance(node, exp.And) else (node.this,):
            yield from _conjuncts(inner)
    else:
        yield node


def _step(
    source: Source, is_left: bool, tests: list[Evaluate], pairs: list[Pair]
) -> Callable[[Env, list[Rows]], list[Rows]]:
    """Join one source to the rows so far, by hashing where columns have to be equal."""
    left = [pair[0] for pair in pairs]
    positions = [pair[1][1] for pair in pairs]

    def step(env: Env, combined: list[Rows]) -> list[Rows]:
        lookup = None if source.lateral else _lookup(source.fetch(env), positions)
        joined: list[Rows] = []
        for rows in combined:
            table = lookup
            if table is None:
                table = _lookup(source.fetch(env.with_rows(rows)), positions)
            matched = [[*rows, row] for row in table.get(_key(rows, left), ())]
            for test in tests:
                matched = [each for each in matched if test(env.with_rows(each)) is True]
            joined += matched or ([[*rows, None]] if is_left else [])
        return joined

    return step


def _lookup(rows: list[Row], positions: list[int]) -> dict[Any, list[Row]]:
    """The rows by the columns that have to be equal; all under one key where there are none."""
    if not positions:
        return {(): rows}
    rows_by_key: dict[Any, list[Row]] = {}
    for row in rows:
        rows_by_key.setdefault(tuple([row[position] for position in positions]), []).append(row)
    return {key: members for key, members in rows_by_key.items() if None not in key}


def _key(rows: Rows, places: list[Place]) -> tuple[Any, ...]:
    """The values of columns; nulls find nothing."""
    return tuple([None if (row := rows[index]) is None else row[at] for index, at in places])


# -- for update ---------------------------------------------------------------------------------

Pairs = list[tuple[Env, Row]]
"""Rows of a result, each with what it was made in."""


def row_locks(node: exp.Select, scope: Scope) -> Callable[[Pairs, int | None], Pairs] | None:
    """What locks the rows in their order, until there are as many as wanted."""
    clauses = node.args.get("locks")
    if not clauses:
        return None

    def lock(pairs: Pairs, most: int | None) -> Pairs:
        locked: Pairs = []
        for pair in pairs:
            if most is not None and len(locked) >= most:
                break
            if all(_lock_rows(pair[0], scope, clause) for clause in clauses):
                locked.append(pair)
        return locked

    return lock


def _lock_rows(env: Env, scope: Scope, clause: exp.Lock) -> bool:
    """Lock the current row of each table; False where ``skip locked`` skips it."""
    wait, key_only = clause.args.get("wait"), bool(clause.args.get("key"))
    mode = RowLock.KEY_SHARE if key_only else RowLock.SHARE
    if clause.args.get("update"):
        mode = RowLock.NO_KEY_UPDATE if key_only else RowLock.UPDATE
    for source, row in zip(scope.sources, env.rows, strict=True):
        if source.relation is None or row is None:
            continue
        table = catalog.relation(env.tx, source.relation, TableLock.ROW_SHARE).table
        key = table.key_of(row)
        if wait is None:
            table.lock(env.tx, key, mode)
        elif not table.try_lock(env.tx, key, mode):
            if wait is False:
                return False
            name = table.relation_of(row[table.partition_column])
            raise EngineError("55P03", f'could not obtain lock on row in relation "{name}"')
    return True
