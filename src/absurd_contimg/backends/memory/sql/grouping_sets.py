"""The groups of a query: by which keys, and with ``rollup`` and its like by which sets of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any, NamedTuple

from sqlglot import exp

from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.sql.aggregate_parts import Aggregate
from absurd_contimg.backends.memory.sql.comparison import row_key
from absurd_contimg.backends.memory.sql.dialect import sql_of
from absurd_contimg.backends.memory.sql.outputs import place_of
from absurd_contimg.backends.memory.sql.scope import Env, Expr, Node, Row, Scope
from absurd_contimg.backends.memory.sql.types import INT4

_SETS_MAX = 4096
_CUBE_MAX = 12
_ARGUMENTS_MAX = 31
KeySet = tuple[int, ...]
"""The keys that one pass groups by, by their numbers."""


class Key(NamedTuple):
    """Something that is grouped by: what it is, its text, and its place if it is a column."""

    expr: Expr
    text: str
    place: tuple[int, int] | None
    position: int | None
    """Which output names it, if one does."""


def columns_of(keys: list[Key]) -> set[tuple[int, int]]:
    """The keys that are columns, by their places."""
    return {key.place for key in keys if key.place is not None}


class Grouping:
    """The keys of a ``group by``, and the sets of them that it groups by: one of all, mostly."""

    def __init__(self, scope: Scope) -> None:
        self.keys: list[Key] = []
        self.sets: list[KeySet] = []
        self.refusal: EngineError | None = None
        """What is wrong with a ``grouping``; Postgres finds it after everything else."""
        self._scope = scope

    def number_of(self, node: Node) -> int | None:
        """Which key the expression is; None if it is none."""
        inner = without_brackets(node)
        text = sql_of(inner)
        place = place_of(inner, self._scope) if isinstance(inner, exp.Column) else None
        for number, key in enumerate(self.keys):
            if key.text == text or (place is not None and key.place == place):
                return number
        return None

    def value_of(self, node: Node) -> Expr | None:
        """How the key's value is read in a group: null where its set leaves it out."""
        number = self.number_of(node) if self.keys and not is_constant(node) else None
        return None if number is None else self._read(number)

    def output(self, position: int) -> Expr | None:
        """The same for an output that a key names."""
        for number, key in enumerate(self.keys):
            if key.position == position:
                return self._read(number)
        return None

    def _read(self, number: int) -> Expr:
        expr = self.keys[number].expr
        return expr._replace(value=lambda env: env.grouped[number])

    def mask_of(self, nodes: list[Node]) -> Expr:
        """``grouping(...)``: a bit for each argument, set where the group is not by it."""
        if not self.sets:  # they are read from the select list, which is compiled for that first
            return Expr(INT4, lambda _: 0, "grouping")
        if len(nodes) > _ARGUMENTS_MAX:
            raise EngineError("54023", "GROUPING must have fewer than 32 arguments")
        numbers = [None if _is_text(node) else self.number_of(node) for node in nodes]
        if None in numbers:
            self.refusal = not_grouped(nodes, self._scope)

        def value(env: Env) -> int:
            mask = 0
            for number in numbers:
                mask = mask << 1 | (number not in env.key_set)
            return mask

        return Expr(INT4, value, "grouping")

    @property
    def shared(self) -> set[tuple[int, int]]:
        """The columns that every group is by."""
        shared = set(range(len(self.keys))).intersection(*self.sets)
        return columns_of([self.keys[number] for number in shared])

    def rows(
        self, envs: list[Env], aggregates: list[Aggregate], outer: Env, width: int
    ) -> list[Env]:
        """One environment a group: its first row, its keys, and its aggregates."""
        found: list[Env] = []
        for chosen in self.sets:
            kinds = [self.keys[number].expr.kind for number in chosen]
            groups: dict[Any, tuple[Row, list[Env]]] = {} if chosen else {(): ((), [])}
            for env in envs:
                row = tuple([self.keys[number].expr.value(env) for number in chosen])
                groups.setdefault(row_key(kinds, row), (row, []))[1].append(env)
            for row, members in groups.values():
                env = Env(outer.tx, outer.params)
                env.outer, env.ctes, env.key_set = outer.outer, outer.ctes, frozenset(chosen)
                values = dict(zip(chosen, row, strict=True))
                env.grouped = tuple([values.get(number) for number in range(len(self.keys))])
                env.rows = list(members[0].rows) if members else [None] * width
                self._forget_others(env)
                env.aggregates = [aggregate.value(members) for aggregate in aggregates]
                found.append(env)
        return found

    def _forget_others(self, env: Env) -> None:
        """Make null what is grouped by elsewhere: a subquery reads it from the row."""
        for number, key in enumerate(self.keys):
            if key.place is None or number in env.key_set:
                continue
            source, position = key.place
            row = env.rows[source]
            if row is not None:
                env.rows[source] = (*row[:position], None, *row[position + 1 :])


