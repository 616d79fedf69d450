"""Campaigns: what a scenario asks for happens, is reported, and is the same every time."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from rich.console import Console

from absurd_contimg.errors import SettingError
from absurd_contimg.history.timeline import step_order, step_starts
from absurd_contimg.simulation.campaign.campaign import Campaign
from absurd_contimg.simulation.campaign.campaigns import run_campaign
from absurd_contimg.simulation.campaign.faults import TimedFault, shrink
from absurd_contimg.simulation.campaign.page import FAULT_MEANINGS
from absurd_contimg.simulation.campaign.report import lost_time_lines
from absurd_contimg.simulation.campaign.scenario import (
    Scenario,
    ScenarioError,
    StreamPart,
    Telescope,
    Workers,
    load_scenario,
    shipped_scenarios,
)
from absurd_contimg.simulation.campaign.summary import (
    RunSummary,
    backlog_gone_after,
    summarize_run,
)
from absurd_contimg.simulation.model.faults import TIMED_KINDS, FaultKind, parse_timed_faults
from absurd_contimg.simulation.model.stage_model import DEFAULT_COSTS
from absurd_contimg.simulation.model.trace import Trace


@pytest.mark.parametrize("name", ["bad_night", "database_failover", "worker_massacre"])
def test_shipped_scenario_keeps_every_invariant(name: str) -> None:
    run = Campaign(load_scenario(name), seed=1).run()
    assert [str(violation) for violation in run.violations] == []
    assert sum(run.effective.values()) > 0


def test_full_disk_parks_work_until_the_operator_frees_space() -> None:
    run = Campaign(load_scenario("disk_fills"), seed=1).run()
    assert [str(violation) for violation in run.violations] == []
    assert any("operator" in line for line in run.trace)
    assert summarize_run(run, "").completed == len(run.histories)


@pytest.mark.parametrize(("killed_at", "paused_for"), [(6551.0, 96.0), (6560.0, 200.0)])
def test_a_worker_killed_while_paused_worked_until_its_pause(
    killed_at: float, paused_for: float
) -> None:
    """It counted as at work until its death, beside the worker that had taken over."""
    scenario = Scenario(
        name="drawn",
        days=0.078125,
        workers=Workers(count=3, hosts=1, lease_seconds=120),
        telescope=Telescope(calibrator_every=1),
    )
    faults = [
        TimedFault(6455.0, FaultKind.PAUSE, 0, paused_for),
        TimedFault(killed_at, FaultKind.KILL, 0, 0.0),
    ]
    run = Campaign(scenario, seed=1, faults=faults).run()
    assert [str(violation) for violation in run.violations] == []


def test_report_says_what_a_task_waits_for_until_when_and_what_to_do() -> None:
    parts = {"name": "full", "days": 0.02, "drain_seconds": 0.0, "disk": {"capacity_bytes": 7e9}}
    run = Campaign(Scenario.model_validate(parts), seed=1, trace=Trace()).run()
    assert [str(violation) for violation in run.violations] == []
    summary = summarize_run(run, "")
    assert summary.resource_waits.keys() == {"disk-full"}
    assert len(summary.waiting) == summary.unfinished > 0
    says = (
        r"group 2026-01-01T00:\S+ waits for resource disk-full \(/simulated/scratch\), "
        r"until 2026-01-01 00:\S+ UTC: Free space"
    )
    assert re.match(says, summary.waiting[0])
    shown = "[waiting: resource (disk-full) /simulated/scratch, until 2026-01-01 00:"
    assert any(shown in line for line in run.trace)


def test_lost_time_adds_up_by_cause() -> None:
    """A lease that a living worker lost counted as a death, and failures were in the sum alone."""
    run = Campaign(load_scenario("bad_night"), seed=1).run()
    summary = summarize_run(run, "night")
    starts = Counter(start.outcome for each in run.histories for start in step_starts(each))
    assert {cause: loss.starts for cause, loss in summary.losses.items()} == {
        "died": starts["died"],
        "lost": starts["lost"],
        "failed": starts["retry"] + starts["failed"],
    }
    assert min(loss.seconds for loss in summary.losses.values()) > 100
    lost = sum(loss.seconds for loss in summary.losses.values())
    assert lost == pytest.approx(sum(each.seconds for each in run.lost_stages))
    assert lost == pytest.approx(summary.lost_share * summary.stage_seconds)
    died = summary.losses["died"]
    total, *parts = lost_time_lines([summary, summary])
    assert total.startswith(f"night: {2 * lost:,.0f} s of {2 * summary.stage_seconds:,.0f} s")
    assert f"{2 * died.seconds:>11,.0f} s in {2 * died.starts} starts: the worker died" in parts


def test_steps_of_no_duration_stand_in_the_order_of_their_starts() -> None:
    """In virtual time a step may begin at the very moment at which it ends."""
    run = Campaign(Scenario(name="hour", days=0.05), 1).run()
    steps = step_order(run.histories)
    assert steps.index("select_calibration") + 1 == steps.index("calibrate_apply")


def test_poison_fails_and_everything_else_goes_on() -> None:
    run = Campaign(load_scenario("poison_observation"), seed=1).run()
    assert [str(violation) for violation in run.violations] == []
    result = summarize_run(run, "")
    assert (result.failed, result.unfinished) == (2, 0)
    assert result.failed_by_rule == {"image: poison": 2}


def test_failed_groups_have_their_reason_in_the_output_and_on_the_page(tmp_path: Path) -> None:
    """The table said that five had failed, and nothing said why."""
    scenario = tmp_path / "poison.toml"
    scenario.write_text('name = "poison"\ndays = 0.1\n[faults]\npoison_groups = [2, 5]\n')
    printed = StringIO()
    output = tmp_path / "out"
    run_campaign(scenario, [1], Console(file=printed, width=200), output)
    assert "poison, seed 1: failed groups: 2, of them 2 image: poison" in printed.getvalue()
    assert f"Writing {output}/report.json and report.html" in printed.getvalue()
    page = (output / "report.html").read_text()
    assert "Failed groups, by the step and the rule that ended them" in page
    assert "<td>image: poison</td><td class='n'>2</td>" in page
    assert "Look into the kernel" in page.split("image: poison")[1]


@pytest.mark.parametrize("workers", [3, 4])
def test_backlog_of_an_outage_goes_as_fast_as_queueing_theory_says(workers: int) -> None:
    """In a fluid queue: backlog x service / (workers - load), and the load is service / 309 s."""
    stop, service = 3600.0, sum(cost.seconds for cost in DEFAULT_COSTS.values())
    faults = {"processing_stops": [[3000.0, stop]]}
    parts = {"name": "x", "days": 0.2, "workers": {"count": workers}, "faults": faults}
    run = Campaign(Scenario.model_validate(parts), seed=1).run()
    result = backlog_gone_after(run)
    backlog, load = stop / 309.0 + 1, service / 309.0
    assert result == pytest.approx(backlog * service / (workers - load), rel=0.2)


@pytest.mark.parametrize(
    ("faults", "says"),
    [
        ("kill-4@5", "fault kill-4@5: the number of a kill is at most 3 here"),
        ("partition-2@100/24", "fault partition-2@100/24: the number of a partition is at most 1"),
        ("outage-1@5/9", "the number of a outage is at most 0"),
        ("kill-0@99999999", "x observes for 8640 s only"),
    ],
)
def test_fault_that_can_hit_nothing_is_refused(faults: str, says: str) -> None:
    parts = {"name": "x", "days": 0.1, "workers": {"count": 4, "hosts": 2}}
    with pytest.raises(ScenarioError, match=re.escape(says)):
        Campaign(Scenario.model_validate(parts), 1, parse_timed_faults(faults))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[workers]\ncuont = 3", "workers.cuont is unknown (did you mean workers.count?)"),
        ("[wokers]\ncount = 3", "wokers is unknown (did you mean workers?)"),
        ("dys = 'x'\n", "dys is unknown (did you mean days?)"),
        ("[workers]\ncount = 0", "workers.count is 0: it must be a whole number, at least 1"),
        ('[sweep]\n"workers.count" = []', "sweep needs at least one value of its field"),
        ("[workers]\ncount = true", "workers.count is True: it must be a whole number, at least 1"),
        ("[workers]\ncount = '2'", "workers.count is '2': it must be a whole number, at least 1"),
        (
            "[workers]\npoll_seconds = true",
            "workers.poll_seconds is True: it must be a number, at least",
        ),
        (
            "[faults]\noutages = [[5, true]]",
            "faults.outages.0.1 is True: it must be a list, each a",
        ),
        (
            "[faults]\npoison_groups = [true]",
            "faults.poison_groups.0 is True: it must be a list, each",
        ),
        ("[stream]\nclock_steps = [[-5, 1]]", "stream.clock_steps begin at -5 s: at least 0"),
        (
            "[workers]\nhosts = 1000000",
            "workers.hosts is 1000000: it must be a whole number, at least 1 and at most 256",
        ),
        (
            "[faults]\nworker_kills_per_day = 86400\n[workers]\ncount = 256",
            "faults.worker_kills_per_day makes 2.21184e+07 events in days = 1, and at most "
            "1,000,000 are simulated",
        ),
        (
            "drain_seconds = 2e6\n[operator]\nretries_every_seconds = 1",
            "operator.retries_every_seconds makes 2.0864e+06 events in days = 1, and at most",
        ),
        (
            "[telescope]\ninterval_seconds = 1e-9",
            "days = 1 and telescope.interval_seconds = 1e-09 make 8.64e+13 groups, and at most "
            "1,000,000 are simulated: lower days or raise telescope.interval_seconds",
        ),
    ],
)
def test_wrong_scenario_says_which_field(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"name = 'x'\n{text}")
    with pytest.raises(ScenarioError, match=re.escape(f"Scenario {path}: {says}")):
        load_scenario(path)


def numbers(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """The fields of a scenario that hold one number, by their dotted names."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from ((f"{name}.{below}", each) for below, each in numbers(field.annotation))
        elif field.annotation in (int, float, float | None):
            yield name, field
    if model is Scenario:
        yield from ((f"stream.{name}", each) for name, each in numbers(StreamPart))


