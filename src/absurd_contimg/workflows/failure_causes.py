"""How rules of the failure table recognise a cause: by an error's class, a message, or CASA's log.

The table of the rules is `failure_rules`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from absurd_contimg.core.failures import FailureKind, FailureRule
from absurd_contimg.core.generic_rules import NO_LOCKS_ADVICE, PROCESSES_ADVICE, REFUSED_THREAD
from absurd_contimg.execution.fallback import ONE_THREAD

CASA = "observed, casatasks 6.7.0.31"
OURS = "raised by a stage's own checks"


def names_of(*classes: type[BaseException]) -> frozenset[str]:
    """The classes as failures record them: module and name."""
    return frozenset(f"{each.__module__}.{each.__qualname__}" for each in classes)


@dataclass(frozen=True, slots=True)
class Cause:
    """A cause that several rules recognise by the same words, each in another place."""

    kind: FailureKind
    words: str
    """A regular expression."""
    advice: str
    resource_waits_max: int | None = None
    fallback: str | None = None

    def in_log(self, rule_id: str, source: str = CASA, **evidence: Any) -> FailureRule:
        """The rule for the words in the log, with these exceptions or signals only."""
        return FailureRule(
            rule_id,
            self.kind,
            self.advice,
            source,
            log=re.compile(self.words),
            decisive="exceptions" in evidence,
            resource_waits_max=self.resource_waits_max,
            fallback=self.fallback,
            **evidence,
        )

    def in_message(self, rule_id: str, source: str, **more: Any) -> FailureRule:
        """The rule for the words in the message of an exception."""
        return in_message(rule_id, self.words, self.advice, source, kind=self.kind, **more)


DISK_FULL = Cause(
    FailureKind.RESOURCE,
    r"No space left on device|Failed AlwaysAssert tracePWRITE|write error (for|in) .*file|"
    r"Error writing record|Disk quota exceeded|errno = 28\b|"
    r"No work directory with at least \S+ free",
    "Free space on the scratch file system; waiting work then goes on.",
)
READ_ONLY = Cause(
    FailureKind.RESOURCE,
    r"Read-only file system",
    "Mount the file system of the named path for writing; waiting work then goes on.",
)
NO_LOCKS = Cause(
    FailureKind.RESOURCE,
    r"Error \((Operation not supported|Function not implemented)\) when \w+ing lock",
    NO_LOCKS_ADVICE,
)
DESCRIPTORS = Cause(
    FailureKind.RESOURCE,
    r"Too many open files",
    "Raise the limit of open files (LimitNOFILE, at least 65536).",
)
PROCESSES = Cause(FailureKind.RESOURCE, REFUSED_THREAD, PROCESSES_ADVICE)
MEMORY = Cause(
    FailureKind.RESOURCE,
    r"std::bad_alloc|MemoryError|[Cc]annot allocate memory|failed to map segment|"
    r"out of memory|[Mm]emory allocation",
    "Run fewer workers on this host, or image fewer pixels.",
    resource_waits_max=3,  # as for errno ENOMEM: what still does not fit never will
    fallback=ONE_THREAD,
)
LOCKED = Cause(
    FailureKind.TRANSIENT,
    r"acquiring lock on|Resource deadlock avoided|lock on .* could not be acquired",
    "Nothing: another process holds the table; it is tried again.",
)
REFUSED = Cause(
    FailureKind.PERMANENT,
    r"Permission denied|Operation not permitted|"
    r"does not exist and cannot be created",
    "Correct owner or mode of the named path, then: contimg retry TASK",
)


def own_error(
    rule_id: str,
    error: type[Exception],
    advice: str,
    source: str = OURS,
    kind: FailureKind = FailureKind.PERMANENT,
    **reaction: Any,
) -> FailureRule:
    """The rule for an error of the pipeline, whatever else caused it."""
    exceptions = names_of(error)
    return FailureRule(
        rule_id, kind, advice, source, exceptions=exceptions, decisive=True, **reaction
    )


def in_message(
    rule_id: str,
    words: str,
    advice: str,
    source: str = CASA,
    *types: type[Exception],
    kind: FailureKind = FailureKind.PERMANENT,
    **more: Any,
) -> FailureRule:
    """The rule for words in the message of an exception of one of these types, or of any."""
    text = re.compile(words)
    return FailureRule(
        rule_id, kind, advice, source, exceptions=names_of(*types), text=text, **more
    )
