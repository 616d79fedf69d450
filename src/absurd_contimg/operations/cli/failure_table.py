"""``docs/failures.md``, written by: contimg failures --markdown > docs/failures.md"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from absurd_contimg.core.failures import FailureKind, FailureRule
from absurd_contimg.core.records import Json
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.errors import SettingError
from absurd_contimg.execution.fallback import FALLBACKS
from absurd_contimg.similar_names import did_you_mean
from absurd_contimg.workflows.failure_rules import RULES_BY_ID

RULES = tuple(RULES_BY_ID.values())
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


def find_rules(name: str) -> list[FailureRule]:
    """The rule of this name, else those with it in their name; `SettingError` if there is none."""
    exact = [rule for rule in RULES if rule.id == name]
    rules = exact or [rule for rule in RULES if name in rule.id]
    if not rules:
        hint = did_you_mean(name, [rule.id for rule in RULES], "contimg failures lists them.")
        raise SettingError(f"There is no rule {name!r}.", hint)
    return rules


def explain_rule(rule: FailureRule, policy: RetryPolicy) -> Iterator[str]:
    """Sentences about one rule, for a person who has met it."""
    yield f"{rule.id}: {rule.kind.value}"
    yield f"  What happens: {_treatment(rule, policy)}"
    yield f"  What to do: {rule.advice}"
    yield f"  Evidence: {'; '.join(rule.sorts_of_evidence()) or 'no other rule fits'}"
    yield f"  Source: {rule.source}"


def _treatment(rule: FailureRule, policy: RetryPolicy) -> str:
    if rule.kind is FailureKind.RESOURCE:
        waits = rule.resource_waits_max or policy.resource_waits_max
        text = (
            f"it waits {policy.resource_wait_seconds:.0f} s, then twice as long each time up to "
            f"{policy.resource_wait_limit_seconds:.0f} s, at most {waits} times; that costs no "
            "attempt"
        )
    else:
        text = {
            FailureKind.TRANSIENT: f"it is tried {policy.transient_attempts} times in its stage",
            FailureKind.PERMANENT: "it fails at once, for the same input gives the same failure",
            FailureKind.INTERRUPTED: "it is run again, and that costs no attempt",
            FailureKind.UNKNOWN: f"it is tried {policy.unknown_attempts} times",
        }[rule.kind]
    return text + ("." if rule.fallback is None else f"; then it is tried with {rule.fallback}.")


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
