"""Joins: how the rows of a ``from`` are combined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlglot import exp

from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.sql.dialect import sql_of
from absurd_contimg.backends.memory.sql.expressions import Compiler, Subquery, name_of
from absurd_contimg.backends.memory.sql.scope import (
    Env,
    Evaluate,
    Node,
    Row,
    Scope,
    Source,
)
from absurd_contimg.backends.memory.sql.sources import SourceCompiler

Combine = Callable[[Env], list[Env]]


class Joiner:
    """Compiles a ``from`` clause into what gives one environment for each combination of rows."""

    def __init__(self, compiler: SourceCompiler, subquery: Subquery, scope: Scope) -> None:
        self.compiler = compiler
        self.subquery = subquery
        self.scope = scope
        self.star: list[tuple[int, int]] = []
        """The columns of ``*`` by source and position; of those that ``using`` has merged the
        left one."""
        self._begun = (0, 0)
        """Where in the sources and in `star` that begins what the last comma begins."""

    def compile(self, clause: exp.From | None, joins: list[exp.Join]) -> Combine:
        """The whole clause."""
        if clause is None:
            return _nothing
        steps: list[Callable[[Env, list[list[Row | None]]], list[list[Row | None]]]] = []
        first = self._add(clause.this)
        for join in [*(clause.this.args.get("joins") or []), *joins]:
            steps.append(self._join(join))

        def combine(env: Env) -> list[Env]:
            env.rows = []
            combined: list[list[Row | None]] = [[row] for row in first.fetch(env)]
            for step in steps:
                combined = step(env, combined)
            return [_with_rows(env, rows) for rows in combined]

        return combine

    def _add(self, node: Node) -> Source:
        source = self.compiler.compile(node)
        if source.alias and any(other.alias == source.alias for other in self.scope.sources):
            raise EngineError("42712", f'table name "{source.alias}" specified more than once')
        self.scope.sources.append(source)
        index = len(self.scope.sources) - 1
        self.star += [(index, position) for position in range(len(source.columns))]
        return source

    def _join(
        self, join: exp.Join
    ) -> Callable[[Env, list[list[Row | None]]], list[list[Row | None]]]:
        side = str(join.args.get("side") or "").upper()
        kind = str(join.args.get("kind") or "").upper()
        if kind in ("SEMI", "ANTI"):
            raise unsupported(sql_of(join), "this join")
        index = len(self.scope.sources)
        if not any(join.args.get(part) for part in ("side", "kind", "method", "on", "using")):
            self._begun = (index, len(self.star))
        elif self._begun[0] and side in ("RIGHT", "FULL"):
            raise unsupported(sql_of(join), "such a join after a comma")
        source = self._add(join.this)
        condition = self._condition(join, index)
        keep_left, keep_right = side in ("LEFT", "FULL"), side in ("RIGHT", "FULL")
        if keep_right and source.lateral:
            self._check_alone(join)
        each = source.lateral and not keep_right
        keys = None if each else self._hash_keys(join, index)

        def step(env: Env, combined: list[list[Row | None]]) -> list[list[Row | None]]:
            fixed = None if each else source.fetch(env)
            lookup = _lookup(fixed, keys, env, index) if keys and fixed is not None else None
            matched_right: set[int] = set()
            found: list[list[Row | None]] = []
            for rows in combined:
                here = _with_rows(env, [*rows, None])
                candidates: Any = fixed
                if candidates is None:
                    candidates = source.fetch(_with_rows(env, list(rows)))
                elif lookup is not None and keys is not None:
                    candidates = lookup.get(keys[0](here), ())
                matched = False
                for row in candidates:
                    here.rows[index] = row
                    if condition is None or condition(here) is True:
                        matched = True
                        matched_right.add(id(row))
                        found.append([*rows, row])
                if not matched and keep_left:
                    found.append([*rows, None])
            if keep_right and fixed is not None:
                blank: list[Row | None] = [None] * index
                found += [[*blank, row] for row in fixed if id(row) not in matched_right]
            return found

        return step

    @staticmethod
    def _check_alone(join: exp.Join) -> None:
        """Refuse what may not refer to the rows on its left, as their side may be missing."""
        refers = not isinstance(join.this, exp.Subquery) and join.this.find(exp.Column) is not None
        if isinstance(join.this, exp.Lateral) or refers:
            raise unsupported(sql_of(join), "lateral references in this join")

    def _condition(self, join: exp.Join, index: int) -> Evaluate | None:
        on, using = join.args.get("on"), join.args.get("using")
        if on is not None:
            return Compiler(self.scope, self.subquery).boolean(on, "JOIN/ON").value
        names = [name_of(column) for column in using or []]
        if str(join.args.get("method") or "").upper() == "NATURAL":
            names = self._common_names(index)
        if not names:
            return None
        tests = [self._merge(name, index) for name in names]
        begun = self._begun[1]
        self.star[begun:begun] = [left for left, _ in tests]

        def condition(env: Env) -> bool:
            return all(_same(env, left, right) for left, right in tests)

        return condition

    def _common_names(self, index: int) -> list[str]:
        """Of ``natural``: the columns that both sides have, in the left one's order."""
        here = {column.name for column in self.scope.sources[index].columns}
        sources = self.scope.sources[self._begun[0] : index]
        before = [column.name for source in sources for column in source.columns]
        return [name for name in dict.fromkeys(before) if name in here]

    def _merge(self, name: str, index: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """``using``: the two columns of this name, from now on one."""
        places = [
            (number, position)
            for number, source in enumerate(self.scope.sources)
            for position, column in enumerate(source.columns)
            if column.name == name
        ]
        left = [place for place in places if self._begun[0] <= place[0] < index]
        right = [place for place in places if place[0] == index]
        if not left or not right:
            side = "left" if not left else "right"
            raise EngineError(
                "42703", f'column "{name}" specified in USING clause does not exist in {side} table'
            )
        self.scope.merged[name] = [*left, *right]
        self.star = [place for place in self.star if place not in (left[0], right[0])]
        return left[0], right[0]

    def _hash_keys(self, join: exp.Join, index: int) -> tuple[Evaluate, Evaluate] | None:
        """For ``on a.x = b.y``: what gives the key on the left, and on the right."""
        on = join.args.get("on")
        if not isinstance(on, exp.EQ) or not (
            isinstance(on.left, exp.Column) and isinstance(on.right, exp.Column)
        ):
            return None
        compiler = Compiler(self.scope, self.subquery)
        alias = self.scope.sources[index].alias
        sides = [on.left, on.right]
        mine = [name_of(side.args["table"]) == alias if side.table else None for side in sides]
        if mine not in ([True, False], [False, True]):
            return None
        left, right = (compiler.compile(sides[mine.index(flag)]) for flag in (False, True))
        if left.kind is not right.kind or left.kind.name not in ("uuid", "text", "int4"):
            return None
        return left.value, right.value


def _lookup(
    rows: list[Row], keys: tuple[Evaluate, Evaluate], env: Env, index: int
) -> dict[Any, list[Row]]:
    found: dict[Any, list[Row]] = {}
    here = _with_rows(env, [None] * (index + 1))
    for row in rows:
        here.rows[index] = row
        key = keys[1](here)
        if key is not None:
            found.setdefault(key, []).append(row)
    return found


def _same(env: Env, left: tuple[int, int], right: tuple[int, int]) -> bool:
    one, other = env.rows[left[0]], env.rows[right[0]]
    if one is None or other is None:
        return False
    a, b = one[left[1]], other[right[1]]
    return a is not None and b is not None and bool(a == b)


def _nothing(env: Env) -> list[Env]:
    return [env]


def _with_rows(env: Env, rows: list[Row | None]) -> Env:
    made = Env(env.tx, env.params)
    made.outer, made.ctes, made.rows = env.outer, env.ctes, rows
    return made
