"""The columns of Absurd's rows: how they are selected, and read into Python's values.

Another client may have stored what psycopg refuses to load; see `core.row_values`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, LiteralString

import psycopg
from psycopg.adapt import AdaptersMap, Loader
from psycopg.types.datetime import IntervalLoader, TimestamptzLoader
from typing_extensions import override

from absurd_contimg.core.records import INFINITY
from absurd_contimg.core.row_values import JSON_BYTES_MAX, OVERSIZED_KEY, oversized, read_json

_SHORT_BYTES = 200_000
"""What is stored in so few bytes, compressed perhaps, is not longer than `JSON_BYTES_MAX`."""


def _selected(record: Any) -> LiteralString:
    return ", ".join(
        f"case when pg_column_size({name}) > {_SHORT_BYTES}"
        f" and octet_length({name}::text) > {JSON_BYTES_MAX}"
        f" then jsonb_build_object('{OVERSIZED_KEY}', octet_length({name}::text))"
        f" else {name} end as {name}"
        if annotation == "Json"
        else name
        for name, annotation in inspect.get_annotations(record).items()
    )


selected: Callable[[Any], LiteralString] = cache(_selected)
"""The columns of a record's table or procedure, for a ``select``; too long JSON stays there."""


class _JsonbLoader(Loader):
    @override
    def load(self, data: bytes | bytearray | memoryview) -> Any:
        value = read_json(data)
        if isinstance(value, dict) and OVERSIZED_KEY in value and len(value) == 1:
            return oversized(value[OVERSIZED_KEY])
        return value


class _WideTimestamptzLoader(TimestamptzLoader):
    """Reads the times beyond Python's: infinity (a wait without a timeout), year 10,000, BC."""

    @override
    def load(self, data: bytes | bytearray | memoryview) -> datetime:
        try:
            time = datetime.fromisoformat(str(bytes(data), "ascii"))  # ten times as fast
        except ValueError:
            return self._load_unusual(data)
        return time if time.tzinfo is UTC else time.astimezone(UTC)

    def _load_unusual(self, data: bytes | bytearray | memoryview) -> datetime:
        try:
            return super().load(data).astimezone(UTC)
        except psycopg.DataError:
            is_past = bytes(data).endswith((b"BC", b"-infinity"))
            return datetime.min.replace(tzinfo=UTC) if is_past else INFINITY


class _WideIntervalLoader(IntervalLoader):
    """Reads the spans beyond Python's as the longest that it has."""

    @override
    def load(self, data: bytes | bytearray | memoryview) -> timedelta:
        try:
            return super().load(data)
        except (psycopg.DataError, OverflowError):
            return timedelta.min if bytes(data).startswith(b"-") else timedelta.max


def register_loaders(adapters: AdaptersMap) -> None:
    """Load the columns of these types as `core.row_values` says."""
    adapters.register_loader("jsonb", _JsonbLoader)
    adapters.register_loader("timestamptz", _WideTimestamptzLoader)
    adapters.register_loader("interval", _WideIntervalLoader)
