"""Failure rules and the classifier: from the evidence of a failure to a verdict.

Rules are data (`FailureRule`). Those for every program are in ``generic_rules``; the stages add
their own table.
"""

from __future__ import annotations

import errno as errno_codes
import re
import signal as signals
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from operator import itemgetter

from absurd_contimg.core.evidence import Evidence, ExceptionEvidence, message_of
from absurd_contimg.core.jsonb_sanitizer import sanitized
from absurd_contimg.core.records import Json
from absurd_contimg.core.task_queries import LEASE_EXPIRED

DECIDED_AT = "decided_at"
"""In a failure reason: the time from which the delay of the retry counts. The database may learn
of the failure later, from a worker that stood still in between."""


class FailureKind(StrEnum):
    """What a failure calls for."""

    TRANSIENT = "transient"
    """May pass by itself: retried with exponential backoff, up to the budget of its step."""
    RESOURCE = "resource"
    """Disk, memory or descriptors are short: waited for, or failed, as configured."""
    PERMANENT = "permanent"
    """The same input gives the same failure: fails at once."""
    INTERRUPTED = "interrupted"
    """The worker died or was stopped: run again, costs no attempt of the step."""
    UNKNOWN = "unknown"
    """Nothing in the rules fits: retried once."""


@dataclass(frozen=True, slots=True)
class FailureRule:
    """One line of a failure table: the evidence it matches, and what that means.

    A rule names one sort of evidence, or two that must both match: a signal or an exception with
    a log message (`log`), an exception with its own message (`text`).
    """

    id: str
    kind: FailureKind
    advice: str
    """What an operator should do."""
    source: str
    """Where the evidence was seen: observed with which version, or from which document."""
    errnos: frozenset[int] = frozenset()
    calls: frozenset[str] = frozenset()
    """The errno counts for these calls of the system only, see `ExceptionEvidence.call`."""
    exceptions: frozenset[str] = frozenset()
    """Qualified class names; a subclass matches too, unless a nearer class has a rule."""
    late_exceptions: frozenset[str] = frozenset()
    """As `exceptions`, for a rule that counts only where no other evidence has a rule."""
    unless: frozenset[str] = frozenset()
    """Qualified class names: with such an exception in the chain, the rule does not count."""
    decisive: bool = False
    """Counts before other exceptions of the chain: for errors raised in knowledge of the cause."""
    signals: frozenset[int] = frozenset()
    exit_codes: frozenset[int] = frozenset()
    log: re.Pattern[str] | None = None
    text: re.Pattern[str] | None = None
    resource_waits_max: int | None = None
    """How often a step waits for this resource, where waiting alone does not help; None: as often
    as the policy allows."""
    fallback: str | None = None
    """What the next start of the step does differently, by a name that the stages know. Used once
    in a step, even after a permanent failure."""
    not_produced: str | None = None
    """Why no test produces this failure with the real part; None: a test does."""

    def sorts_of_evidence(self) -> list[str]:
        """What the rule looks at, in words, for the rendered table."""
        return [
            *(
                " of ".join((errno_codes.errorcode[code], *sorted(self.calls)))
                for code in sorted(self.errnos)
            ),
            *(name.rpartition(".")[2] for name in sorted(self.exceptions | self.late_exceptions)),
            *(f"without {name.rpartition('.')[2]}" for name in sorted(self.unless)),
            *(signals.Signals(number).name for number in sorted(self.signals)),
            *(f"exit code {code}" for code in sorted(self.exit_codes)),
            *([f"log says: {self.log.pattern}"] if self.log is not None else []),
            *([f"message: {self.text.pattern}"] if self.text is not None else []),
        ]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The kind of a failure, and the rule and the piece of evidence that decided it."""

    kind: FailureKind
    rule_id: str
    advice: str
    matched: str
    path: str | None = None
    """The file, folder or file system concerned, if the evidence names one."""
    delay_seconds: float | None = None
    """How long to wait before a retry, where the user's hook named a time."""
    resource_waits_max: int | None = None
    fallback: str | None = None


RetryHook = Callable[[Evidence], bool | float | timedelta | None]
"""A user's own decision before that of the table: True to retry within the budget of transient
failures, a delay (seconds or `timedelta`) to do so after it, False never to, None for the table."""

