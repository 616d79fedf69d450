"""The consoles of the command line, on which text from outside is shown harmlessly.

Names of groups, queues, workers and files, and texts of errors, are written by others. They may
hold escape sequences, markup, line ends, bytes that are no UTF-8, or a password.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any, TextIO, cast

from pydantic_core import to_jsonable_python
from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.errors import MarkupError
from rich.markup import escape
from rich.segment import Segment
from rich.text import Text
from typing_extensions import override

from absurd_contimg.errors import UserError
from absurd_contimg.secrets import mask

_COLUMNS, _COLUMNS_MIN, _COLUMNS_MAX = 80, 20, 2000
_LENGTH_MAX = 300
_MESSAGE_LENGTH_MAX = 4000


def printable(text: str) -> str:
    """Text with escapes for what a terminal would obey, line ends included."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in mask(text))


def indented_lines(text: object) -> str:
    """A message whose further lines, a log say, are indented: none of them passes for another."""
    return "\n    ".join(printable_lines(str(text)).strip("\n").split("\n"))


def printable_lines(text: str) -> str:
    """`printable`, but for line ends and tabs."""
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def one_line(text: object, length_max: int = _LENGTH_MAX) -> str:
    """A name or a message on one line, cut where it is long."""
    return cut(printable(str(text)), length_max)


def cut(text: str, length_max: int, mark: str = "...") -> str:
    """The beginning of a text, to the end of a word: half a number or path says something else.

    A word that takes more than two thirds of the length is cut.
    """
    if len(text) <= length_max:
        return text
    room = length_max - len(mark)
    end = text.rfind(" ", 0, room + 1)
    return f"{text[: end if end >= length_max // 3 else room].rstrip(' ,;:')}{mark}"


def cell(text: object) -> str:
    """`one_line` as markup, for a table or a sentence that has markup of its own."""
    return escape(one_line(text))


def message_line(text: object) -> str:
    """A message or an advice as markup on one line: a line end in it forges no other line."""
    return escape(one_line(text, _MESSAGE_LENGTH_MAX))


def counted(number: int, noun: str) -> str:
    """``1 group``, ``2 groups``: of a noun whose plural ends in s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def jsonable(value: Any) -> Any:
    """JSON of records, times and ids, without passwords and without lone surrogates."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no such number
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
    """A console on which text cannot do more than be read, of a width that can be read.

    ``COLUMNS=0`` would let every table vanish, and each line of a table has as many characters as
    the console is wide.
    """

    @property
    @override
    def size(self) -> ConsoleDimensions:
        size = super().size
        if size.width < _COLUMNS_MIN:
            return size._replace(width=_COLUMNS)
        return size._replace(width=min(size.width, _COLUMNS_MAX))

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size

    @override
    def on_broken_pipe(self) -> None:
        """Let who prints decide; rich would end the process, whatever it is in the midst of."""
        raise  # noqa: PLE0704 - the `BrokenPipeError` that rich handles here

    @override
    def out(self, *objects: object, **options: Any) -> None:
        """Print text without markup, unwrapped, on one line: a name in it forges no other line."""
        super().out(
            *("\t".join(map(printable, str(each).split("\t"))) for each in objects), **options
        )

    def out_lines(self, text: object, **options: Any) -> None:
        """The same for a text of several lines, as a traceback or a file."""
        super().out(printable_lines(str(text)), **options)

    @override
    def render_str(self, text: str, **options: Any) -> Text:
        text = printable_lines(text)
        try:
            return super().render_str(text, **options)
        except MarkupError:
            return super().render_str(text, **{**options, "markup": False})

    @override
    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Escape also what reaches the console as a `Text`, which `render_str` does not see."""
        for segment in super().render(renderable, options):
            is_harmless = segment.control or segment.text.strip("\n").isprintable()
            yield segment if is_harmless else segment._replace(text=printable_lines(segment.text))


class SafeFormatter(logging.Formatter):
    """Formats a message as one line; a traceback keeps its lines."""

    @override
    def formatMessage(self, record: logging.LogRecord) -> str:
        return one_line(super().formatMessage(record), _MESSAGE_LENGTH_MAX)

    @override
    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


class StreamError(UserError):
    """Standard output cannot be written: its disk is full, say."""


class _MaskedStream:
    """A standard stream for what is printed past the consoles: usage errors, tracebacks.

    Of standard error that cannot be written nobody can be told: the process goes on without it.
    What standard output refuses is raised once, and kept; the rest goes to /dev/null.
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self.failure: OSError | StreamError | None = None

    def write(self, text: str) -> int:
        with self._failures():
            self._stream.write(mask(text))
        return len(text)

    def flush(self) -> None:
        with self._failures():
            self._stream.flush()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self._name == "stderr":
                return
            hung_up = error.errno == errno.EIO and stat.S_ISCHR(os.fstat(1).st_mode)
            discard_output()
            if hung_up:  # the terminal was closed: the process stops by its signal
                return
            self.failure = error
            if isinstance(error, BrokenPipeError):
                raise
            self.failure = StreamError(
                f"Standard output cannot be written: {error.strerror}.",
                "Free the disk, or write to another file. What the command has done counts.",
            )
            raise self.failure from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_streams() -> None:
    """Mask passwords in all that this process prints, and print whatever is no UTF-8 as escapes."""
    _open_closed_streams()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, cast(TextIO, _MaskedStream(stream, name)))


def require_output() -> None:
    """Raise again what standard output has refused: a command may have gone on without it."""
    failure = getattr(sys.stdout, "failure", None)
    if failure is not None:
        raise failure


def _open_closed_streams() -> None:
    """Open /dev/null where a standard stream is closed, before another file takes its number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def discard_output() -> None:
    """Let standard output end in /dev/null, where the rest of its buffer may go."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.close(descriptor)


console = SafeConsole(highlight=False, emoji=False)
error_console = SafeConsole(stderr=True, highlight=False, emoji=False)
