"""Between core's records and the engine's rows: values, ids, times and errors, both ways."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID, SafeUUID

from absurd_contimg.backends.memory import jsonb
from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.schema import columns_of
from absurd_contimg.backends.memory.values import times
from absurd_contimg.backends.memory.values.text import uuid_in
from absurd_contimg.core.errors import (
    REFUSED_VALUE_CLASSES,
    BackendError,
    InvalidRetryStrategy,
    QueueNotFound,
    RunAlreadyFailed,
    TaskCancelled,
    ValueRefused,
    missing_queue,
)
from absurd_contimg.core.row_values import json_text, read_json


def translated(error: EngineError) -> BaseException:
    """Core's exception for an engine's error."""
    if error.sqlstate == "AB001":
        return TaskCancelled(error.message)
    if error.sqlstate == "AB002":
        return RunAlreadyFailed(error.message)
    if error.sqlstate == "42P01":
        return QueueNotFound(missing_queue(error.message), error.sqlstate)
    kinds = {"AB003": InvalidRetryStrategy}
    other = ValueRefused if error.sqlstate.startswith(REFUSED_VALUE_CLASSES) else BackendError
    return kinds.get(error.sqlstate, other)(error.message, error.sqlstate)


def dumped(value: object) -> str:
    """A Python value as jsonb; `ValueRefused` for what jsonb does not take, or no reader would."""
    try:
        return json_text(value, jsonb.dumps, encode_refuses_same_keys=True)
    except EngineError as error:
        raise translated(error) from None


def uuid_int(value: UUID | str) -> int:
    """A UUID's number; text is read as Postgres reads it."""
    if isinstance(value, UUID):
        return value.int
    try:
        return uuid_in(str(value))
    except EngineError as error:
        raise translated(error) from None


def time_us(value: datetime) -> int:
    """Microseconds; Python's last moment stands for infinity."""
    if value.tzinfo is None:
        raise ValueError(f"{value!r} has no time zone; give an aware datetime")
    return times.INFINITY if value.year == 9999 else times.from_datetime(value)


def uuid(value: int) -> UUID:
    """A UUID of its number, made as unpickling makes one: a third of the time of ``UUID(int=)``."""
    new = _new(UUID)
    _set_number(new, value)
    _set_safety(new, _UNKNOWN)
    return new


_new, _UNKNOWN = object.__new__, SafeUUID.unknown
_set_number: Any = UUID.__dict__["int"].__set__
_set_safety: Any = UUID.__dict__["is_safe"].__set__


def delta_of(span: times.Interval) -> timedelta:
    """As psycopg loads intervals: months of 30 days, years of 365; at most what Python has."""
    years, months = divmod(abs(span.months), 12)
    days = (years * 365 + months * 30) * (1 if span.months >= 0 else -1)
    try:
        return timedelta(days=days + span.days, microseconds=span.us)
    except OverflowError:
        return timedelta.max if days + span.days > 0 else timedelta.min


_LOADERS: dict[str, Callable[[Any], Any]] = {
    "uuid": uuid,
    "timestamptz": times.to_datetime,
    "jsonb": read_json,
    "interval": delta_of,
}


@lru_cache
def loader(row: Any) -> Callable[[Any], tuple[Any, ...]]:
    """What loads rows of a kind, made from text: half the time of looking at each column again."""
    values = []
    for place, known in enumerate(columns_of(row)):
        value, kind = f"row[{place}]", known.type_name
        loaded = f"{kind}({value})" if kind in _LOADERS else value
        values.append(f"None if {value} is None else {loaded}" if known.nullable else loaded)
    code = f"lambda row: ({', '.join(values)},)"
    load: Callable[[Any], tuple[Any, ...]] = eval(code, {**_LOADERS})
    return load


def python_values(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values of a row of a table or a procedure, as core's records have them."""
    return loader(type(row))(row)