@pytest.mark.parametrize("name", dict(numbers(Scenario)))
def test_a_huge_number_is_refused_with_its_bound(name: str) -> None:
    """A simulation with 10^9 hosts ate the memory, one with 10^12 faults never began."""
    part, _, key = name.rpartition(".")
    kind = int if dict(numbers(Scenario))[name].annotation is int else float
    huge: dict[str, Any] = {key: kind(10**30)}
    with pytest.raises(ValidationError, match="less than"):
        Scenario.model_validate({"name": "x", **({part: huge} if part else huge)})


def test_seeds_and_variants_are_bounded_together() -> None:
    with pytest.raises(ScenarioError, match=r"5,000,000,000,000 runs .* at most 100,000"):
        run_campaign("long_outage", range(10**12))


def test_whole_numbers_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        "name = 'x'\ndays = 1\n[disk]\ncapacity_bytes = 7e9\n[faults]\noutages = [[5, 10]]\n"
    )
    scenario = load_scenario(path)
    assert (scenario.days, scenario.faults.outages) == (1.0, [(5.0, 10.0)])
    assert scenario.disk.capacity_bytes == 7_000_000_000


def test_folder_is_no_scenario(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"cannot be read: .*Is a directory"):
        load_scenario(tmp_path)


def test_folder_that_cannot_be_written_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ScenarioError, match="file/report cannot be written"):
        run_campaign("quiet_night", [1], output=tmp_path / "file" / "report")


