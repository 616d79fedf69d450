"""The rules: what raises each, what does not, and what their messages say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import site_overviews as sites
from hypothesis import given, settings

from absurd_contimg.config.alerts import AlertsConfig
from absurd_contimg.errors import SettingError
from absurd_contimg.history.stage_figures import StageFigures
from absurd_contimg.operations.alerts import measures
from absurd_contimg.operations.alerts.evaluator import evaluate
from absurd_contimg.operations.alerts.records import Alert, Key, Look, Notice
from absurd_contimg.operations.alerts.rules import all_rules, make_rules
from absurd_contimg.operations.alerts.stored_states import SiteAlerts
from absurd_contimg.operations.alerts.watch import raised_alerts
from absurd_contimg.operations.overview import SiteOverview, WaitingTask

CONFIG = AlertsConfig()
USUAL = StageFigures({("image", "done"): [100.0] * 20})


def raised(look: Look, config: AlertsConfig = CONFIG, looks: int = 5) -> dict[str, Notice]:
    """The rules that raise an alert when the site stays like this."""
    alerts: Mapping[Key, Alert] = {}
    notices: dict[str, Notice] = {}
    for minute in range(looks):
        evaluation = evaluate(make_rules(config), alerts, look, 60.0 * minute)
        alerts = evaluation.alerts
        notices |= {notice.rule: notice for notice in evaluation.notices}
    return notices


def look(figures: StageFigures = USUAL, **changes: Any) -> Look:
    return Look(sites.healthy(**changes), figures)


def queue(**changes: Any) -> tuple[Any, ...]:
    return (replace(sites.QUEUE, **changes),)


def disk(**changes: Any) -> tuple[Any, ...]:
    return (replace(sites.DISK, **changes),)


def images(*changes: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(replace(sites.IMAGE, **each) for each in changes)


def test_an_alert_of_images_that_is_on_its_way_out_names_a_command_and_no_zero() -> None:
    """The newest image is good again; the alert stays for its hold time."""
    (noise,) = measures.noisy_images(look(images=images({"noise_jy": 0.001})), AlertsConfig())
    (flags,) = measures.unflagged_images(look(images=images({"flagged_share": 0.2})))
    for measured in (noise, flags):
        assert measured.value == 0
        assert measured.command == f"contimg history {sites.IMAGE.group}"
        assert "0 images" not in measured.fact
        assert measured.fact.startswith("The newest image has good ")


def running_for(seconds: float) -> tuple[Any, ...]:
    step = replace(sites.STEP, started_at=sites.AT - timedelta(seconds=seconds))
    return (replace(sites.WORKER, running=(step,)), sites.DAEMON)


SILENT = {"state": "silent", "seen_seconds_ago": 240.0}
LOUD, QUIET, BLANK = {"noise_jy": 0.05}, {"noise_jy": 0.005}, {"noise_jy": None}
OLD_FILES = replace(sites.DATA, newest_file_seconds_ago=1000.0)

READ_ONLY = {"read_only": True, "problem": "/stage on h1 can only be read."}

CASES = [
    ("tasks-failed", look(queues=queue(failed_recently=3, last_failed=sites.TASK))),
    ("enqueued-too-long", look(queues=queue(oldest_claimable_seconds=3700.0))),
    ("queue-paused", look(queues=queue(oldest_claimable_seconds=1000.0, pause=sites.PAUSE))),
    ("queue-blocked", look(queues=queue(problems=("task 1: stuck. contimg cancel 1",)))),
    ("worker-silent", look(services=(replace(sites.WORKER, **SILENT), sites.DAEMON))),
    ("daemon-silent", look(services=(sites.WORKER, replace(sites.DAEMON, **SILENT)))),
    ("no-new-files", look(data=OLD_FILES)),
    ("disk-fills", look(disks=disk(hours_to_full=5.0))),
    ("disk-full", look(disks=disk(used_share=0.97))),
    ("disk-read-only", look(disks=disk(**READ_ONLY))),
    ("stage-lacks-space", look(shortages=(sites.SHORTAGE,))),
    ("maintenance-failed", look(maintenance_problem="skipped 1: /p stays")),
    ("inodes-full", look(disks=disk(free_inodes_share=0.01))),
    ("image-noise", look(images=images(LOUD, LOUD, BLANK, LOUD, QUIET))),
    ("flux-ratio", look(images=images(*[{"flux_ratio": 0.06}] * 3))),
    ("nothing-flagged", look(images=images({"flagged_share": 0.0}, {}))),
    ("stage-slow", look(services=running_for(310.0))),
    ("database-away", Look(None, away={"database": "connection refused"})),
    ("registry-away", look(disks=()) and Look(sites.healthy(), away={"registry": "locked"})),
]


@pytest.mark.parametrize(("name", "seen"), CASES, ids=[name for name, _ in CASES])
def test_fact_raises_its_rule_alone(name: str, seen: Look) -> None:
    """With the severity of its rule, a fact and a command."""
    (notice,) = raised(seen).values()
    rules = {rule.name: rule for rule in all_rules(CONFIG)}
    assert (notice.rule, notice.severity) == (name, rules[name].severity)
    assert any(char.isdigit() for char in notice.fact) or name.endswith("-away")
    assert "contimg" in notice.command or "systemctl" in notice.command


def test_a_full_disk_is_an_alert_also_while_it_keeps_database_and_registry_from_working() -> None:
    """It was raised never: both were on the disk. The disks of other hosts stay as they were."""
    here, there = (replace(sites.DISK, host=host, used_share=0.99) for host in ("h1", "h2"))
    known = evaluate(make_rules(AlertsConfig(looks=1)), {}, look(disks=(there,)), 0.0).alerts
    away = {"database": "it does not answer", "registry": "disk I/O error"}
    seen = Look(None, away=away, local_disks=(here,))
    rules = make_rules(AlertsConfig(looks=1))
    after = evaluate(rules, evaluate(rules, known, seen, 60.0).alerts, seen, 1e6).alerts
    full = {subject for (rule, subject), alert in after.items() if rule == "disk-full"}
    assert full == {f"h1:{here.folder}", f"h2:{here.folder}"}


def test_every_rule_has_a_case() -> None:
    assert {name for name, _ in CASES} == {rule.name for rule in all_rules(CONFIG)}


def test_healthy_site_raises_nothing() -> None:
    assert raised(look()) == {}


def test_folders_of_one_file_system_raise_one_alert_that_names_them() -> None:
    """Three alerts said that one disk is full; another disk of that size has its own."""
    disks = [
        replace(sites.DISK, role=role, folder=f"/{role}", free_bytes=free, used_share=0.97)
        for role, free in (("output", 9.00e10), ("scratch", 9.001e10), ("other", 7e10))
    ]
    alerts: Mapping[Key, Alert] = {}
    notices: list[Notice] = []
    for minute in range(5):
        evaluation = evaluate(make_rules(CONFIG), alerts, look(disks=tuple(disks)), 60.0 * minute)
        alerts = evaluation.alerts
        notices += evaluation.notices
    assert [notice.subject for notice in notices] == ["h1:/output", "h1:/other"]
    assert "The disk of /output (output, scratch /scratch) on h1" in notices[0].fact


def test_an_alert_that_is_held_says_that_nothing_is_wrong_any_more() -> None:
    """It told of a disk that is 40 % full, as critical."""
    full, free = (look(disks=disk(used_share=share)) for share in (0.97, 0.4))
    alerts: Mapping[Key, Alert] = {}
    for minute in range(4):
        alerts = evaluate(make_rules(CONFIG), alerts, full, 60.0 * minute).alerts
    (before,) = raised_alerts(SiteAlerts(alerts))
    alerts = evaluate(make_rules(CONFIG), alerts, free, 300.0).alerts
    (held,) = raised_alerts(SiteAlerts(alerts))
    assert before.fact.startswith("The disk of")
    assert held.fact.startswith("In order since 00:05 UTC, and the alert ends when it stays so")


NO_ALARM = {
    "two failed": look(queues=queue(failed_recently=2)),
    "paused queue without work": look(queues=queue(pause=sites.PAUSE)),
    "work that waited before the pause": look(
        queues=queue(
            oldest_claimable_seconds=1e5, pause=replace(sites.PAUSE, since="2026-03-01T11:50:00Z")
        )
    ),
    "worker restarted during maintenance": look(
        queues=queue(pause=sites.PAUSE), services=(replace(sites.WORKER, **SILENT), sites.DAEMON)
    ),
    "worker that stopped in order": look(
        services=(replace(sites.WORKER, state="stopped", seen_seconds_ago=1e6), sites.DAEMON)
    ),
    "late heartbeats": look(services=(replace(sites.WORKER, seen_seconds_ago=59.0),)),
    "site without a daemon expects no files": look(services=(sites.WORKER,), data=OLD_FILES),
    "disk that was measured long ago": look(disks=disk(used_share=0.99, measured_seconds_ago=1e5)),
    "not measured": look(
        disks=disk(free_bytes=None, used_share=None, free_inodes_share=None),
        images=images(*[{"noise_jy": None, "flux_ratio": None, "flagged_share": None}] * 5),
        data=replace(sites.DATA, newest_file_seconds_ago=None),
    ),
    "noise of two images": look(images=images(LOUD, LOUD, QUIET, LOUD)),
    "images noisier than the predecessor's limit": look(images=images(*[{"noise_jy": 0.01}] * 5)),
    "hardly anything flagged": look(images=images({"flagged_share": 1e-6})),
    "imaging takes its time": look(services=running_for(299.0)),
    "first images of a site": look(StageFigures(), services=running_for(3000.0)),
    "no registry, no data": look(data=None, disks=(), images=(), services=()),
}


@pytest.mark.parametrize("name", NO_ALARM)
def test_no_alarm(name: str) -> None:
    assert raised(NO_ALARM[name]) == {}


def test_no_file_is_expected_outside_the_hours() -> None:
    """At noon, of a telescope that observes from 20 h to 10 h."""
    hours = AlertsConfig(observing_hours_utc=(20.0, 10.0))
    assert raised(look(data=OLD_FILES), hours) == {}
    night = sites.AT - timedelta(hours=3)
    assert set(raised(look(data=OLD_FILES, at=night), hours)) == {"no-new-files"}


def test_message_names_the_task_that_waits_or_runs() -> None:
    waits = WaitingTask(
        task_id=sites.TASK,
        queue_name="dsa110-pipeline",
        task_name="contimg",
        group="2026-03-01T10:50:00",
        since=sites.AT - timedelta(seconds=3700.5),
        until=None,
        why="No worker has taken it up.",
        advice=None,
    )
    other = replace(waits, since=sites.AT, task_id=replace(sites.STEP).task_id)
    enqueued = look(queues=queue(oldest_claimable_seconds=3700.0), waiting=(other, waits))
    for seen in (enqueued, look(services=running_for(1000.0))):
        (notice,) = raised(seen).values()
        assert notice.task == str(sites.TASK)
        assert str(sites.TASK) in notice.command


def test_hostile_names_are_shown_on_one_line() -> None:
    """A queue's name with an escape sequence, a line end and half a surrogate pair."""
    named = queue(queue_name="q\x1b[2J\nRAISED critical: \udcff", failed_recently=9)
    (notice,) = raised(look(queues=named)).values()
    assert notice.text.isprintable() is False  # its own line ends
    assert all(line.isprintable() for line in notice.text.splitlines())
    assert len(notice.text.splitlines()) == 3
    notice.text.encode()


def test_disabled_rule_is_not_looked_at() -> None:
    config = AlertsConfig(disabled=("disk-full",))
    assert raised(look(disks=disk(used_share=0.99)), config) == {}
    with pytest.raises(SettingError, match=r"disk-ful.*Did you mean disk-full"):
        make_rules(AlertsConfig(disabled=("disk-ful",)))


@given(site=sites.overviews())
@settings(max_examples=100, deadline=None)
def test_any_overview_is_evaluated(site: SiteOverview) -> None:
    """Whatever names it holds, and whatever could not be measured."""
    evaluation = evaluate(make_rules(CONFIG), {}, Look(site, USUAL), 0.0)
    assert len(evaluation.alerts) >= len(evaluation.notices)
