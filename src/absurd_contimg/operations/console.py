"""The consoles of the command line, on which text from outside is shown harmlessly.

Names of groups, queues, workers and files, and texts of errors, are written by others. They may
hold escape sequences, markup, line ends, bytes that are no UTF-8, or a password.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any, TextIO, cast

from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.errors import MarkupError
from rich.markup import escape
from rich.text import Text
from typing_extensions import override

from absurd_contimg.core.secrets import mask

_LENGTH_MAX = 300


def printable(text: str) -> str:
    """Text with escapes for what a terminal would obey, line ends included."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in mask(text))


def printable_lines(text: str) -> str:
    """`printable`, but for line ends and tabs."""
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def one_line(text: object, length_max: int = _LENGTH_MAX) -> str:
    """A name or a message on one line, cut where it is long."""
    line = printable(str(text))
    return line if len(line) <= length_max else f"{line[: length_max - 3]}..."


def cell(text: object) -> str:
    """`one_line` as markup, for a table or a sentence that has markup of its own."""
    return escape(one_line(text))


def jsonable(value: Any) -> Any:
    """JSON of records, times and ids, without passwords and without lone surrogates."""
    if isinstance(value, str | PurePath):
        return mask(str(value)).encode("utf-8", "backslashreplace").decode()
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: jsonable(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {jsonable(name): jsonable(part) for name, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(part) for part in value]
    return to_jsonable_python(value)


class SafeConsole(Console):
    """A console on which text cannot do more than be read."""

    @override
    def render_str(self, text: str, **options: Any) -> Text:
        text = printable_lines(text)
        try:
            return super().render_str(text, **options)
        except MarkupError:
            return super().render_str(text, **{**options, "markup": False})


class SafeFormatter(logging.Formatter):
    """Formats a message as one line; a traceback keeps its lines."""

    @override
    def formatMessage(self, record: logging.LogRecord) -> str:
        return one_line(super().formatMessage(record), 4000)

    @override
    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


class _MaskedStream:
    """A standard stream for what is printed past the consoles: usage errors, tracebacks."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(mask(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_streams() -> None:
    """Mask passwords in all that this process prints, and print whatever is no UTF-8 as escapes."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, cast(TextIO, _MaskedStream(stream)))


console = SafeConsole(highlight=False, emoji=False)
"""``console.out`` prints text without markup, unwrapped."""
error_console = SafeConsole(stderr=True, highlight=False, emoji=False)
