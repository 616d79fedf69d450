"""A history as a line of JSON, and back: how `history_file` writes and reads it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn, TypeVar, get_args
from uuid import UUID

from absurd_contimg.core.records import Checkpoint, History, Run, State, Task, Wait
from absurd_contimg.core.row_values import Unreadable

_UNREADABLE = ":unreadable"
"""Ends the name of a column whose JSON value could not be read; the value says why."""
_Record = TypeVar("_Record", Task, Run, Checkpoint, Wait)


def json_line(value: object) -> bytes:
    """A value as one line, with its end."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def history_values(history: History) -> dict[str, object]:
    """A history as JSON."""
    return {
        "queue_name": history.queue_name,
        "task": _values(history.task),
        "runs": list(map(_values, history.runs)),
        "checkpoints": list(map(_values, history.checkpoints)),
        "waits": list(map(_values, history.waits)),
    }


def _values(record: Task | Run | Checkpoint | Wait) -> dict[str, object]:
    values: dict[str, object] = {}
    for name in inspect.get_annotations(type(record)):
        value = getattr(record, name)
        if isinstance(value, Unreadable):
            values[name + _UNREADABLE] = value.unreadable
        elif isinstance(value, datetime):
            values[name] = value.isoformat()
        else:
            values[name] = str(value) if isinstance(value, UUID) else value
    return values


def parse_line(line: bytes) -> Any:
    """The JSON of a line, or `ValueError`."""
    return json.loads(line, parse_constant=_refuse)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def history_of(value: Any) -> History:
    """What `history_values` gave; raises `ValueError`, `TypeError` or `KeyError` for another."""
    return History(
        _text(value["queue_name"]),
        _record(Task, value["task"]),
        tuple(_record(Run, each) for each in value["runs"]),
        tuple(_record(Checkpoint, each) for each in value["checkpoints"]),
        tuple(_record(Wait, each) for each in value["waits"]),
    )


def _record(kind: type[_Record], values: Any) -> _Record:
    arguments: list[Any] = []
    for name, annotation in inspect.get_annotations(kind).items():
        if annotation == "Json" and name + _UNREADABLE in values:
            arguments.append(Unreadable(_text(values[name + _UNREADABLE])))
        else:
            arguments.append(_READERS[annotation](values[name]))
    return kind(*arguments)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no whole number")
    return value


def parse_time(value: Any) -> datetime:
    """A time in ISO 8601, with its zone."""
    time = datetime.fromisoformat(_text(value))
    if time.tzinfo is None:
        raise ValueError(f"{value!r} has no time zone")
    return time


def _state(value: Any) -> Any:
    if value not in get_args(State):
        raise ValueError(f"{value!r} is no state")
    return value


def _nullable(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)


_READERS: dict[str, Callable[[Any], Any]] = {
    "UUID": lambda value: UUID(_text(value)),
    "str": _text,
    "int": _number,
    "datetime": parse_time,
    "State": _state,
    "Json": lambda value: value,
}
"""How a value of each annotation of the records is read."""
_READERS |= {f"{name} | None": _nullable(read) for name, read in _READERS.items()}
