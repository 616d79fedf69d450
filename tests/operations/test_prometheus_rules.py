"""The rules for Prometheus: they parse, and name metrics and labels that the exporter has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from absurd_contimg.config.alerts import AlertsConfig
from absurd_contimg.operations.alerts import all_rules
from absurd_contimg.operations.metrics import METRICS

FILE = Path(__file__).parents[2] / "deploy" / "prometheus" / "contimg.rules.yml"
METRIC_LABELS = {metric.name: set(metric.labels) for metric in METRICS}


def loaded() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(FILE.read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


RULES = {rule["alert"]: rule for rule in loaded()}


def selectors(node: Any) -> Iterator[Any]:
    """Every selector of a metric in a parsed expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("lhs", "rhs", "expr", "vector_selector"):
        if (child := getattr(node, name, None)) is not None:
            yield from selectors(child)
    for child in getattr(node, "args", None) or ():
        yield from selectors(child)


@pytest.mark.parametrize("name", RULES)
def test_expression_parses_and_names_metrics_of_the_exporter(name: str) -> None:
    expression = RULES[name]["expr"]
    found_selectors = list(selectors(promql_parser.parse(expression)))
    names = {selector.name for selector in found_selectors}
    assert names == set(re.findall(r"contimg_\w+", expression))
    assert names <= set(METRIC_LABELS)
    for selector in found_selectors:
        used = {matcher.name for matcher in selector.matchers.matchers}
        assert used <= METRIC_LABELS[selector.name]


@pytest.mark.parametrize("name", RULES)
def test_rule_does_not_flap_and_says_what_to_run(name: str) -> None:
    """It is raised after a time, is kept for a time, and its texts use labels that are there."""
    rule = RULES[name]
    for key in ("for", "keep_firing_for"):
        assert promql_parser.parse_duration(rule[key]).total_seconds() >= 60
    assert rule["labels"]["severity"] in ("warning", "critical")
    texts = " ".join(rule["annotations"].values())
    assert "contimg" in texts or "systemctl" in texts
    (first, *_) = re.findall(r"contimg_\w+", rule["expr"])
    assert set(re.findall(r"\$labels\.(\w+)", texts)) <= METRIC_LABELS[first]


def test_thresholds_are_the_defaults_of_our_own_rules() -> None:
    rules = {rule.name: rule for rule in all_rules(AlertsConfig())}
    config = AlertsConfig()
    pairs = {
        "ContimgTasksFailed": rules["tasks-failed"].raised,
        "ContimgEnqueuedTooLong": rules["enqueued-too-long"].raised,
        "ContimgQueuePaused": rules["queue-paused"].raised,
        "ContimgWorkerSilent": rules["worker-silent"].raised,
        "ContimgDaemonSilent": rules["daemon-silent"].raised,
        "ContimgNoNewFiles": round(config.cadences * config.cadence_seconds),
        "ContimgDiskFills": rules["disk-fills"].raised,
        "ContimgDiskFull": rules["disk-full"].raised,
        "ContimgInodesFull": round(1 - rules["inodes-full"].raised, 6),
        "ContimgImageNoise": round(config.noise_max_mjy / 1e3, 6),
        "ContimgFluxRatio": config.flux_ratio_min,
    }
    for name, threshold in pairs.items():
        numbers = [float(text) for text in re.findall(r"(?<![\w.])[\d.]+", RULES[name]["expr"])]
        assert threshold in numbers, (name, threshold, numbers)
    assert config.flux_ratio_max in map(
        float, re.findall(r"[\d.]+", RULES["ContimgFluxRatio"]["expr"])
    )


def test_every_own_rule_has_one_for_prometheus() -> None:
    """But for those that Prometheus sees by missing metrics, by quantiles of stages, and by
    `node_filesystem_readonly` of the node exporter."""
    known = {
        re.sub(r"(?<!^)([A-Z])", r"-\1", name).lower().removeprefix("contimg-") for name in RULES
    }
    ours = {rule.name for rule in all_rules(AlertsConfig())}
    assert ours - known == {"database-away", "registry-away", "stage-slow", "disk-read-only"}
    assert known - ours == {"not-exported"}