@pytest.mark.parametrize("name", ["report.json", "report.html"])
def test_files_of_somebody_else_are_refused_before_the_first_run(name: str, tmp_path: Path) -> None:
    """They were written over, through links too."""
    target = tmp_path / "precious"
    target.write_text("precious")
    (tmp_path / name).symlink_to(target)
    with pytest.raises(SettingError, match="is no report of a simulation"):
        run_campaign("quiet_night", [1], output=tmp_path)
    assert target.read_text() == "precious"


def test_histories_without_stages_are_not_fitted() -> None:
    with pytest.raises(ValueError, match="nothing to fit"):
        run_campaign("quiet_night", [1], fit_from=[])


def test_report_of_a_night_that_completes_nothing_is_json(tmp_path: Path) -> None:
    path = tmp_path / "all_corrupt.toml"
    path.write_text("name='x'\ndays=0.02\n[telescope]\ncorrupt_probability=1.0\n")
    shown = Console(width=80, file=StringIO())
    for _ in range(2):  # the second report takes the place of the first
        result = run_campaign(path, [1], shown, tmp_path)
    (first,) = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert (first["latency_p50"], first["throughput_per_hour"]) == (None, 0.0)
    assert result.ok
    assert " viol " in shown.file.getvalue()  # type: ignore[attr-defined]


