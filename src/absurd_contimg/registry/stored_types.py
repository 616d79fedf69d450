"""The types of the registry's columns: each checks what it reads.

SQLite keeps any value in any column, and other programs write to both databases. Reading a value
that its column cannot have raises an error; `unreadable_row` finds the row.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, TypeVar, cast

from sqlalchemy import (
    JSON,
    BigInteger,
    Connection,
    Dialect,
    Double,
    Integer,
    MetaData,
    String,
    TypeDecorator,
    select,
    type_coerce,
)
from sqlalchemy.engine.processors import to_float, to_str
from sqlalchemy.types import NullType
from typing_extensions import override

from absurd_contimg.registry.column_values import column_text

_T = TypeVar("_T")
_Check = Callable[[Any], Any]

_SHOWN_MAX = 80
_MJD_YEAR_1, _MJD_YEAR_9999 = -678_575.0, 2_973_483.0
_UNIX_YEAR_1970, _UNIX_YEAR_9999 = 0.0, 253_402_214_400.0

Mjd = Annotated[float, "MJD"]
"""The type of a column with an MJD (UTC, days) that is a date."""
UnixSeconds = Annotated[float, "Unix seconds"]
"""The type of a column with Unix seconds that are a date."""
IsoTime = Annotated[str, "ISO 8601"]
"""The type of a column with a time as ISO 8601 writes it."""


class UnreadableValueError(ValueError):
    """A value that its column cannot have: of another version, or of somebody else."""


class _Stored(TypeDecorator[_T]):
    """A type that checks each value that is read."""

    cache_ok = True

    def checked(self, value: Any) -> Any:
        """The value, which is not None; raises `UnreadableValueError`."""
        raise NotImplementedError

    def reader(self, dialect: Dialect) -> _Check | None:
        """What makes the value of a driver one to check, where that is needed."""
        return None

    def fast_check(self) -> _Check | None:
        """A function of C that gives back what is right, None too, and raises for what is not.

        A Python function for each value would make reading a tenth slower.
        """
        return None

    @override
    def result_processor(self, dialect: Dialect, coltype: object) -> _Check:
        read = self.impl_instance.result_processor(dialect, coltype)
        return self.fast_check() or self.thorough_check(read)

    def thorough_check(self, read: _Check | None) -> _Check:
        """A function that raises `UnreadableValueError` for all that the column cannot have."""

        def process(value: Any) -> Any:
            if value is None:
                return value
            try:
                return self.checked(value if read is None else read(value))
            except UnreadableValueError:
                raise
            except (ValueError, TypeError, RecursionError) as error:  # no JSON, no time
                raise UnreadableValueError(f"{error}"[:_SHOWN_MAX]) from error

        return process


class StoredText(_Stored[str]):
    """Text that both databases hold: NUL and half surrogate pairs become escapes.

    Postgres takes neither, SQLite takes NUL. They come from outside (names, errors of programs,
    bytes of file names that are no UTF-8), and a record that cannot be written is worse.
    """

    impl = String
    cache_ok = True

    @override
    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None or (value.isascii() and "\0" not in value):
            return value
        return column_text(value)

    @override
    def checked(self, value: Any) -> str:
        if type(value) is str:
            return value
        raise UnreadableValueError("it is no text")

    @override
    def fast_check(self) -> _Check | None:
        return cast(_Check, to_str)  # bytes become what Python shows


class StoredState(StoredText):
    """The text of a member of an enumeration."""

    cache_ok = True

    def __init__(self, states: type[StrEnum]) -> None:
        super().__init__()
        self.names = tuple(state.value for state in states)

    @override
    def fast_check(self) -> _Check | None:
        values: dict[str | None, str | None] = {name: name for name in (None, *self.names)}
        return values.__getitem__

    @override
    def checked(self, value: Any) -> str:
        if value in self.names:
            return str(value)
        raise UnreadableValueError(f"it is none of {', '.join(self.names)}")


class StoredTime(StoredText):
    """See `IsoTime`."""

    cache_ok = True
    fast_check = _Stored.fast_check

    @override
    def checked(self, value: Any) -> str:
        try:
            datetime.fromisoformat(value).timestamp()
        except (ValueError, TypeError, OverflowError) as error:
            raise UnreadableValueError("it is no time as ISO 8601 writes it") from error
        return str(value)


class StoredInteger(_Stored[int]):
    """A whole number."""

    impl = Integer
    cache_ok = True

    @override
    def checked(self, value: Any) -> int:
        if type(value) is int:
            return value
        raise UnreadableValueError("it is no whole number")


class StoredBigInteger(StoredInteger):
    """A whole number of 64 bits."""

    impl = BigInteger
    cache_ok = True


class StoredNumber(_Stored[float]):
    """A number."""

    impl = Double  # of 2.0 too: from 2.1 on it is the default
    cache_ok = True

    @override
    def checked(self, value: Any) -> float:
        if type(value) in (float, int):
            return float(value)
        raise UnreadableValueError("it is no number")

    @override
    def fast_check(self) -> _Check | None:
        return cast(_Check, to_float)


class StoredDate(StoredNumber):
    """A number that is a date."""

    cache_ok = True
    fast_check = _Stored.fast_check

    def __init__(self, least: float, greatest: float) -> None:
        super().__init__()
        self.least, self.greatest = least, greatest

    @override
    def checked(self, value: Any) -> float:
        number = super().checked(value)
        if self.least <= number <= self.greatest:  # nor is NaN
            return number
        raise UnreadableValueError("it is no time between the years 1 and 9999")


class StoredJson(_Stored[Any]):
    """JSON of which the outermost level is an object or a list."""

    impl = JSON
    cache_ok = True

    def __init__(self, kind: type[dict[Any, Any] | list[Any]]) -> None:
        super().__init__()
        self.kind = kind

    @override
    def reader(self, dialect: Dialect) -> _Check | None:
        return self.impl_instance.result_processor(dialect, None)

    @override
    def checked(self, value: Any) -> Any:
        if isinstance(value, self.kind):
            return value
        raise UnreadableValueError(f"it is no JSON {'object' if self.kind is dict else 'list'}")


TYPES: dict[Any, Any] = {
    str: StoredText,
    int: StoredInteger,
    float: StoredNumber,
    IsoTime: StoredTime,
    Mjd: StoredDate(_MJD_YEAR_1, _MJD_YEAR_9999),
    UnixSeconds: StoredDate(_UNIX_YEAR_1970, _UNIX_YEAR_9999),
    dict[str, Any]: StoredJson(dict),
    list[dict[str, Any]]: StoredJson(list),
}
"""For SQLAlchemy: the type of a column by its annotation."""


def require_readable(row: Any) -> None:
    """Raise `UnreadableValueError` if a mapped object has a value that could not be read again."""
    for column in row.__table__.columns:
        value = getattr(row, column.key)
        if isinstance(column.type, _Stored) and value is not None:
            try:
                column.type.checked(value)
            except UnreadableValueError as error:
                raise UnreadableValueError(f"{column.name} is {value!r:.80}: {error}") from error


def unreadable_row(connection: Connection, tables: MetaData) -> str:
    """Table, key, column and value of the first row that a type refuses; empty if there is none."""
    dialect = connection.dialect
    for table in tables.sorted_tables:
        columns = list(table.columns)
        kinds = [column.type.dialect_impl(dialect) for column in columns]
        checks = [
            kind.thorough_check(kind.reader(dialect)) if isinstance(kind, _Stored) else None
            for kind in kinds
        ]
        as_stored = [type_coerce(column, NullType()) for column in columns]
        for row in connection.execute(select(*as_stored)):
            for column, check, value in zip(columns, checks, row, strict=True):
                try:
                    if check is not None:
                        check(value)
                except UnreadableValueError as error:
                    keys = [each for c, each in zip(columns, row, strict=True) if c.primary_key]
                    key = f"{', '.join(map(str, keys)):.{_SHOWN_MAX}}"
                    return (
                        f"in table {table.name}, row {key}, column {column.name}: "
                        f"{value!r:.{_SHOWN_MAX}} ({error})"
                    )
    return ""
