"""``docs/failures.md``, written by: contimg failures --markdown > docs/failures.md"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absurd_contimg.core.failures import UNRECOGNISED, FailureRule
from absurd_contimg.core.records import Json
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.execution.fallback import FALLBACKS
from absurd_contimg.workflows.failure_rules import CLASSIFIER

RULES = (*CLASSIFIER.rules, UNRECOGNISED)
"""The failure table in the order in which its rules are tried."""

_PAGE = Path(__file__).with_name("failures.md.format")
"""The text of the page, for `str.format`."""


def failure_table(rules: Sequence[FailureRule], policy: RetryPolicy) -> str:
    """The whole page."""
    return _PAGE.read_text(encoding="utf-8").format(
        policy=policy,
        rules="\n".join(map(_row, rules)),
        fallbacks="\n".join(f"| {name} | {meaning} |" for name, meaning in FALLBACKS.items()),
    )


def _row(rule: FailureRule) -> str:
    evidence = "; ".join(f"`{item}`" for item in rule.sorts_of_evidence())
    kind, waits = rule.kind.value, rule.resource_waits_max
    kind += "" if waits is None else f", waits {waits} times at most"
    kind += "" if rule.fallback is None else f", then with {rule.fallback}"
    cells = (f"`{rule.id}`", kind, evidence or "no other rule fits", rule.advice, rule.source)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


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
