"""Evidence: what is known about one failure, taken from the error and from the failed process.

It holds no judgement, which is for the rules in ``failures``, and it is kept as JSON.
"""

from __future__ import annotations

import builtins
import errno
import os
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from absurd_contimg.core.foreign_objects import ask, attribute, class_names
from absurd_contimg.core.jsonb_sanitizer import shortened
from absurd_contimg.core.records import Json
from absurd_contimg.secrets import mask

_TRACEBACK_CHARACTERS_MAX = 8000
"""The end of a traceback is kept: it names the error."""
_ERRNO_MAX = 2**31
_MEMBERS_MAX = 3
"""Of a group, so many are in its message."""
_LINKS_MAX = 40
"""Of a longer chain, the outermost and the innermost half of these are kept."""


@dataclass(frozen=True, slots=True)
class ExceptionEvidence:
    """One exception of a cause chain: the qualified names of its classes, subclass first."""

    type_names: tuple[str, ...]
    message: str
    errno: int | None = None
    implicit_links: int = 0
    """How many links on the way to it are contexts that Python notes by itself ("during handling
    of the above") instead of stated causes: the more, the weaker the evidence."""
    path: str | None = None
    """The file or folder that an `OSError` names (of two, the one that was to be written), or the
    `failed_path` of another error."""
    call: str | None = None
    """``fork`` where the system refuses a process: a held lock gives the same errno and text."""

    @classmethod
    def of(cls, error: BaseException, implicit_links: int = 0) -> ExceptionEvidence:
        """The evidence that an exception object gives."""
        names = class_names(error)
        if not issubclass(type(error), OSError):
            path = attribute(error, "failed_path", str)
            return cls(names, text_of(error), implicit_links=implicit_links, path=path)
        code = attribute(error, "errno", int)  # it takes anything
        known = type(code) is int and abs(code) < _ERRNO_MAX
        path = ask(lambda: _path_of(cast(OSError, error)), lambda _: None)
        call = "fork" if code == errno.EAGAIN and _is_of_fork(error) else None
        return cls(names, text_of(error), code if known else None, implicit_links, path, call)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything known about one failure."""

    exceptions: tuple[ExceptionEvidence, ...] = ()
    """Outermost first; each later one is the cause of the one before."""
    exit_code: int | None = None
    """Of a child process that ended by itself."""
    signal: int | None = None
    """The signal that ended a child process."""
    log_messages: tuple[str, ...] = ()
    """Errors that the process logged, and what it printed as it ended; earlier `casa_messages`."""
    traceback: str | None = None
    path: str | None = None
    """The file, folder or file system concerned, where no exception names it."""

    @classmethod
    def of(cls, error: BaseException) -> Evidence:
        """The evidence of an exception; an error that has its own, as `evidence`, keeps it."""
        chain = list(_linked_chain(error))
        for link, _ in chain:
            known = attribute(link, "evidence", cls)
            if known is not None:
                return known
        if len(chain) > _LINKS_MAX:
            chain = chain[: _LINKS_MAX // 2] + chain[-_LINKS_MAX // 2 :]
        return cls(
            tuple(ExceptionEvidence.of(link, contexts) for link, contexts in chain),
            traceback=_traceback_of(error)[-_TRACEBACK_CHARACTERS_MAX:],
        )

    def to_json(self) -> dict[str, Json]:
        """For the failure reason and for a child's report."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` wrote, of this version or an earlier one."""
        return cls(
            exceptions=tuple(
                ExceptionEvidence(**{**fields, "type_names": tuple(fields["type_names"])})
                for fields in data["exceptions"]
            ),
            exit_code=data["exit_code"],
            signal=data["signal"],
            log_messages=tuple(data.get("log_messages") or data.get("casa_messages") or ()),
            traceback=data["traceback"],
            path=data.get("path"),
        )


_FORKS = frozenset({"fork", "forkpty", "fork_exec", "_fork_exec", "posix_spawn", "posix_spawnp"})
_LOCKS = frozenset({"flock", "lockf", "fcntl"})


def _is_of_fork(error: BaseException) -> bool:
    """Whether the function that met the error starts processes, and holds no locks."""
    link = attribute(error, "__traceback__", TracebackType)
    if link is None:
        return False
    while link.tb_next is not None:
        link = link.tb_next
    names = set(link.tb_frame.f_code.co_names)
    return bool(names & _FORKS) and not names & _LOCKS


def _path_of(error: OSError) -> str | None:
    named = error.filename if error.errno == errno.ENOENT else error.filename2 or error.filename
    return os.fsdecode(named) if isinstance(named, str | bytes) else None


def text_of(error: BaseException) -> str:
    """The error's text, shortened where it is long; a note of ours where ``str()`` fails."""
    return _text(lambda: shortened(str.__str__(str(error))), "str() of it")


