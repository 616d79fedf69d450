"""What kind of failure is this: evidence, the rules that weigh it, and the verdict.

Evidence is taken from the error itself, never guessed from one message alone: the errno, the
exception types along the whole cause chain, the exit code or signal of a child process, what
CASA logged, and text last. Rules are data (`FailureRule`), tried in that order of evidence; the
most telling evidence decides, not the first rule of a long list. This module holds the rules
that any program needs; the stages bring their own table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from absurd_contimg.core.records import Json


class FailureKind(StrEnum):
    """What a failure deserves."""

    TRANSIENT = "transient"
    """May pass by itself: retried with exponential backoff, up to the budget of its step."""
    RESOURCE = "resource"
    """Disk, memory or descriptors are short: parked or failed, as configured."""
    PERMANENT = "permanent"
    """The same input gives the same failure: fails at once."""
    INTERRUPTED = "interrupted"
    """The worker died or was stopped: run again, costs no attempt of the step."""
    UNKNOWN = "unknown"
    """Nothing in the rules fits: retried once."""


@dataclass(frozen=True, slots=True)
class ExceptionEvidence:
    """One exception of a cause chain: the qualified names of its classes, subclass first."""

    type_names: tuple[str, ...]
    message: str
    errno: int | None = None

    @classmethod
    def of(cls, error: BaseException) -> ExceptionEvidence:
        """The evidence that an exception object gives."""
        names = tuple(f"{t.__module__}.{t.__qualname__}" for t in type(error).__mro__[:-1])
        code = error.errno if isinstance(error, OSError) else None
        return cls(names, str(error), code)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything known about one failure. All of it is JSON: it is kept in the history."""

    exceptions: tuple[ExceptionEvidence, ...] = ()
    """Outermost first; each later one is the cause of the one before."""
    exit_code: int | None = None
    """Of the child process, when it ended by itself."""
    signal: int | None = None
    """That ended the child process."""
    casa_messages: tuple[str, ...] = ()
    """What CASA logged as SEVERE, and what it or the C++ runtime printed when it ended."""
    traceback: str | None = None

    @classmethod
    def of(cls, error: BaseException) -> Evidence:
        """The evidence of an exception; an error that carries its own (`HasEvidence`) keeps it."""
        for one in cause_chain(error):
            if isinstance(one, HasEvidence):
                return one.evidence
        return cls(tuple(ExceptionEvidence.of(one) for one in cause_chain(error)))

    def to_json(self) -> dict[str, Json]:
        """For the failure reason and for a child's report."""
        return {
            "exceptions": [
                {"type_names": list(e.type_names), "message": e.message, "errno": e.errno}
                for e in self.exceptions
            ],
            "exit_code": self.exit_code,
            "signal": self.signal,
            "casa_messages": list(self.casa_messages),
            "traceback": self.traceback,
        }


@runtime_checkable
class HasEvidence(Protocol):
    """An error that knows more than its type and text, such as a child process that died."""

    @property
    def evidence(self) -> Evidence:
        """What is known."""


def cause_chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it, outermost first.

    Follows explicit causes, and implicit contexts unless suppressed; looks into exception
    groups; meets each exception once.
    """
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, BaseExceptionGroup):
            waiting.extend(one.exceptions)
        if one.__cause__ is not None:
            waiting.append(one.__cause__)
        elif one.__context__ is not None and not one.__suppress_context__:
            waiting.append(one.__context__)
