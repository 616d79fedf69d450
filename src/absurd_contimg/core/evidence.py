"""Evidence: what is known about one failure, as JSON that can be kept and weighed later.

It is taken from the error itself and from the process that failed; it holds no judgement. What
it means is for the rules in ``failures.py``.
"""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self, runtime_checkable

from absurd_contimg.core.jsonb_sanitizer import shortened
from absurd_contimg.core.records import Json

_TRACEBACK_CHARACTERS_MAX = 8000
"""The end of a traceback is kept: it names the error."""
_LINKS_MAX = 40
"""Of a longer chain, the outermost and the innermost half of these are kept."""


@dataclass(frozen=True, slots=True)
class ExceptionEvidence:
    """One exception of a cause chain: the qualified names of its classes, subclass first."""

    type_names: tuple[str, ...]
    message: str
    errno: int | None = None
    implicit_links: int = 0
    """How many steps on the way to it were not stated causes ("raise ... from") but what Python
    notes by itself ("during handling of the above"): the more, the weaker its testimony."""
    path: str | None = None
    """The file or folder that an `OSError` names; of two, the one that was to be written."""

    @classmethod
    def of(cls, error: BaseException, implicit_links: int = 0) -> ExceptionEvidence:
        """The evidence that an exception object gives."""
        names = tuple(f"{t.__module__}.{t.__qualname__}" for t in type(error).__mro__[:-1])
        if not isinstance(error, OSError):
            return cls(names, text_of(error), implicit_links=implicit_links)
        code = error.errno if isinstance(error.errno, int) else None  # it takes anything
        return cls(names, text_of(error), code, implicit_links, _path_of(error))


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything known about one failure. All of it is JSON: it is kept in the history."""

    exceptions: tuple[ExceptionEvidence, ...] = ()
    """Outermost first; each later one is the cause of the one before."""
    exit_code: int | None = None
    """Of the child process, when it ended by itself."""
    signal: int | None = None
    """That ended the child process."""
    log_messages: tuple[str, ...] = ()
    """Errors that the process logged, and what it printed as it ended; earlier `casa_messages`."""
    traceback: str | None = None
    path: str | None = None
    """The file, folder or file system concerned, where no exception names it."""

    @classmethod
    def of(cls, error: BaseException) -> Evidence:
        """The evidence of an exception; an error that carries its own (`HasEvidence`) keeps it."""
        chain = list(linked_chain(error))
        for one, _ in chain:
            if isinstance(one, HasEvidence) and isinstance(one.evidence, Evidence):
                return one.evidence
        if len(chain) > _LINKS_MAX:
            chain = chain[: _LINKS_MAX // 2] + chain[-_LINKS_MAX // 2 :]
        lines = "".join(traceback.format_exception(error))
        return cls(
            tuple(ExceptionEvidence.of(one, links) for one, links in chain),
            traceback=lines[-_TRACEBACK_CHARACTERS_MAX:],
        )

    def to_json(self) -> dict[str, Json]:
        """For the failure reason and for a child's report."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` wrote, of this version or an earlier one."""
        exceptions = [
            {**fields, "type_names": tuple(fields["type_names"])} for fields in data["exceptions"]
        ]
        return cls(
            exceptions=tuple(ExceptionEvidence(**fields) for fields in exceptions),
            exit_code=data["exit_code"],
            signal=data["signal"],
            log_messages=tuple(data.get("log_messages") or data.get("casa_messages") or ()),
            traceback=data["traceback"],
            path=data.get("path"),
        )


@runtime_checkable
class HasEvidence(Protocol):
    """An error that knows more than its type and text, such as a child process that died."""

    @property
    def evidence(self) -> Evidence:
        """What is known."""


def _path_of(error: OSError) -> str | None:
    named = error.filename if error.errno == errno.ENOENT else error.filename2 or error.filename
    return os.fsdecode(named) if isinstance(named, str | bytes | os.PathLike) else None


def text_of(error: BaseException) -> str:
    """What an error says: shortened where it is long, and a word of ours where it cannot say."""
    try:
        return shortened(str(error))
    except Exception as second:  # noqa: BLE001 - a bug in somebody's __str__
        return f"<no text: str() of it raises {type(second).__name__}>"


def cause_chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it, outermost first.

    Follows explicit causes, and implicit contexts unless suppressed; looks into exception
    groups; meets each exception once.
    """
    return (one for one, _ in linked_chain(error))


def linked_chain(error: BaseException) -> Iterator[tuple[BaseException, int]]:
    """As `cause_chain`, each with the number of implicit contexts on the way to it."""
    seen: set[int] = set()
    waiting: list[tuple[BaseException, int]] = [(error, 0)]
    while waiting:
        one, links = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one, links
        if isinstance(one, BaseExceptionGroup):
            waiting.extend((member, links) for member in one.exceptions)
        if one.__cause__ is not None:
            waiting.append((one.__cause__, links))
        elif one.__context__ is not None and not one.__suppress_context__:
            waiting.append((one.__context__, links + 1))