UNRECOGNISED = FailureRule(
    id="unrecognised",
    kind=FailureKind.UNKNOWN,
    advice="Read the traceback: contimg history TASK --traceback. If it may recur, add a rule.",
    source="default",
)


LEASE_EXPIRED_RULE = FailureRule(
    id=LEASE_EXPIRED,
    kind=FailureKind.INTERRUPTED,
    advice="Nothing: it is run again. If it comes often: contimg status, and the worker's log, say "
    "why its worker died, was paused or lost the database.",
    source="Absurd: a run whose worker does not extend its lease",
    exceptions=frozenset({LEASE_EXPIRED}),
)
"""No evidence is weighed: Absurd itself ends such a run."""


class Classifier:
    """Weighs evidence by a table of rules. Total: every failure gets a verdict.

    Order: errno (innermost cause first), decisive exceptions (outermost first), other
    exceptions (nearest class first, then innermost), signal, exit code, log messages, text.
    So wrapping an error in an unlisted exception does not change its verdict. Exceptions that
    were being handled when another was raised come after stated causes.
    """

    def __init__(self, rules: Sequence[FailureRule]) -> None:
        duplicates = sorted(i for i, n in Counter(rule.id for rule in rules).items() if n > 1)
        if duplicates:
            raise ValueError(f"failure rules have the same id: {', '.join(duplicates)}")
        self.rules = tuple(rules)

    def classify(self, evidence: Evidence) -> Verdict:
        """The verdict on the evidence; `FailureKind.UNKNOWN` if no rule fits."""
        rule, matched, path = next(self._candidates(evidence), (UNRECOGNISED, "nothing", None))
        return Verdict(
            rule.kind,
            rule.id,
            rule.advice,
            matched,
            path or evidence.path,
            resource_waits_max=rule.resource_waits_max,
            fallback=rule.fallback,
        )

    def _candidates(self, evidence: Evidence) -> Iterator[_Match]:
        for links in sorted({error.implicit_links for error in evidence.exceptions}):
            chain = [error for error in evidence.exceptions if error.implicit_links == links]
            yield from self._by_errno(chain)
            yield from self._by_exception(chain, evidence, decisive=True)
            yield from self._by_exception(chain, evidence, decisive=False)
        yield from self._by_process(evidence)
        yield from self._by_message(evidence)

    def _by_errno(self, chain: Sequence[ExceptionEvidence]) -> Iterator[_Match]:
        for error in reversed(chain):
            for rule in self.rules:
                if rule.calls and error.call not in rule.calls:
                    continue
                if error.errno is not None and error.errno in rule.errnos:
                    name = errno_codes.errorcode.get(error.errno, error.errno)
                    paths = (e.path for e in (error, *chain) if e.errno == error.errno and e.path)
                    yield rule, f"errno {name}", next(paths, None)

    def _by_exception(
        self, chain: Sequence[ExceptionEvidence], evidence: Evidence, decisive: bool
    ) -> Iterator[_Match]:
        matches = [
            (
                (depth, distance, place) if decisive else (distance, -depth, place),
                (rule, name, error.path),
            )
            for depth, error in enumerate(chain)
            for distance, name in enumerate(error.type_names)
            for place, rule in enumerate(self.rules)
            if name in rule.exceptions and rule.decisive == decisive
            if _also(rule, error, evidence)
        ]
        if matches:
            yield min(matches, key=itemgetter(0))[1]

    def _by_process(self, evidence: Evidence) -> Iterator[_Match]:
        for rule in self.rules:
            if evidence.signal is not None and evidence.signal in rule.signals:
                logged = _log_match(rule, evidence)
                name = signals.Signals(evidence.signal).name
                if rule.log is None or logged is not None:
                    yield rule, f"signal {name}" + (f" and log: {logged}" if logged else ""), None
        for rule in self.rules:
            if evidence.exit_code is not None and evidence.exit_code in rule.exit_codes:
                yield rule, f"exit code {evidence.exit_code}", None

    def _by_message(self, evidence: Evidence) -> Iterator[_Match]:
        for rule in self.rules:
            logged = _log_match(rule, evidence)
            if logged is not None and not rule.signals and not rule.exceptions:
                yield rule, f"log: {logged}", None
        for rule in self.rules:
            for error in evidence.exceptions:
                if rule.text is None or rule.exceptions:
                    continue
                if match := rule.text.search(error.message):
                    yield rule, f"text: {match.group()}", error.path
        for rule in self.rules:
            for error in evidence.exceptions:
                for name in error.type_names:
                    if name in rule.late_exceptions:
                        yield rule, name, error.path


