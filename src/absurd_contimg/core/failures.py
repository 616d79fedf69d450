"""What kind of failure is this: evidence, the rules that weigh it, and the verdict.

Evidence is taken from the error itself, never guessed from one message alone: the errno, the
exception types along the whole cause chain, the exit code or signal of a child process, what
CASA logged, and text last. Rules are data (`FailureRule`), tried in that order of evidence; the
most telling evidence decides, not the first rule of a long list. This module holds the rules
that any program needs; the stages bring their own table.
"""

from __future__ import annotations

import errno as errno_codes
import re
import signal as signals
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from absurd_contimg.core.records import Json

_TRACEBACK_CHARACTERS_MAX = 8000
"""The end of a traceback is kept: it names the error."""


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
        lines = "".join(traceback.format_exception(error))
        return cls(
            tuple(ExceptionEvidence.of(one) for one in cause_chain(error)),
            traceback=lines[-_TRACEBACK_CHARACTERS_MAX:],
        )

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


@dataclass(frozen=True, slots=True)
class FailureRule:
    """One line of a failure table: the evidence it matches, and what that means.

    A rule names one sort of evidence, or a signal together with what CASA said (then both must
    match). `decisive` exception rules are for errors that were raised on purpose, with the cause
    already weighed: they count before other exceptions of the chain.
    """

    id: str
    kind: FailureKind
    advice: str
    """What an operator should do."""
    source: str
    """Where the evidence was seen: observed with which version, or from which document."""
    errnos: frozenset[int] = frozenset()
    exceptions: frozenset[str] = frozenset()
    """Qualified class names; a subclass matches too, unless a nearer class has a rule."""
    decisive: bool = False
    signals: frozenset[int] = frozenset()
    exit_codes: frozenset[int] = frozenset()
    casa: re.Pattern[str] | None = None
    text: re.Pattern[str] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The kind of a failure, and the rule and the piece of evidence that decided it."""

    kind: FailureKind
    rule_id: str
    advice: str
    matched: str


UNRECOGNISED = FailureRule(
    id="unrecognised",
    kind=FailureKind.UNKNOWN,
    advice="Read the traceback; if it can come again, add a rule for it.",
    source="default",
)


class Classifier:
    """Weighs evidence by a table of rules. Total: every failure gets a verdict.

    Order: errno (innermost cause first), decisive exceptions (outermost first), other
    exceptions (nearest class first, then innermost), signal, exit code, CASA's messages, text.
    So wrapping an error in an unlisted exception never changes its verdict.
    """

    def __init__(self, rules: Sequence[FailureRule]) -> None:
        duplicates = {r.id for r in rules if sum(o.id == r.id for o in rules) > 1}
        if duplicates:
            raise ValueError(f"failure rules have the same id: {', '.join(sorted(duplicates))}")
        self._rules = tuple(rules)

    @property
    def rules(self) -> tuple[FailureRule, ...]:
        """The table, for an operator to read."""
        return self._rules

    def classify(self, evidence: Evidence) -> Verdict:
        """The verdict on the evidence; `FailureKind.UNKNOWN` if no rule fits."""
        for candidates in (
            self._by_errno(evidence),
            self._by_decisive_exception(evidence),
            self._by_exception(evidence),
            self._by_process(evidence),
            self._by_message(evidence),
        ):
            for rule, matched in candidates:
                return Verdict(rule.kind, rule.id, rule.advice, matched)
        return Verdict(UNRECOGNISED.kind, UNRECOGNISED.id, UNRECOGNISED.advice, "nothing")

    def _by_errno(self, evidence: Evidence) -> Iterator[tuple[FailureRule, str]]:
        for one in reversed(evidence.exceptions):
            for rule in self._rules:
                if one.errno is not None and one.errno in rule.errnos:
                    yield rule, f"errno {errno_codes.errorcode.get(one.errno, one.errno)}"

    def _by_decisive_exception(self, evidence: Evidence) -> Iterator[tuple[FailureRule, str]]:
        for one in evidence.exceptions:
            for name in one.type_names:
                for rule in self._rules:
                    if rule.decisive and name in rule.exceptions:
                        yield rule, name

    def _by_exception(self, evidence: Evidence) -> Iterator[tuple[FailureRule, str]]:
        nearest: tuple[int, FailureRule, str] | None = None
        for one in reversed(evidence.exceptions):
            for distance, name in enumerate(one.type_names):
                for rule in self._rules:
                    found = name in rule.exceptions and not rule.decisive
                    if found and (nearest is None or distance < nearest[0]):
                        nearest = distance, rule, name
        if nearest is not None:
            yield nearest[1], nearest[2]

    def _by_process(self, evidence: Evidence) -> Iterator[tuple[FailureRule, str]]:
        for rule in self._rules:
            if evidence.signal is not None and evidence.signal in rule.signals:
                said = _casa_match(rule, evidence)
                name = signals.Signals(evidence.signal).name
                if rule.casa is None or said is not None:
                    yield rule, f"signal {name}" + (f" and CASA: {said}" if said else "")
        for rule in self._rules:
            if evidence.exit_code is not None and evidence.exit_code in rule.exit_codes:
                yield rule, f"exit code {evidence.exit_code}"

    def _by_message(self, evidence: Evidence) -> Iterator[tuple[FailureRule, str]]:
        for rule in self._rules:
            said = _casa_match(rule, evidence)
            if said is not None and not rule.signals:
                yield rule, f"CASA: {said}"
        for rule in self._rules:
            for one in evidence.exceptions:
                if rule.text is not None and (found := rule.text.search(one.message)):
                    yield rule, f"text: {found.group()}"


def _casa_match(rule: FailureRule, evidence: Evidence) -> str | None:
    if rule.casa is None:
        return None
    found = (rule.casa.search(message) for message in evidence.casa_messages)
    return next((match.group() for match in found if match), None)


def _errnos(*names: str) -> frozenset[int]:
    return frozenset(getattr(errno_codes, name) for name in names)


_PYTHON = "Python's own exceptions"
_POSIX = "POSIX errno"

GENERIC_RULES: tuple[FailureRule, ...] = (
    FailureRule(
        "disk-full",
        FailureKind.RESOURCE,
        "Free space on the file system named in the message; parked work then goes on.",
        _POSIX,
        errnos=_errnos("ENOSPC", "EDQUOT"),
    ),
    FailureRule(
        "descriptors",
        FailureKind.RESOURCE,
        "Raise the limit of open files (LimitNOFILE, at least 65536) or restart the worker.",
        _POSIX,
        errnos=_errnos("EMFILE", "ENFILE"),
    ),
    FailureRule(
        "no-memory",
        FailureKind.RESOURCE,
        "Run fewer workers on this host, or image fewer pixels.",
        _POSIX,
        errnos=_errnos("ENOMEM"),
        exceptions=frozenset({"builtins.MemoryError"}),
    ),
    FailureRule(
        "path-missing",
        FailureKind.PERMANENT,
        "Restore the named file or folder, then: contimg retry TASK",
        _POSIX,
        errnos=_errnos("ENOENT", "ENOTDIR", "EISDIR", "ENAMETOOLONG"),
    ),
    FailureRule(
        "permission",
        FailureKind.PERMANENT,
        "Correct owner or mode of the named path (or the mount), then: contimg retry TASK",
        _POSIX,
        errnos=_errnos("EACCES", "EPERM", "EROFS"),
    ),
    FailureRule(
        "cross-device",
        FailureKind.PERMANENT,
        "Put the scratch folder on the file system of the output folder.",
        _POSIX,
        errnos=_errnos("EXDEV"),
    ),
    FailureRule(
        "busy",
        FailureKind.TRANSIENT,
        "Nothing: somebody else holds the file; it is tried again.",
        _POSIX,
        errnos=_errnos("EAGAIN", "EBUSY", "EINTR", "ETXTBSY", "EDEADLK", "ESTALE"),
    ),
    FailureRule(
        "input-output",
        FailureKind.TRANSIENT,
        "If it comes again, look at the disk (dmesg).",
        _POSIX,
        errnos=_errnos("EIO"),
    ),
    FailureRule(
        "connection",
        FailureKind.TRANSIENT,
        "If it comes again, look at the network and at the server.",
        _PYTHON,
        errnos=_errnos(
            *("ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "EPIPE", "ETIMEDOUT"),
            *("EHOSTUNREACH", "ENETUNREACH", "ENETDOWN"),
        ),
        exceptions=frozenset({"builtins.ConnectionError"}),
    ),
    FailureRule(
        "timeout",
        FailureKind.TRANSIENT,
        "If it comes again, look at what was waited for.",
        _PYTHON,
        exceptions=frozenset({"builtins.TimeoutError"}),
    ),
    FailureRule(
        "wrong-value",
        FailureKind.PERMANENT,
        "Correct the parameter or setting that the message names.",
        _PYTHON,
        exceptions=frozenset(
            {
                *("builtins.ValueError", "builtins.TypeError", "builtins.LookupError"),
                *("builtins.AttributeError", "builtins.NameError", "builtins.ImportError"),
                *("builtins.AssertionError", "builtins.ArithmeticError", "builtins.SyntaxError"),
                *("builtins.NotImplementedError", "builtins.RecursionError"),
            }
        ),
    ),
)


class PoisonStep(RuntimeError):
    """A step has ended its worker too often without ever reporting anything."""


POISON_RULE = FailureRule(
    "poison",
    FailureKind.PERMANENT,
    "Look into the kernel's log (out of memory?) and the step's logs before: contimg retry TASK",
    "counted in the task's history",
    exceptions=frozenset({f"{PoisonStep.__module__}.{PoisonStep.__qualname__}"}),
    decisive=True,
)


def failure_reason(
    error: BaseException, verdict: Verdict, details: Mapping[str, Json]
) -> dict[str, Json]:
    """The JSON kept on the failed run: Absurd's own fields, the verdict and its evidence."""
    evidence = Evidence.of(error)
    return {
        "name": type(error).__name__,
        "message": str(error),
        "traceback": evidence.traceback,
        "kind": verdict.kind.value,
        "rule": verdict.rule_id,
        "matched": verdict.matched,
        "advice": verdict.advice,
        "evidence": evidence.to_json(),
        **details,
    }
