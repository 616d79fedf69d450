"""`contimg failures`: every rule is there and explained."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from absurd_contimg.errors import SettingError
from absurd_contimg.operations.cli.failure_table import RULES
from absurd_contimg.operations.cli.main import app
from absurd_contimg.workflows.failure_rules import CLASSIFIER


def test_failure_table_as_json_is_complete() -> None:
    rules = json.loads(CliRunner().invoke(app, ["failures", "--json"]).stdout)
    others = ["unrecognised", "$ClaimTimeout"]
    assert [rule["rule"] for rule in rules] == [*(r.id for r in CLASSIFIER.rules), *others]
    assert all(rule["what_to_do"] and rule["kind"] for rule in rules)


@pytest.mark.parametrize("rule", [rule.id for rule in RULES])
def test_rule_is_explained_with_what_happens_and_what_to_do(rule: str) -> None:
    shown = CliRunner().invoke(app, ["failures", rule]).stdout
    (known,) = [each for each in RULES if each.id == rule]
    assert shown.startswith(f"{rule}: {known.kind}")
    assert "What happens: it " in shown
    assert known.advice in shown


def test_part_of_a_rule_or_a_misspelt_one_leads_on() -> None:
    shown = CliRunner().invoke(app, ["failures", "casa-"]).stdout
    assert "casa-disk-full: resource" in shown
    assert "casa-memory: resource" in shown
    with pytest.raises(SettingError, match="Did you mean data-quality"):
        CliRunner().invoke(app, ["failures", "data-qualty"], catch_exceptions=False)