def is_constant(node: Node) -> bool:
    """Whether Postgres' parser makes a constant of it: within an expression it is never a key."""
    node = without_brackets(node)
    if isinstance(node, exp.Cast):
        return _is_text(node.this) or isinstance(without_brackets(node.this), exp.Null)
    if isinstance(node, exp.Neg):
        node = without_brackets(node.this)
    return isinstance(node, exp.Literal | exp.Boolean | exp.Null | exp.Interval)


def _is_text(node: Node) -> bool:
    """A literal whose type Postgres finds out in the key, and not here."""
    return isinstance(without_brackets(node), exp.Literal) and without_brackets(node).is_string


def without_brackets(node: Node) -> Node:
    """The expression inside brackets."""
    while isinstance(node, exp.Paren):
        node = node.this
    return node


def not_grouped(nodes: list[Node], scope: Scope) -> EngineError:
    """42803 for ``grouping`` of something else; 0A000 for keys of a query further out."""
    parts = [
        part for node in nodes for part in node.walk(prune=lambda one: isinstance(one, exp.Query))
    ]
    if any(isinstance(part, exp.Column) and place_of(part, scope) is None for part in parts):
        return unsupported(", ".join(map(sql_of, nodes)), "grouping of what is not in this query")
    return EngineError(
        "42803",
        "arguments to GROUPING must be grouping expressions of the associated query level",
    )


def has_sets(node: exp.Select) -> bool:
    """Whether a ``select`` groups by more than a plain list, or asks how it groups."""
    clause = node.args.get("group")
    if clause is None:
        return False
    several = (exp.Rollup, exp.Cube, exp.GroupingSets, exp.Tuple)
    return any(isinstance(item, several) for item in clause.expressions) or any(
        str(call.this).lower() == "grouping" for call in node.find_all(exp.Anonymous)
    )


def expand(clause: exp.Group, number_of: Callable[[Node], int]) -> list[KeySet]:
    """The sets of a ``group by``: every combination of one set of each of its items."""
    found: list[KeySet] = [()]
    for item in clause.expressions:
        sets = _sets(item, number_of)
        if len(found) * len(sets) > _SETS_MAX:
            raise EngineError("54001", f"too many grouping sets present (maximum {_SETS_MAX})")
        found = [_joined(one, other) for one in found for other in sets]
    if clause.args.get("all") is False:  # group by distinct
        return list({frozenset(one): one for one in reversed(found)}.values())
    return found


def _sets(item: Node, number_of: Callable[[Node], int]) -> list[KeySet]:
    if isinstance(item, exp.GroupingSets):
        return [one for inner in item.expressions for one in _sets(inner, number_of)]
    if isinstance(item, exp.Rollup):
        members = [_members(inner, number_of) for inner in item.expressions]
        return [_joined(*members[:length]) for length in range(len(members), -1, -1)]
    if isinstance(item, exp.Cube):
        members = [_members(inner, number_of) for inner in item.expressions]
        if len(members) > _CUBE_MAX:
            raise EngineError("54011", f"CUBE is limited to {_CUBE_MAX} elements")
        lengths = range(len(members), -1, -1)
        return [_joined(*some) for length in lengths for some in combinations(members, length)]
    return [_members(item, number_of)]


def _members(item: Node, number_of: Callable[[Node], int]) -> KeySet:
    nodes = item.expressions if isinstance(item, exp.Tuple) else [item]
    return _joined(tuple([number_of(node) for node in nodes]))


def _joined(*sets: KeySet) -> KeySet:
    return tuple(dict.fromkeys(number for one in sets for number in one))