_Match = tuple[FailureRule, str, str | None]
"""A rule, the piece of evidence that it matches, and the path that this evidence names."""


def _also(rule: FailureRule, error: ExceptionEvidence, evidence: Evidence) -> bool:
    """Whether the rest of the evidence is as an exception rule asks for beside the class."""
    if rule.unless and any(rule.unless & set(each.type_names) for each in evidence.exceptions):
        return False
    if rule.text is not None and not rule.text.search(error.message):
        return False
    return rule.log is None or _log_match(rule, evidence) is not None


def _log_match(rule: FailureRule, evidence: Evidence) -> str | None:
    if rule.log is None:
        return None
    matches = (rule.log.search(message) for message in evidence.log_messages)
    return next((match.group() for match in matches if match), None)


class PoisonStep(RuntimeError):
    """A step has ended its worker too often, without any report."""


class StepsChanged(RuntimeError):
    """The steps of a task differ from those of its earlier attempts: renamed or reordered."""


class SuspensionSwallowed(RuntimeError):
    """A handler went on after its run was put to sleep: it caught what ends it until then."""


class ChildTaskFailed(RuntimeError):
    """A task on which another one depends has failed for good; its verdict holds for both."""

    def __init__(self, text: str, verdict: Verdict, details: Mapping[str, Json]) -> None:
        super().__init__(text)
        self.verdict = verdict
        self.failure_details = details
        """What the failure reason adds: the child's stage, host and logs."""

    @classmethod
    def of_reason(cls, text: str, reason: Mapping[str, Json]) -> ChildTaskFailed:
        """From the failure reason of the child, also one that another client has written."""
        known = {name: reason[name] for name in _CHILD_DETAILS if reason.get(name) is not None}
        texts = {name: str(reason.get(name) or "") for name in ("rule", "advice", "matched")}
        kind, path = str(reason.get("kind")), reason.get("path")
        verdict = Verdict(
            FailureKind(kind) if kind in set(FailureKind) else FailureKind.UNKNOWN,
            texts["rule"] or UNRECOGNISED.id,
            texts["advice"] or UNRECOGNISED.advice,
            texts["matched"] or "the child's failure reason",
            path if isinstance(path, str) else None,
        )
        return cls(f"{text}: {reason.get('message')}", verdict, known)


_CHILD_DETAILS = ("stage", "start", "host", "logs", "evidence", "child")

POISON_RULE = FailureRule(
    "poison",
    FailureKind.PERMANENT,
    "Look into the kernel's log (out of memory?) and the step's logs; then: contimg retry TASK",
    "counted in the task's history",
    exceptions=frozenset({f"{PoisonStep.__module__}.{PoisonStep.__qualname__}"}),
    decisive=True,
)


def action_of(reason: Mapping[str, Json]) -> Json:
    """What was done about the failure that a stored reason describes; earlier: ``settled``."""
    earlier = reason.get("settled")
    return reason.get("action", "fallback" if earlier == "escalated" else earlier)


def failure_reason(
    error: BaseException, evidence: Evidence, verdict: Verdict, details: Mapping[str, Json]
) -> dict[str, Json]:
    """The JSON kept on the failed run: Absurd's own fields, the verdict and its evidence."""
    reason = {
        "name": type(error).__name__,
        "message": message_of(error),
        "traceback": evidence.traceback,
        "kind": verdict.kind.value,
        "rule": verdict.rule_id,
        "matched": verdict.matched,
        "advice": verdict.advice,
        "path": verdict.path,
        "evidence": evidence.to_json(),
        **details,
    }
    return {key: sanitized(value) for key, value in reason.items()}
