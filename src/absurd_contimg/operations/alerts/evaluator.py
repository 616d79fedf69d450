"""From a look at the site and the earlier states to the new states: pure, without a clock.

An alert is raised after some bad looks in a row and cleared when the value has been good for the
hold time of its rule. So between two raises of the same alert lies at least the hold time, whatever
the values do. A clock that steps back makes a hold begin again at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal

from absurd_contimg.operations.alerts.records import (
    Alert,
    Evaluation,
    Key,
    Look,
    Measured,
    Notice,
    Rule,
    Verdict,
)
from absurd_contimg.operations.console import one_line

SUBJECTS_MAX = 200
"""Of one rule; further ones are not looked at until others are gone."""
_SUBJECT_LENGTH_MAX = 200
_FACT_LENGTH_MAX = 1000


def evaluate(
    rules: Sequence[Rule], alerts: Mapping[Key, Alert], look: Look, now: float
) -> Evaluation:
    """The states after a look at a moment (Unix seconds), and what was raised or cleared.

    A subject that is no longer there counts as good; a rule that is no longer there clears its
    alerts at once.
    """
    after: dict[Key, Alert] = {}
    notices: list[Notice] = []
    known_rules = {rule.name for rule in rules}
    for key, alert in alerts.items():
        if key[0] not in known_rules and alert.is_raised:
            ended = replace(alert, fact="The rule is no longer in the settings.")
            notices.append(_notice("cleared", key, ended, now))
    for rule in rules:
        measured = _measure(rule, look)
        hides = not rule.needs_for_all.isdisjoint(look.away)
        earlier = [subject for name, subject in alerts if name == rule.name]
        further = [subject for subject in measured or () if (rule.name, subject) not in alerts]
        for subject in [*earlier, *further][:SUBJECTS_MAX]:
            key = (rule.name, subject)
            before = alerts.get(key, Alert())
            is_hidden = subject not in (measured or ()) and hides
            alert = _next(rule, before, None if is_hidden else measured, subject, now)
            if alert.is_raised and not before.is_raised:
                notices.append(_notice("raised", key, alert, now))
            if before.is_raised and not alert.is_raised:
                notices.append(_notice("cleared", key, alert, now))
            if alert.is_raised or alert.looks:
                after[key] = alert
    return Evaluation(after, tuple(notices))


def _measure(rule: Rule, look: Look) -> Mapping[str, Measured] | None:
    """What the rule measures by subject; None where what it needs is away."""
    if not rule.needs.isdisjoint(look.away) or (rule.needs and look.overview is None):
        return None
    return dict(map(_harmless, rule.measure(look)))


def _harmless(measured: Measured) -> tuple[str, Measured]:
    """What others have named, on one line that any terminal, database or receiver takes."""
    subject = one_line(measured.subject, _SUBJECT_LENGTH_MAX)
    fact = one_line(measured.fact, _FACT_LENGTH_MAX)
    command = one_line(measured.command, _FACT_LENGTH_MAX)
    return subject, replace(measured, subject=subject, fact=fact, command=command)


def _next(
    rule: Rule, alert: Alert, measured: Mapping[str, Measured] | None, subject: str, now: float
) -> Alert:
    if measured is None:
        return replace(alert, good_since=None)
    current = measured.get(subject, Measured(subject, None, f"{subject} is gone.", ""))
    verdict = Verdict.GOOD if subject not in measured else rule.verdict(current.value)
    if verdict is Verdict.UNMEASURED:
        return replace(alert, good_since=None)
    alert = replace(
        alert,
        severity=rule.severity,
        value=current.value,
        fact=current.fact,
        command=current.command,
        task=None if current.task_id is None else str(current.task_id),
    )
    if verdict is Verdict.BAD:
        looks = min(alert.looks + 1, rule.looks)
        raised_at = now if alert.raised_at is None and looks >= rule.looks else alert.raised_at
        return replace(alert, looks=looks, raised_at=raised_at, good_since=None)
    if verdict is Verdict.BETWEEN or not alert.is_raised:
        return replace(alert, looks=0, good_since=None)
    good_since = now if alert.good_since is None else min(alert.good_since, now)
    if now - good_since >= rule.hold_seconds:
        return replace(alert, looks=0, raised_at=None, good_since=None)
    return replace(alert, looks=0, good_since=good_since)


def _notice(event: Literal["raised", "cleared"], key: Key, alert: Alert, now: float) -> Notice:
    return Notice(
        event=event,
        rule=key[0],
        subject=key[1],
        severity=alert.severity,
        fact=alert.fact,
        command=alert.command,
        task=alert.task,
        at=datetime.fromtimestamp(now, UTC),
    )
