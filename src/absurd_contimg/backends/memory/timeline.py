"""The timeline: the latest calls of procedures, for people to read."""

from __future__ import annotations

from typing import NamedTuple

from absurd_contimg.backends.memory.values import times

_RECENT_US = 10**15
"""A number above this is a time: 2001 in microseconds."""

Noted = tuple[int, int, str, tuple[object, ...], str, object]
"""The fields of an `Operation`: plain, because each call notes one and few are ever read."""


class Operation(NamedTuple):
    """One call of a procedure, for people to read."""

    time: int
    session_id: int
    procedure: str
    arguments: tuple[object, ...]
    outcome: str
    answer: object = None

    def __str__(self) -> str:
        shown = ", ".join(_brief(argument) for argument in self.arguments)
        moment = times.to_datetime(self.time).isoformat(timespec="milliseconds")
        outcome = self.outcome if self.answer in (None, "") else _answered(self.answer)
        return f"{moment}  s{self.session_id}  {self.procedure}({shown}) -> {outcome}"


def _answered(answer: object, rows_max: int = 3) -> str:
    """What a procedure gave back: a value, a row, or its first rows."""
    if isinstance(answer, tuple):
        return f"({', '.join(_brief(item, 30) for item in answer)})"
    if not isinstance(answer, list):
        return _brief(answer)
    rows = [_answered(row) for row in answer[:rows_max]]
    if len(answer) > rows_max:
        rows.append(f"and {len(answer) - rows_max} more")
    return "; ".join(rows) or "no rows"


def _brief(value: object, length_max: int = 60) -> str:
    if isinstance(value, int) and value.bit_length() > 64:
        return f"{value:032x}"[-8:]
    if isinstance(value, int) and value > _RECENT_US:
        return times.to_datetime(value).isoformat(timespec="milliseconds")
    text = repr(value)
    return text if len(text) <= length_max else f"{text[: length_max - 3]}..."