def message_of(error: BaseException) -> str:
    """The error's text; of a group also its members, since its own text tells no cause."""
    if not issubclass(type(error), BaseExceptionGroup):
        return text_of(error)
    members = attribute(error, "exceptions", tuple) or ()
    causes = [named_reason(each) for each in members if isinstance(each, BaseException)]
    more = [f"{len(causes) - _MEMBERS_MAX} more"] if len(causes) > _MEMBERS_MAX else []
    texts = "; ".join(causes[:_MEMBERS_MAX] + more)
    return shortened(f"{text_of(error)}: {texts}") if texts else text_of(error)


def reason_of(error: BaseException) -> str:
    """The error's text, or its class where it has none, as Python's own timeouts have."""
    return text_of(error).strip() or distinct_class_name(class_names(error)[0])


def named_reason(error: BaseException) -> str:
    """The class of the innermost error and its text: that of a group, say, tells no cause."""
    error = _innermost(error)
    name, text = distinct_class_name(class_names(error)[0]), text_of(error).strip()
    return f"{name}: {text}" if text else name


def _innermost(error: BaseException) -> BaseException:
    """The first member of a group, of groups within it too; any other error is its own."""
    for _ in range(_LINKS_MAX):
        members = attribute(error, "exceptions", tuple) or (None,)
        inner = members[0] if issubclass(type(error), BaseExceptionGroup) else None
        if not isinstance(inner, BaseException):
            break
        error = inner
    return error


def _traceback_of(error: BaseException) -> str:
    """Python prints no groups within hundreds of groups."""
    return _text(lambda: "".join(traceback.format_exception(error)), "printing its traceback")


def _text(make: Callable[[], str], action: str) -> str:
    return ask(
        lambda: mask(make()), lambda second: f"<no text: {action} raises {type(second).__name__}>"
    )


_FRAME = re.compile(r'^[ |+-]*File "(.+)", line (\d+), in (.+)$', re.MULTILINE)
_OWN = ("/src/absurd_contimg/", "/site-packages/absurd_contimg/")
_LIBRARIES = ("/lib/python3", "<frozen ")


def line_of_handler(traceback: str) -> str | None:
    """The innermost line of a traceback that is neither of this package nor of a library.

    Of a handler that is installed as a library, its first line; None for the package's own.
    """
    frames = _FRAME.findall(traceback)
    users = [frame for frame in frames if not any(part in frame[0] for part in _OWN + _LIBRARIES)]
    if not users:
        users = [
            frame
            for caller, frame in pairwise(frames)
            if caller[0].endswith("/absurd_contimg/core/tasks.py")
            and not any(part in frame[0] for part in _OWN)
        ]
    if not users:
        return None
    path, line, function = users[-1]
    return f"{Path(path).name}, line {line}, in {function}"


def described(error: BaseException) -> str:
    """The error's text, with its class and the line of the handler where that is known."""
    text, where = message_of(error), line_of_handler(_traceback_of(error))
    if where is None:
        return text
    return f"{distinct_class_name(class_names(error)[0])} at {where}: {text}"


def distinct_class_name(qualified: str) -> str:
    """The class without its module, unless Python itself has another one of this name."""
    module, _, name = qualified.rpartition(".")
    return qualified if hasattr(builtins, name) and module != "builtins" else name


class UnrecordableError(RuntimeError):
    """Stands for an error that could not be recorded: its classes, and no more of it."""

    def __init__(self, error: BaseException, refusal: BaseException) -> None:
        name, cause = type(error).__qualname__, f"{type(refusal).__name__}: {text_of(refusal)}"
        super().__init__(f"{name}, whose record was refused ({cause})")
        self.evidence = Evidence((ExceptionEvidence(class_names(error), str(self)),))


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """The error, its causes and the members of groups, outermost first, each exception once."""
    return (link for link, _ in _linked_chain(error))


def _linked_chain(error: BaseException) -> Iterator[tuple[BaseException, int]]:
    """The error, its causes and the members of groups, outermost first, each exception once.

    The number counts the implicit contexts on the way.
    """
    seen: set[int] = set()
    queue: list[tuple[BaseException, int]] = [(error, 0)]
    while queue:
        link, contexts = queue.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link, contexts
        if issubclass(type(link), BaseExceptionGroup):
            members = attribute(link, "exceptions", tuple) or ()
            queue.extend((each, contexts) for each in members if isinstance(each, BaseException))
        cause = attribute(link, "__cause__", BaseException)
        context = attribute(link, "__context__", BaseException)
        if cause is not None:
            queue.append((cause, contexts))
        elif context is not None and not attribute(link, "__suppress_context__", bool):
            queue.append((context, contexts + 1))
