"""The failure table as Markdown, which is the whole of ``docs/failures.md``.

To write the file: ``contimg failures --markdown > docs/failures.md``.
"""

from __future__ import annotations

from collections.abc import Sequence

from absurd_contimg.core.failures import UNRECOGNISED, FailureKind, FailureRule
from absurd_contimg.core.records import Json
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.execution.fallback import FALLBACKS

_HEAD = """\
# Failures

`contimg failures --markdown` writes this page; a test compares it with the table in the code.

The order of the evidence: errno (the innermost cause first), errors that a stage raises on
purpose, other exceptions along the cause chain (the nearest class first), the signal or exit code
of the stage's process, messages of CASA's log, and text last. An exception that was being handled
when another was raised (`__context__`) comes after that other. A hook of your own
(`Worker.retry_hook`) comes before the table, and answers yes, no, a delay, or nothing.

## Treatment of each kind
"""

_FALLBACKS = """
## Fallbacks

After some failures the next start of the stage uses other parameters, once for each task; the
history and the product's manifest record it. `contimg retry` starts without it.

| fallback | what it does |
|---|---|
"""

_BY_DESIGN = """\
## Events without a rule

| event | why it is not a failure |
|---|---|
| CASA crashes after its work is done | checks of the result decide, not the exit code |
| the reference antenna is flagged or absent | the next in the list is used and recorded |
| another calibrator is in the same field | the model holds all sources of the field, so its \
name does not change the solutions |
| a stage leaks open files | every start of a stage is a new process |
| a subprocess ignores a timeout | the whole process group is killed at the deadline |
| a worker dies, hangs or loses its lease | another worker takes its run, at no attempt |
| a stopped worker (SIGSTOP) continues | its stage was killed before the lease ended, and the \
database refuses its calls |
| SIGTERM | the worker releases the run at once, at no attempt |
| the database is not reachable | calls are repeated under the lease; a lost reply is recognised |
| a Measurement Set is incomplete or partly calibrated | stages write to scratch, and only \
complete products are committed |
| one task is spawned twice | its idempotency key is the group |
| no calibration yet | the task waits for the event, with a deadline |
"""


def failure_table(rules: Sequence[FailureRule], policy: RetryPolicy) -> str:
    """The whole page."""
    lines = [_HEAD, "| kind | what happens |", "|---|---|"]
    lines += [f"| {kind.value} | {_treatment(kind, policy)} |" for kind in FailureKind]
    lines += ["", "## The rules", ""]
    lines += ["| rule | kind | evidence | what to do | source |", "|---|---|---|---|---|"]
    for rule in (*rules, UNRECOGNISED):
        evidence = "; ".join(f"`{item}`" for item in rule.sorts_of_evidence())
        kind, waits = rule.kind.value, rule.resource_waits_max
        kind += "" if waits is None else f", waits {waits} times at most"
        kind += "" if rule.fallback is None else f", then with {rule.fallback}"
        cells = (f"`{rule.id}`", kind, evidence or "no other rule fits", rule.advice, rule.source)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    meanings = "".join(f"| {name} | {meaning} |\n" for name, meaning in FALLBACKS.items())
    return "\n".join(lines) + "\n" + _FALLBACKS + meanings + "\n" + _BY_DESIGN


def rule_summary(rule: FailureRule) -> dict[str, Json]:
    """One rule as JSON."""
    return {
        "rule": rule.id,
        "kind": rule.kind.value,
        "evidence": rule.sorts_of_evidence(),
        "resource_waits_max": rule.resource_waits_max,
        "fallback": rule.fallback,
        "what_to_do": rule.advice,
        "source": rule.source,
        "not_produced_here": rule.not_produced,
    }


def _treatment(kind: FailureKind, policy: RetryPolicy) -> str:
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
