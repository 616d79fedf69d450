"""Reading files that others name or have put there: regular ones only, up to a bound.

A pipe would block for ever, and a device such as /dev/zero never ends.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

SETTINGS_BYTES_MAX = 1_000_000
"""Of a file that an operator writes."""
JSON_BYTES_MAX = 256_000_000
"""Of a manifest, a note or a table that the pipeline writes."""


class UnsuitableFileError(OSError):
    """A file that is not read: a pipe, a device, or too large."""


def open_regular(path: str | Path, bytes_max: int) -> BinaryIO:
    """Open a file for reading; `UnsuitableFileError` at once if it is not regular or larger."""
    file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115
    status = os.fstat(file.fileno())
    if stat.S_ISREG(status.st_mode) and status.st_size <= bytes_max:
        return file
    file.close()
    if stat.S_ISREG(status.st_mode):
        raise UnsuitableFileError(errno.EFBIG, f"it has more than {bytes_max:,} bytes", str(path))
    raise UnsuitableFileError(errno.EINVAL, "it is no regular file", str(path))


def read_regular(path: str | Path, bytes_max: int = JSON_BYTES_MAX) -> bytes:
    """The content of a file that `open_regular` accepts, no more than its bound."""
    with open_regular(path, bytes_max) as file:
        return file.read(bytes_max)


def read_json(path: str | Path, bytes_max: int = JSON_BYTES_MAX) -> Any:
    """The JSON in a file that `open_regular` accepts; `ValueError` that says where it is none."""
    try:
        return parse_json(read_regular(path, bytes_max))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def parse_typed_json(text: str) -> Any:
    """See `parse_json`; of what a person types, a key that is there twice is refused too."""
    return parse_json(text, _unique)


def parse_json(text: str | bytes, object_of: Callable[[Any], Any] | None = None) -> Any:
    """The value of a JSON text, which may begin with a byte order mark.

    `ValueError` for what is none, has more levels than Python reads, or a number that is too long,
    with its key.
    """
    try:
        whole = text if isinstance(text, str) else text.decode("utf-8-sig")
        return json.loads(whole, object_pairs_hook=object_of)
    except RecursionError as error:
        raise ValueError("it has too many levels") from error
    except UnicodeDecodeError as error:
        raise ValueError("it is no text in UTF-8") from error
    except (json.JSONDecodeError, _RepeatedKeyError):
        raise
    except ValueError as error:
        parsed = json.loads(text, parse_int=_LongNumber)
        (key, digits), *_ = _long_numbers(parsed)
        raise ValueError(f"{key} is a number of {digits} digits") from error


def read_toml(path: str | Path) -> dict[str, Any]:
    """The TOML in a file that `open_regular` accepts; see `parse_toml`."""
    return parse_toml(read_regular(path, SETTINGS_BYTES_MAX))


_LEVELS_MAX = 50
"""Of tables and lists in a TOML file."""


def parse_toml(content: bytes) -> dict[str, Any]:
    """The tables of a TOML text, which may begin with a byte order mark.

    `ValueError` for what is none, with the line, or with the key of a number that is too long.
    """
    try:
        text = content.decode("utf-8-sig")
        tables = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it has too many levels") from error
    except UnicodeDecodeError as error:
        raise ValueError("it is no text in UTF-8") from error
    except tomllib.TOMLDecodeError:
        raise
    except ValueError as error:
        for line, content_of_line in enumerate(text.splitlines(), 1):
            if number := _TOO_LONG.search(content_of_line):
                key, digits = content_of_line.partition("=")[0].strip(), len(number.group())
                raise ValueError(f"line {line}, {key[:80]}: a number of {digits} digits") from error
        raise
    # A dotted key has any number of them, and what reads the tables recurses.
    level: list[Any] = [tables]
    for _ in range(_LEVELS_MAX):
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
    if level:
        raise ValueError("it has too many levels")
    return tables


class _RepeatedKeyError(ValueError):
    """An object has a key twice: which value counts?"""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _RepeatedKeyError(f"the key {twice[:80]!r} is there twice")
    return members


_DIGITS_MAX = 4300
"""Python reads no longer number."""
_TOO_LONG = re.compile(rf"[0-9][0-9_]{{{_DIGITS_MAX},}}")


class _LongNumber(str):
    """The digits of a whole number that may be too long."""

    __slots__ = ()


def _long_numbers(value: Any, key: str = "it") -> Iterator[tuple[str, int]]:
    """Where numbers are too long, with their digits."""
    if isinstance(value, _LongNumber) and len(value) > _DIGITS_MAX:
        yield key, len(value)
    members = dict(enumerate(value)) if isinstance(value, list) else value
    for name, member in members.items() if isinstance(members, dict) else ():
        yield from _long_numbers(member, str(name) if key == "it" else f"{key}.{name}")


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
