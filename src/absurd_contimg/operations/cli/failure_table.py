"""The failure table as Markdown: ``docs/failures.md`` is this and nothing else.

To write it again: ``contimg failures --markdown > docs/failures.md``.
"""

from __future__ import annotations

from collections.abc import Sequence

from absurd_contimg.core.failures import UNRECOGNISED, FailureKind, FailureRule
from absurd_contimg.core.records import Json
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.execution.fallback import ESCALATIONS

_HEAD = """\
# Failures

Written by `contimg failures --markdown`; a test holds it to the table in the code.

Evidence is weighed in this order: errno (the innermost cause first), errors raised on purpose by
a stage, other exceptions along the cause chain (the nearest class first), the signal or exit code
of the stage's process, what CASA logged, and text last. What was merely being handled when
another error was raised is heard after that error. A hook of your own (`Worker.retry_hook`) is
asked before the table, and answers yes, no, a delay, or nothing.

## What each kind gets
"""

_ESCALATIONS = """
## Escalations

After some failures the next start of the stage is made differently, once a task; the history and
the product's manifest say so. `contimg retry` begins again without.

| escalation | what it does |
|---|---|
"""

_BY_DESIGN = """\
## What needs no rule

| what happens | why it is no failure here |
|---|---|
| CASA crashes after its work is done | the result is judged by its checks, not by the exit code |
| the reference antenna is flagged or absent | the next of the list is taken, and recorded |
| another calibrator is in the same field | the model holds all sources of the field, so another \
name for it would give the same solutions |
| a stage leaks open files | every start of a stage is a fresh process |
| a helper ignores a timeout | the whole process group is killed at the deadline |
| a worker dies, hangs or loses its lease | its run is taken up by another and costs no attempt |
| a worker is stopped (SIGSTOP) and wakes up | its stage was killed before the lease ended, and \
the database refuses its word |
| SIGTERM | the run is released at once and costs no attempt |
| the database goes away | calls are repeated under the lease; a lost reply is recognised |
| a Measurement Set is half written or half calibrated | stages write to scratch; what is not \
whole is not committed |
| one task is spawned twice | its idempotency key is the group |
| no calibration yet | the task waits for the event, with a deadline |
"""


def failure_table(rules: Sequence[FailureRule], policy: RetryPolicy) -> str:
    """The whole page, ending in a newline."""
    lines = [_HEAD, "| kind | what happens |", "|---|---|"]
    lines += [f"| {kind.value} | {_deserves(kind, policy)} |" for kind in FailureKind]
    lines += ["", "## The rules", ""]
    lines += ["| rule | kind | evidence | what to do | source |", "|---|---|---|---|---|"]
    for rule in (*rules, UNRECOGNISED):
        evidence = "; ".join(f"`{one}`" for one in rule.sorts_of_evidence()) or "nothing else fits"
        limit = (
            ""
            if rule.resource_waits_max is None
            else f", waits {rule.resource_waits_max} times at most"
        )
        limit += "" if rule.escalation is None else f", then with {rule.escalation}"
        cells = (f"`{rule.id}`", rule.kind.value + limit, evidence, rule.advice, rule.source)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    meanings = "".join(f"| {name} | {meaning} |\n" for name, meaning in ESCALATIONS.items())
    return "\n".join(lines) + "\n" + _ESCALATIONS + meanings + "\n" + _BY_DESIGN


def rule_summary(rule: FailureRule) -> dict[str, Json]:
    """One rule as JSON."""
    return {
        "rule": rule.id,
        "kind": rule.kind.value,
        "evidence": rule.sorts_of_evidence(),
        "resource_waits_max": rule.resource_waits_max,
        "escalation": rule.escalation,
        "what_to_do": rule.advice,
        "source": rule.source,
        "not_produced_here": rule.not_produced,
    }


def _deserves(kind: FailureKind, policy: RetryPolicy) -> str:
    match kind:
        case FailureKind.TRANSIENT:
            return (
                f"tried up to {policy.transient_attempts} times in its stage, "
                f"{policy.backoff_first_seconds:g} s apart and doubling"
            )
        case FailureKind.RESOURCE:
            return (
                f"waits {policy.resource_wait_seconds:g} s at a time, at most "
                f"{policy.resource_waits_max} times; costs no attempt. "
                "Failed instead with CONTIMG_ON_SHORTAGE=fail"
            )
        case FailureKind.PERMANENT:
            return "fails at once; data-quality failures quarantine their group"
        case FailureKind.INTERRUPTED:
            return (
                "run again, costs no attempt; a stage that ends "
                f"{policy.poison_limit} workers is failed as poison"
            )
        case FailureKind.UNKNOWN:
            return f"tried {policy.unknown_attempts} times"
