"""Window functions: ``row_number``, ``rank``, ``lag``, ``sum(...) over (...)`` and their like."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlglot import exp

from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.sql import aggregates
from absurd_contimg.backends.memory.sql.coercion import common_type, converted
from absurd_contimg.backends.memory.sql.comparison import null_key, row_key
from absurd_contimg.backends.memory.sql.dialect import sql_of
from absurd_contimg.backends.memory.sql.registry import (
    polymorphic_unknown,
    undefined_function,
    whole,
)
from absurd_contimg.backends.memory.sql.scope import Env, Expr
from absurd_contimg.backends.memory.sql.types import FLOAT8, INT4, INT8, TEXT, UNKNOWN, SqlType
from absurd_contimg.backends.memory.sql.window_frames import Frame, Frames, compile_frame

if TYPE_CHECKING:
    from absurd_contimg.backends.memory.sql.expressions import Compiler

Spread = Callable[[list[Env], list[int]], list[Any]]
"""From a partition's rows in order, and the number of each row's peer group, to their values."""


class Window(NamedTuple):
    """A compiled window function; `fill` adds its value to every environment."""

    kind: SqlType
    fill: Callable[[list[Env]], None]
    name: str


def compile_window(node: exp.Window, compiler: Compiler) -> Window:
    """The window function with its partition, order and frame."""
    from absurd_contimg.backends.memory.sql.expressions import Compiler  # noqa: PLC0415

    node = _resolved(node, compiler)
    inner = Compiler(
        compiler.scope,
        compiler.subquery,
        compiler.found,
        clause="window functions",
        grouped=compiler.grouped,
    )
    keys = [inner.compile(item) for item in node.args.get("partition_by") or []]
    clause = node.args.get("order")
    order = [
        (inner.compile(item.this), bool(item.args.get("desc")), bool(item.args.get("nulls_first")))
        for item in ([] if clause is None else clause.expressions)
    ]
    frames = compile_frame(node, inner)
    kind, spread, name = _function(node.this, inner, frames)

    def fill(envs: list[Env]) -> None:
        groups: dict[Any, list[Env]] = {}
        for env in envs:
            key = row_key([expr.kind for expr in keys], tuple(expr.value(env) for expr in keys))
            groups.setdefault(key, []).append(env)
        for members in groups.values():
            for expr, down, first in reversed(order):
                members.sort(
                    key=lambda env, expr=expr, down=down, first=first: null_key(  # type: ignore[misc]
                        expr.kind, expr.value(env), nulls_first=first is not down
                    ),
                    reverse=down,
                )
            peers = _peers(members, [expr for expr, _, _ in order])
            for env, value in zip(members, spread(members, peers), strict=True):
                env.windows = [*env.windows, value]

    return Window(kind, fill, name)


def _resolved(node: exp.Window, compiler: Compiler) -> exp.Window:
    """The window with what it takes from one that the query has named."""
    name = node.args.get("alias")
    if name is None:
        return node
    shown = str(name.name) if name.args.get("quoted") else str(name.name).lower()
    named = compiler.scope.windows.get(shown)
    if named is None:
        raise EngineError("42704", f'window "{shown}" does not exist')
    named = _resolved(named, compiler)
    made = node.copy()
    for clause in ("partition_by", "order", "spec"):
        given, taken = node.args.get(clause), named.args.get(clause)
        if given and (taken or clause == "partition_by"):
            what = {"partition_by": "PARTITION", "order": "ORDER"}.get(clause)
            if what is None:
                raise unsupported(sql_of(node), "this frame of a named window")
            raise EngineError("42P20", f'cannot override {what} BY clause of window "{shown}"')
        if taken:
            made.set(clause, [item.copy() for item in taken] if isinstance(taken, list) else taken)
    return made


def _peers(members: list[Env], order: list[Expr]) -> list[int]:
    """The number of each row's group of rows that the order does not tell apart."""
    found: list[int] = []
    last: Any = None
    for env in members:
        key = row_key([expr.kind for expr in order], tuple(expr.value(env) for expr in order))
        if not found:
            found.append(0)
        else:
            found.append(found[-1] + (1 if key != last else 0))
        last = key
    return found


_NUMBERED = ("lag", "lead", "nth_value", "ntile")


def _function(call: Any, compiler: Compiler, frames: Frames) -> tuple[SqlType, Spread, str]:
    if aggregates.is_aggregate(call):
        made = aggregates.compile_aggregate(call, compiler)
        return made.kind, _framed(made.value, frames), made.name
    if not isinstance(call, exp.Anonymous):
        raise unsupported(sql_of(call), "this window function")
    name = str(call.this).lower()
    arguments = [compiler.compile(item) for item in call.expressions]
    plain = _RANKS.get(name)
    if plain is not None:
        if arguments and name != "row_number":
            raise EngineError("42809", f"WITHIN GROUP is required for ordered-set aggregate {name}")
        if arguments:
            raise undefined_function(name, [item.kind for item in arguments])
        return plain[0], plain[1], name
    number = 0 if name == "ntile" else 1
    if name in _NUMBERED and arguments[number:] and not whole(arguments[number].kind):
        raise undefined_function(name, [item.kind for item in arguments])
    if name in ("lag", "lead"):
        return _neighbour(name, arguments)
    if name in ("first_value", "last_value") and len(arguments) == 1:
        return _edge(name, arguments[0], frames)
    if name == "nth_value" and len(arguments) == 2:
        return _nth(arguments[0], converted(arguments[1], INT4), frames)
    if name == "ntile" and len(arguments) == 1:
        return INT4, _tiles(converted(arguments[0], INT4)), name
    if name in NAMES:
        raise undefined_function(name, [item.kind for item in arguments])
    raise EngineError(
        "42809",
        f"OVER specified, but {name} is not a window function nor an aggregate function",
    )


