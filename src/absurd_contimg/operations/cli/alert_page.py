"""``docs/alerts.md``, written by: contimg alerts rules --markdown > docs/alerts.md"""

from __future__ import annotations

from pathlib import Path

from absurd_contimg.config.alerts import AlertsConfig
from absurd_contimg.core.records import Json
from absurd_contimg.operations.alerts import Rule, all_rules
from absurd_contimg.operations.metrics import METRICS, Metric

_PAGE = Path(__file__).with_name("alerts.md.format")
"""The text of the page, for `str.format`."""


def alert_page() -> str:
    """The whole page, with the default thresholds."""
    config = AlertsConfig()
    return _PAGE.read_text(encoding="utf-8").format(
        config=config,
        rules="\n".join(map(_rule_row, all_rules(config))),
        metrics="\n".join(map(_metric_row, METRICS)),
    )


def rule_summary(rule: Rule, config: AlertsConfig) -> dict[str, Json]:
    """One rule as JSON."""
    return {
        "rule": rule.name,
        "severity": rule.severity,
        "measures": rule.meaning,
        "raised_at": rule.raised,
        "cleared_at": rule.cleared,
        "looks": rule.looks,
        "hold_seconds": rule.hold_seconds,
        "source": rule.source,
        "what_to_do": rule.remedy,
        "enabled": rule.name not in config.disabled,
    }


def _rule_row(rule: Rule) -> str:
    high = rule.raised > rule.cleared
    raised = f"{'≥' if high else '≤'} {rule.raised:g}, {rule.looks} looks"
    cleared = f"{'<' if high else '>'} {rule.cleared:g} for {rule.hold_seconds / 60:g} min"
    cells = (f"`{rule.name}`", rule.severity, rule.meaning, raised, cleared)
    return _row(*cells, rule.source, rule.remedy)


def _metric_row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    kind = "histogram" if metric.durations is not None else "gauge"
    return _row(f"`{metric.name}`", kind, labels, metric.help)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
