"""What a campaign reports of a violation can be pasted into a shell and shows it again."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from absurd_contimg.core import worker
from absurd_contimg.simulation.campaign.campaign import Campaign
from absurd_contimg.simulation.campaign.campaigns import run_campaign
from absurd_contimg.simulation.campaign.scenario import ScenarioError, load_scenario
from absurd_contimg.simulation.model.trace import Trace

from .mutants_worker import work_goes_on

_SCENARIO = """
name = "sleeping workers"
days = 0.05
[faults]
worker_pauses_per_day = 40
partitions_per_day = 20
[sweep]
"workers.count" = [1, 2]
"""

_BUG = f"import asyncio\nfrom typing import Any\n\n{inspect.getsource(work_goes_on)}"

_A_FRESH_SHELL = f"""{_BUG}
import sys
from absurd_contimg.core import worker
from absurd_contimg.operations.cli.main import main
worker.while_leased = work_goes_on
sys.argv = sys.argv[1:]
main()
"""
"""``contimg`` in a process of its own, with the same bug in it."""


@pytest.fixture
def bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "while_leased", work_goes_on)


def test_printed_command_shows_the_same_violation_and_what_happened(
    bug: None, tmp_path: Path
) -> None:
    scenario = tmp_path / "sleeping workers.toml"
    scenario.write_text(_SCENARIO)
    report = run_campaign(scenario, [3])
    assert report.replays
    text = report.replays[0]
    fewest = re.search(r"(\d+) of (\d+) faults are enough", text)
    assert fewest is not None
    assert int(fewest[1]) == 1 < int(fewest[2])
    command = next(line for line in text.splitlines() if line.startswith("contimg"))
    violation = next(line for line in text.splitlines() if "no_two_workers_in_one_stage" in line)
    again = subprocess.run(
        [sys.executable, "-c", _A_FRESH_SHELL, *shlex.split(command)],
        env={**os.environ, "PYTHONHASHSEED": "11", "COLUMNS": "80"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert again.returncode == 1, again.stdout + again.stderr
    assert violation in again.stdout.splitlines()
    assert f"fault {command.split('--faults ')[1].split()[0]}" in again.stdout
    assert re.search(r"^ +[\d.]+ s  worker-\d: claim_task\(", again.stdout, re.MULTILINE)


def test_trace_of_a_violation_is_about_its_task(bug: None, tmp_path: Path) -> None:
    scenario = tmp_path / "dying.toml"
    scenario.write_text(_SCENARIO)
    text = run_campaign(scenario, [3], variant="workers.count = 2").replays[0]
    lines = [line for line in text.splitlines() if " s  " in line]
    assert len([line for line in lines if "is spawned" in line]) == 1
    assert any("fault pause" in line for line in lines)
    assert len([line for line in lines if "complete_run(" in line]) >= 1


def test_watching_changes_nothing() -> None:
    """Also where a fault meets a process in the middle of a call."""
    scenario = load_scenario("bad_night").model_copy(update={"days": 0.1})
    trace = Trace()
    watched, alone = Campaign(scenario, 3, trace=trace).run(), Campaign(scenario, 3).run()
    assert watched.digest == alone.digest
    assert len(trace.text()) > 1000


def test_variant_that_is_none_is_named() -> None:
    with pytest.raises(ScenarioError, match=r"no variant 'x', only workers\.count = 1"):
        run_campaign("scaling", [1], variant="x")