def test_report_writes_nothing_but_its_folder(tmp_path: Path) -> None:
    """Matplotlib left alone makes a list of fonts in the home folder."""
    home, output = tmp_path / "home", tmp_path / "out"
    home.mkdir()
    (tmp_path / "short.toml").write_text("name='x'\ndays=0.02\n")
    program = (
        "from pathlib import Path\n"
        "from absurd_contimg.simulation.campaign.campaigns import run_campaign\n"
        "run_campaign('short.toml', [1], output=Path('out'))\n"
    )
    kept = {name: text for name, text in os.environ.items() if name[:3] not in ("MPL", "XDG")}
    env = {**kept, "HOME": str(home)}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, env=env)
    assert {path.name for path in output.iterdir()} == {
        "report.html",
        "report.json",
        "run-1.histories.gz",
        "runs.json",
    }
    assert not list(home.iterdir())


def test_mistakes_in_a_scenario_are_named(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"No scenario nope.*quiet_night"):
        load_scenario("nope")
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('name = "x"\n[faults.stage_failures]\nfire = 0.1\n')
    with pytest.raises(ScenarioError, match=r"wrong.toml.*\n?.*fire|fire"):
        load_scenario(wrong)


def test_report_is_written_as_json_and_html(tmp_path: Path) -> None:
    scenario = tmp_path / "short.toml"
    scenario.write_text('name = "short"\ndays = 0.05\n[sweep]\n"workers.count" = [1, 2]\n')
    printed = StringIO()
    report = run_campaign(scenario, [1], Console(file=printed, width=80), tmp_path / "out")
    assert report.ok
    lines = printed.getvalue().partition("Variants")[2].splitlines()
    assert [line.split()[:5] for line in lines[2:4]] == [
        ["workers.count", "=", "1", *_verdict(report.summaries[0])],
        ["workers.count", "=", "2", *_verdict(report.summaries[1])],
    ]
    rows = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["label"] for row in rows] == ["workers.count = 1", "workers.count = 2"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/png") == 2
    assert "http" not in page
    assert "<script" not in page
    assert "Simulated campaign: short" in page
    assert "No invariant is violated." in page
    assert set(FAULT_MEANINGS) == {kind.value for kind in TIMED_KINDS}
    (row, _) = re.findall(r"<tr><td>workers.count = \d</td>(.*?)</tr>", page)
    heads = re.findall(r"<th class='n'>(.*?)</th>", page)
    cells = re.findall(r"<td class='n'>(.*?)</td>", row)
    assert len(cells) == len(heads)
    shown = dict(zip(heads, cells, strict=True))
    assert shown["groups"] == str(rows[0]["groups"])
    assert shown["median<br>min"] == f"{rows[0]['latency_p50'] / 60:.1f}"


def _verdict(summary: RunSummary) -> list[str]:
    return [str(summary.unfinished), "left"] if summary.unfinished else ["all", "done"]


def test_another_seed_gives_another_history() -> None:
    """That the same seed gives the same one, in any process, is shown in `test_deterministic`."""
    short = load_scenario("bad_night").model_copy(update={"days": 0.1})
    assert Campaign(short, 7).run().digest != Campaign(short, 8).run().digest


def test_faults_shrink_to_the_fewest_that_still_break() -> None:
    faults = [TimedFault(float(number), "kill", number) for number in range(20)]
    result = shrink(faults, lambda some: {3, 17} <= {fault.target for fault in some})
    assert [fault.target for fault in result] == [3, 17]


def test_sweep_over_an_unknown_field_is_refused() -> None:
    with pytest.raises(ScenarioError, match=r"workers\.colour"):
        Scenario(name="x", sweep={"workers.colour": [1]}).variants()


@pytest.mark.parametrize("listed", ["outages", "processing_stops", "disk_fills"])
@pytest.mark.parametrize(
    ("when", "says"),
    [
        ((-5, 10), "it must not begin before 0 s"),
        ((5, -10), "it must last 0 s at least"),
        ((5, 99_999_999), "it lasts at most 87264 s here"),
        ((865, 10), "x observes for 864 s only"),
    ],
)
def test_planned_trouble_at_no_time_is_refused(
    listed: str, when: tuple[float, float], says: str
) -> None:
    scenario = Scenario.model_validate({"name": "x", "days": 0.01, "faults": {listed: [when]}})
    with pytest.raises(ScenarioError, match=rf"fault \w+-0@.*: {says}"):
        Campaign(scenario, seed=1)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_number_that_is_none_is_refused(tmp_path: Path, value: str) -> None:
    path = tmp_path / "scenario.toml"
    path.write_text(f"name = 'x'\n[faults]\noutages = [[{value}, 1]]\n")
    with pytest.raises(ScenarioError, match=r"faults.outages.0.0 is .*: it must be a list, each"):
        load_scenario(path)


def test_numbers_of_a_fault_are_numbers() -> None:
    with pytest.raises(ValueError, match=r"no fault is written 'kill-0@1\.2\.3'"):
        parse_timed_faults("kill-0@1.2.3")


def test_fault_that_fits_not_every_variant_is_refused_before_the_first_has_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = tmp_path / "sweep.toml"
    sweep.write_text('name = "x"\ndays = 0.01\n[sweep]\n"workers.count" = [4, 2]\n')
    monkeypatch.setattr(Campaign, "run", lambda _self: pytest.fail("one has run"))
    with pytest.raises(ScenarioError, match="at most 1 here"):
        run_campaign(sweep, [1], faults=parse_timed_faults("kill-3@5"))


def test_page_about_scenarios_leaves_out_no_key_and_none_that_is_shipped() -> None:
    page = (Path(__file__).parents[2] / "docs" / "scenarios.md").read_text()
    named = set(re.findall(r"`\[?(\w+)\]?`", page))
    parts = [field.annotation for field in Scenario.model_fields.values()]
    keys = {name for part in [Scenario, *parts] for name in getattr(part, "model_fields", ())}
    assert {"disk_fills", "sweep", "count"} <= keys
    assert keys | set(shipped_scenarios()) <= named
    example = re.search(r"```toml\n(.*?)```", page, re.DOTALL)
    assert example is not None
    assert len(Scenario.model_validate(tomllib.loads(example[1])).variants()) == 2


def test_number_of_broken_invariants_stands_below_the_table_however_narrow(tmp_path: Path) -> None:
    short = tmp_path / "short.toml"
    short.write_text('name = "short"\ndays = 0.01\n')
    printed = StringIO()
    run_campaign(short, [1, 2], Console(file=printed, width=20))
    assert "No invariant is violated.\n" in printed.getvalue()
