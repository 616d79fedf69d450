"""``update``, ``delete`` and ``returning`` on Absurd's tables; ``insert`` is beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlglot import exp

from absurd_contimg.backends.memory import catalog
from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.sql.dialect import sql_of
from absurd_contimg.backends.memory.sql.expressions import Compiler, name_of
from absurd_contimg.backends.memory.sql.insert import compile_insert
from absurd_contimg.backends.memory.sql.joins import Joiner
from absurd_contimg.backends.memory.sql.queries import Planner, Query, part
from absurd_contimg.backends.memory.sql.scope import (
    ColumnInfo,
    Env,
    Expr,
    Node,
    Row,
    Scope,
    Source,
)
from absurd_contimg.backends.memory.sql.sources import (
    SourceCompiler,
    rows_of,
)
from absurd_contimg.backends.memory.sql.targets import (
    Target,
    assigned,
    changed_row,
    default_of,
    is_default,
    target_of,
)


class Modifier:
    """Compiles data-modifying statements."""

    def __init__(self) -> None:
        self.planner = Planner(self.compile)

    def compile(self, node: Node, scope: Scope) -> Query:
        """The statement's ``returning`` columns, and what runs it and gives their rows.

        Without ``returning`` the rows are empty tuples, so that they can be counted.
        """
        if isinstance(node, exp.Insert):
            return compile_insert(self, node, scope)
        if isinstance(node, exp.Update):
            return self._update(node, scope)
        if isinstance(node, exp.Delete):
            return self._delete(node, scope)
        raise unsupported(sql_of(node))

    # -- shared -----------------------------------------------------------------------------

    def _matching(
        self, node: Node, target: Target, scope: Scope, others: list[Node]
    ) -> Callable[[Env], list[Env]]:
        """Target rows (source 0) with the rows of the other tables, where the condition holds."""
        scope.sources.append(
            Source(
                target.alias,
                target.columns,
                lambda env: rows_of(env.tx, catalog.relation(env.tx, target.name)),
                relation=target.name,
            )
        )
        joiner = Joiner(SourceCompiler(self.planner, scope), self.planner.query, scope)
        steps = [joiner._join(exp.Join(this=other.copy(), kind="CROSS")) for other in others]
        where = node.args.get("where")
        condition = None
        if where is not None:
            condition = (
                Compiler(scope, self.planner.query, clause="WHERE")
                .boolean(where.this, "WHERE")
                .value
            )

        def match(env: Env) -> list[Env]:
            target.table(env.tx)
            combined: list[list[Row | None]] = [[row] for row in scope.sources[0].fetch(env)]
            for step in steps:
                combined = step(env, combined)
            envs = []
            for rows in combined:
                here = env.child()
                here.outer, here.rows = env.outer, rows
                if condition is None or condition(here) is True:
                    envs.append(here)
            return envs

        return match

    def returning(self, node: Node, scope: Scope) -> tuple[list[ColumnInfo], Callable[[Env], Row]]:
        """The columns of ``returning``, and their values for a row; none without it."""
        clause = node.args.get("returning")
        if clause is None:
            return [], lambda _: ()
        for column in clause.find_all(exp.Column):
            table = name_of(column.args["table"]) if column.table else ""
            known = {source.alias for source in scope.sources}
            if table in ("old", "new") and table not in known:
                raise unsupported(sql_of(column), "old and new rows in RETURNING")
        select = exp.Select(expressions=[item.copy() for item in clause.expressions])
        star = [
            (index, position)
            for index, source in enumerate(scope.sources)
            for position in range(len(source.columns))
        ]
        outputs = self.planner._outputs(select, Compiler(scope, self.planner.query), star)
        values = [out.expr.value for out in outputs]
        columns = [ColumnInfo(out.name, out.expr.kind, out.expr.modifier) for out in outputs]
        return columns, lambda env: tuple([value(env) for value in values])

    # -- the statements ---------------------------------------------------------------------

    def _delete(self, node: exp.Delete, scope: Scope) -> Query:
        target = target_of(node.this)
        match = self._matching(node, target, scope, list(node.args.get("using") or []))
        columns, project = self.returning(node, scope)

        def rows(env: Env) -> list[Row]:
            table = target.table(env.tx)
            found: list[Row] = []
            gone: set[Any] = set()
            for here in match(env):
                row = here.rows[0]
                assert row is not None
                key = table.key_of(row)
                if key not in gone:
                    gone.add(key)
                    table.lock(env.tx, key)
                    table.delete(env.tx, key)
                    found.append(project(here))
            return found

        return columns, rows

    def _update(self, node: exp.Update, scope: Scope) -> Query:
        target = target_of(node.this)
        clause = part(node, "from")
        others = [] if clause is None else [clause.this]
        match = self._matching(node, target, scope, others)
        changes = self.assignments(node.expressions, target, scope)
        columns, project = self.returning(node, scope)

        def rows(env: Env) -> list[Row]:
            table = target.table(env.tx)
            found: list[Row] = []
            changed: set[Any] = set()
            for here in match(env):
                old = here.rows[0]
                assert old is not None
                key = table.key_of(old)
                if key in changed:
                    continue
                changed.add(key)
                here.rows[0] = changed_row(env, here, target, table, old, changes)
                found.append(project(here))
            return found

        return columns, rows

    def assignments(
        self, nodes: list[Node], target: Target, scope: Scope
    ) -> list[tuple[int, Callable[[Env], Any]]]:
        """What ``set`` puts where."""
        compiler = Compiler(scope, self.planner.query)
        found: list[tuple[int, Callable[[Env], Any]]] = []
        for node in nodes:
            if not isinstance(node, exp.EQ):
                raise unsupported(sql_of(node), "this assignment")
            for column, value in self._pairs(node, compiler):
                name = _assigned_name(column, target, node)
                position = target.position(name)
                kind = target.columns[position].kind
                if isinstance(value, Expr):
                    found.append((position, assigned(value, kind, name).value))
                elif is_default(value):
                    found.append((position, default_of(target, position)))
                else:
                    found.append((position, assigned(compiler.compile(value), kind, name).value))
                if sum(place == position for place, _ in found) > 1:
                    raise EngineError("42601", f'multiple assignments to same column "{name}"')
        return found

    def _pairs(self, node: exp.EQ, compiler: Compiler) -> list[tuple[Node, Node | Expr]]:
        """The columns of one assignment, each with its value."""
        columns, right = node.this, node.expression
        if not isinstance(columns, exp.Tuple):
            if isinstance(columns, exp.Paren):
                raise _no_row()
            return [(columns, right)]
        values: list[Node | Expr]
        if isinstance(right, exp.Subquery):
            values = list(self._values_of_query(right, compiler))
        elif isinstance(right, exp.Tuple) or str(right.this).lower() == "row":
            values = list(right.expressions)
        else:
            raise _no_row()
        if len(values) != len(columns.expressions):
            raise EngineError("42601", "number of columns does not match number of values")
        return list(zip(columns.expressions, values, strict=True))

    def _values_of_query(self, node: exp.Subquery, compiler: Compiler) -> list[Expr]:
        """The columns of a query's only row; nulls if it has none, 21000 if it has more."""
        columns, rows = self.planner.query(node, compiler.scope.child())

        def only(env: Env) -> Row:
            found = rows(env.child())
            if len(found) > 1:
                raise EngineError(
                    "21000", "more than one row returned by a subquery used as an expression"
                )
            return found[0] if found else (None,) * len(columns)

        return [
            Expr(column.kind, lambda env, index=index: only(env)[index], column.name)  # type: ignore[misc]
            for index, column in enumerate(columns)
        ]


def _no_row() -> EngineError:
    return EngineError(
        "0A000",
        "source for a multiple-column UPDATE item must be a sub-SELECT or ROW() expression",
    )


def _assigned_name(column: Node, target: Target, node: Node) -> str:
    """The column that is set; 42703 for a name with its table."""
    if not isinstance(column, exp.Column):
        raise unsupported(sql_of(node), "this assignment")
    if not column.table:
        return name_of(column.this)
    qualifier, name = name_of(column.args["table"]), name_of(column.this)
    if any(info.name == qualifier for info in target.columns):
        kind = target.columns[target.position(qualifier)].kind
        raise EngineError(
            "42804",
            f'cannot assign to field "{name}" of column "{qualifier}" because its type '
            f"{kind.shown} is not a composite type",
        )
    raise EngineError(
        "42703",
        f'column "{qualifier}" of relation "{target.name}" does not exist',
        hint="SET target columns cannot be qualified with the relation name."
        if qualifier == target.alias
        else None,
    )