def _framed(value: Callable[[list[Env]], Any], frames: Frames) -> Spread:
    """An aggregate of each row's frame; rows with the same frame share it."""

    def spread(members: list[Env], peers: list[int]) -> list[Any]:
        known: dict[Frame, Any] = {}
        found: list[Any] = []
        for frame in frames(members, peers):
            if frame not in known:
                known[frame] = value(members[slice(*frame)])
            found.append(known[frame])
        return found

    return spread


def _rank(_: list[Env], peers: list[int]) -> list[Any]:
    return [peers.index(group) + 1 for group in peers]


_RANKS: dict[str, tuple[SqlType, Spread]] = {
    "row_number": (INT8, lambda members, _: list(range(1, len(members) + 1))),
    "rank": (INT8, _rank),
    "dense_rank": (INT8, lambda _, peers: [group + 1 for group in peers]),
    "percent_rank": (
        FLOAT8,
        lambda members, peers: [
            0.0 if len(members) == 1 else peers.index(group) / (len(members) - 1) for group in peers
        ],
    ),
    "cume_dist": (
        FLOAT8,
        lambda members, peers: [
            sum(other <= group for other in peers) / len(members) for group in peers
        ],
    ),
}
NAMES = frozenset(_RANKS) | {"lag", "lead", "first_value", "last_value", "nth_value", "ntile"}


def _neighbour(name: str, arguments: list[Expr]) -> tuple[SqlType, Spread, str]:
    if not 1 <= len(arguments) <= 3:
        raise undefined_function(name, [item.kind for item in arguments])
    expr = arguments[0]
    if expr.kind is UNKNOWN and len(arguments) < 3:
        raise polymorphic_unknown()
    if expr.kind is UNKNOWN and arguments[2].kind is UNKNOWN:
        expr = converted(expr, TEXT)
    offset = converted(arguments[1], INT4).value if len(arguments) > 1 else None
    default = None
    if len(arguments) == 3:
        try:
            kind = common_type([expr.kind, arguments[2].kind], name)
        except EngineError:
            raise undefined_function(name, [item.kind for item in arguments]) from None
        expr, default = converted(expr, kind), converted(arguments[2], kind).value
    sign = -1 if name == "lag" else 1

    def spread(members: list[Env], _: list[int]) -> list[Any]:
        found: list[Any] = []
        for index, env in enumerate(members):
            step = 1 if offset is None else offset(env)
            place = None if step is None else index + sign * step
            if place is None:
                found.append(None)
            elif 0 <= place < len(members):
                found.append(expr.value(members[place]))
            else:
                found.append(None if default is None else default(env))
        return found

    return expr.kind, spread, name


def _edge(name: str, expr: Expr, frames: Frames) -> tuple[SqlType, Spread, str]:
    if expr.kind is UNKNOWN:
        raise polymorphic_unknown()
    first = name == "first_value"

    def spread(members: list[Env], peers: list[int]) -> list[Any]:
        return [
            expr.value(members[low if first else high - 1]) if low < high else None
            for low, high in frames(members, peers)
        ]

    return expr.kind, spread, name


def _nth(expr: Expr, number: Expr, frames: Frames) -> tuple[SqlType, Spread, str]:
    if expr.kind is UNKNOWN:
        raise polymorphic_unknown()

    def spread(members: list[Env], peers: list[int]) -> list[Any]:
        found: list[Any] = []
        for env, (low, high) in zip(members, frames(members, peers), strict=True):
            wanted = number.value(env)
            if wanted is not None and wanted <= 0:
                raise EngineError("22016", "argument of nth_value must be greater than zero")
            inside = wanted is not None and low + wanted <= high
            found.append(expr.value(members[low + wanted - 1]) if inside else None)
        return found

    return expr.kind, spread, "nth_value"


def _tiles(count: Expr) -> Spread:
    def spread(members: list[Env], _: list[int]) -> list[Any]:
        buckets = count.value(members[0])
        if buckets is None:
            return [None] * len(members)
        if buckets <= 0:
            raise EngineError("22014", "argument of ntile must be greater than zero")
        size, more = divmod(len(members), buckets)
        found: list[int] = []
        for bucket in range(buckets):
            found += [bucket + 1] * (size + (1 if bucket < more else 0))
        return found

    return spread
