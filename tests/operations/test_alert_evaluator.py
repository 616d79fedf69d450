"""Alerts do not flap, whatever the values, the clock and restarts do."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise

import site_overviews as sites
from hypothesis import given
from hypothesis import strategies as st

from absurd_contimg.operations.alerts.evaluator import SUBJECTS_MAX, evaluate
from absurd_contimg.operations.alerts.records import Alert, Key, Look, Measured, Rule
from absurd_contimg.operations.alerts.stored_states import alert_from_json, alert_to_json

HOLD = 600.0
LOOKS = 3

Values = Mapping[str, float | None]


def rule(values: Values, *, high: bool = True, looks: int = LOOKS, name: str = "test") -> Rule:
    """A rule that measures these values by subject."""

    def measure(_look: Look) -> Iterable[Measured]:
        for subject, value in values.items():
            yield Measured(subject, value, f"It is {value}.", "contimg status")

    return Rule(
        name=name,
        meaning="",
        severity="warning",
        raised=10.0 if high else 5.0,
        cleared=5.0 if high else 10.0,
        looks=looks,
        hold_seconds=HOLD,
        source="",
        remedy="",
        measure=measure,
        needs=frozenset({"database"}),
    )


LOOK = Look(sites.healthy())
AWAY = Look(None, away={"database": "refused"})


class Site:
    """Looks one after the other, keeping the states as the registry does: as JSON."""

    def __init__(self, *, restarts: bool = True) -> None:
        self.alerts: Mapping[Key, Alert] = {}
        self.events: list[str] = []
        self.restarts = restarts

    def look(self, now: float, rules: list[Rule], look: Look = LOOK) -> None:
        evaluation = evaluate(rules, self.alerts, look, now)
        self.alerts = evaluation.alerts
        if self.restarts:
            saved = json.loads(json.dumps([[*k, alert_to_json(a)] for k, a in self.alerts.items()]))
            self.alerts = {(name, s): alert_from_json(state) for name, s, state in saved}
        self.events += [f"{notice.event} {notice.subject}" for notice in evaluation.notices]


values = st.sampled_from([0.0, 4.9, 5.0, 7.0, 9.9, 10.0, 10.1, 50.0, None, float("nan")])
steps = st.lists(st.tuples(st.floats(0.0, 300.0), values), max_size=60)


@given(steps=steps, high=st.booleans(), looks=st.integers(1, 4))
def test_any_values_give_one_raise_for_each_hold_time(
    steps: list[tuple[float, float | None]], high: bool, looks: int
) -> None:
    """Raised and cleared alternate, and two raises are at least the hold time apart."""
    site, now, raised_at = Site(), 0.0, []
    for seconds, value in steps:
        now += seconds
        before = len(site.events)
        site.look(now, [rule({"queue": value}, high=high, looks=looks)])
        raised_at += [now] * site.events[before:].count("raised queue")
    assert site.events == ["raised queue", "cleared queue"] * (len(site.events) // 2) + (
        ["raised queue"] if len(site.events) % 2 else []
    )
    assert all(later - earlier >= HOLD for earlier, later in pairwise(raised_at))


@given(steps=st.lists(st.tuples(st.floats(-1e6, 300.0), values), max_size=60))
def test_clock_that_steps_back_does_no_harm(steps: list[tuple[float, float | None]]) -> None:
    """Between two raises the clock has gone forward by the hold time, whatever it did besides."""
    site, now, forward, raised_at = Site(), 1e9, 0.0, []
    for seconds, value in steps:
        now += seconds
        forward += max(seconds, 0.0)
        before = len(site.events)
        site.look(now, [rule({"queue": value})])
        raised_at += [forward] * site.events[before:].count("raised queue")
    assert all(later - earlier >= HOLD - 1e-3 for earlier, later in pairwise(raised_at))


def test_alert_clears_after_a_clock_stepped_back() -> None:
    """The hold begins again; the alert does not stay until the old time is reached."""
    site = Site()
    for second in range(LOOKS):
        site.look(1e9 + second, [rule({"queue": 20.0})])
    site.look(1e9 + 10, [rule({"queue": 0.0})])
    for second in range(0, 700, 60):
        site.look(5e8 + second, [rule({"queue": 0.0})])
    assert site.events == ["raised queue", "cleared queue"]


@given(steps=steps, restarts=st.lists(st.booleans(), min_size=60, max_size=60))
def test_restart_at_any_point_changes_nothing(
    steps: list[tuple[float, float | None]], restarts: list[bool]
) -> None:
    continuous, restarted, now = Site(restarts=False), Site(), 0.0
    for (seconds, value), restarts_now in zip(steps, restarts, strict=False):
        now += seconds
        restarted.restarts = restarts_now
        for site in (continuous, restarted):
            site.look(now, [rule({"queue": value})])
    assert restarted.events == continuous.events
    assert restarted.alerts == continuous.alerts


@given(
    alert=st.builds(
        Alert,
        looks=st.integers(0, 9),
        raised_at=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        good_since=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        severity=st.sampled_from(["warning", "critical"]),
        value=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        fact=st.text(st.characters(exclude_categories=["Cs"])),
        command=st.text(max_size=5),
        task=st.none() | st.text(max_size=5),
    )
)
def test_state_is_read_as_it_was_written(alert: Alert) -> None:
    assert alert_from_json(json.loads(json.dumps(alert_to_json(alert)))) == alert


def test_single_bad_look_raises_nothing() -> None:
    site = Site()
    for minute in range(60):
        site.look(60.0 * minute, [rule({"queue": 20.0 if minute % LOOKS else 0.0})])
    assert site.events == []


def test_not_measured_neither_raises_nor_clears() -> None:
    """A database that is away hides what was wrong, and has not made it right."""
    site = Site()
    for second in range(LOOKS):
        site.look(second, [rule({"queue": 20.0})])
    for hour in range(1, 5):
        site.look(3600.0 * hour, [rule({"queue": None})])
        site.look(3600.0 * hour + 60, [rule({})], AWAY)
    assert site.events == ["raised queue"]
    fresh = Site()
    for hour in range(5):
        fresh.look(3600.0 * hour, [rule({"queue": None})])
    assert fresh.events == []
    assert fresh.alerts == {}


def test_hold_begins_again_after_a_time_without_measurements() -> None:
    site = Site()
    for second in range(LOOKS):
        site.look(second, [rule({"queue": 20.0})])
    site.look(10.0, [rule({"queue": 0.0})])
    site.look(500.0, [rule({"queue": None})])
    site.look(700.0, [rule({"queue": 0.0})])
    assert site.events == ["raised queue"]
    site.look(1300.0, [rule({"queue": 0.0})])
    assert site.events == ["raised queue", "cleared queue"]


def test_subject_that_is_gone_clears_after_the_hold_time() -> None:
    """A worker whose record was forgotten, a queue that was dropped."""
    site = Site()
    for second in range(LOOKS):
        site.look(second, [rule({"queue": 20.0})])
    site.look(10.0, [rule({})])
    assert site.events == ["raised queue"]
    site.look(10.0 + HOLD, [rule({})])
    assert site.events == ["raised queue", "cleared queue"]
    assert site.alerts == {}


def test_rule_that_is_removed_clears_its_alerts() -> None:
    site = Site()
    for second in range(LOOKS):
        site.look(second, [rule({"queue": 20.0}), rule({"disk": 20.0}, name="other")])
    site.look(10.0, [rule({"disk": 20.0}, name="other")])
    assert site.events == ["raised queue", "raised disk", "cleared queue"]
    assert set(site.alerts) == {("other", "disk")}


def test_subjects_of_a_rule_are_bounded_and_raised_ones_stay() -> None:
    site = Site()
    first = {f"a{number}": 20.0 for number in range(SUBJECTS_MAX)}
    for second in range(LOOKS):
        site.look(second, [rule(first)])
    site.look(10.0, [rule({f"b{number}": 20.0 for number in range(500)} | first)])
    assert len(site.alerts) == SUBJECTS_MAX
    assert all(alert.is_raised for alert in site.alerts.values())


def test_message_has_fact_task_and_command() -> None:
    task = str(sites.TASK)

    def measure(_look: Look) -> Iterable[Measured]:
        yield Measured("q", 20.0, "Three tasks failed.", "contimg status", sites.TASK)

    noted = replace(rule({}, looks=1), measure=measure)
    (notice,) = evaluate([noted], {}, LOOK, 0.0).notices
    assert notice.text.splitlines() == [
        "RAISED warning: test (q)",
        "Three tasks failed.",
        f"Task: {task}",
        "Run: contimg status",
    ]
