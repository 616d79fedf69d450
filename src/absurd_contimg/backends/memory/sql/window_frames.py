"""Frames of windows: which rows of its partition a row's aggregate is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlglot import exp

from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.sql.coercion import converted
from absurd_contimg.backends.memory.sql.dialect import sql_of
from absurd_contimg.backends.memory.sql.scope import Env
from absurd_contimg.backends.memory.sql.types import INT8

if TYPE_CHECKING:
    from absurd_contimg.backends.memory.sql.expressions import Compiler

Frame = tuple[int, int]
Frames = Callable[[list[Env], list[int]], list[Frame]]
"""From a partition's rows in order, and the number of each row's peer group, to each row's frame:
its first row and the one after its last."""
Bound = Callable[[list[Env], list[int], int], int]
"""Where the frame of a row begins or ends."""


def compile_frame(node: exp.Window, compiler: Compiler) -> Frames:
    """The frame that a window says, by default up to the last peer of the row."""
    spec = node.args.get("spec")
    if spec is None:
        return _frames(_first, _after_peers)
    kind = str(spec.args.get("kind") or "").upper()
    if kind not in ("ROWS", "RANGE"):
        raise unsupported(sql_of(node), "this frame of a window")
    bounds = []
    for name in ("start", "end"):
        at, side = spec.args.get(name), str(spec.args.get(f"{name}_side") or "").upper()
        bounds.append(_bound(node, compiler, kind, (at, side, name)))
    return _frames(bounds[0], bounds[1])


def _bound(node: exp.Window, compiler: Compiler, kind: str, part: tuple[Any, str, str]) -> Bound:
    at, side, name = part
    ends = name == "end"
    word = at.upper() if isinstance(at, str) else None
    if at is None or word == "CURRENT ROW":
        if kind == "ROWS":
            return (lambda _, __, row: row + 1) if ends else (lambda _, __, row: row)
        return _after_peers if ends else _first_peer
    if word == "UNBOUNDED":
        if ends is (side == "PRECEDING"):
            what = f"frame {name} cannot be UNBOUNDED {side}"
            raise EngineError("42P20", what)
        return _last if ends else _first
    if kind == "RANGE" or word is not None:
        raise unsupported(sql_of(node), "this frame of a window")
    count = converted(compiler.compile(at), INT8).value
    sign = -1 if side == "PRECEDING" else 1
    what = "ending" if ends else "starting"

    def bound(members: list[Env], _: list[int], row: int) -> int:
        steps = count(members[0])
        if steps is None:
            raise EngineError("22004", f"frame {what} offset must not be null")
        if steps < 0:
            raise EngineError("22013", f"frame {what} offset must not be negative")
        place: int = row + sign * steps + (1 if ends else 0)
        return max(0, min(place, len(members)))

    return bound


def _frames(start: Bound, end: Bound) -> Frames:
    def frames(members: list[Env], peers: list[int]) -> list[Frame]:
        found: list[Frame] = []
        for row in range(len(members)):
            low = start(members, peers, row)
            found.append((low, max(low, end(members, peers, row))))
        return found

    return frames


def _first(_: list[Env], __: list[int], ___: int) -> int:
    return 0


def _last(members: list[Env], _: list[int], __: int) -> int:
    return len(members)


def _first_peer(_: list[Env], peers: list[int], row: int) -> int:
    while row and peers[row - 1] == peers[row]:
        row -= 1
    return row


def _after_peers(_: list[Env], peers: list[int], row: int) -> int:
    group = peers[row]
    while row < len(peers) and peers[row] == group:
        row += 1
    return row
