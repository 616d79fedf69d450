"""The step journal: its records survive JSON, and those of earlier versions are read."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from absurd_contimg.core.step_journal import StartRecord, StepOutcome, StepRecord

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NAMES = st.text(st.characters(categories=["L", "P", "Zs"]), min_size=1)
OUTCOMES = st.builds(
    StepOutcome,
    action=st.sampled_from(["failed", "retry", "fallback", "waiting", "released", "poison"]),
    kind=st.none() | NAMES,
    rule=st.none() | NAMES,
    message=st.none() | NAMES,
    evidence=st.dictionaries(st.sampled_from(["errno", "signal", "exit_code"]), st.integers()),
    path=st.none() | NAMES,
    advice=st.none() | NAMES,
    until=st.none() | st.datetimes(timezones=st.just(UTC)),
)
STARTS = st.builds(
    StartRecord,
    number=st.integers(1),
    attempt=st.integers(1),
    run_id=st.uuids().map(str),
    worker=NAMES,
    started_at=st.datetimes(timezones=st.just(UTC)),
    outcome=st.none() | OUTCOMES,
    fallbacks=st.lists(NAMES, max_size=2).map(tuple),
    fallback=st.none() | NAMES,
    ended_at=st.none() | st.datetimes(timezones=st.just(UTC)),
)
RECORDS = st.builds(
    StepRecord,
    step=st.just("image"),
    starts=st.lists(STARTS, max_size=4).map(tuple),
    waits=st.dictionaries(NAMES, st.integers(1)),
    outside=st.none() | OUTCOMES,
)


@given(RECORDS)
def test_record_is_read_as_it_was_written(record: StepRecord) -> None:
    state = json.loads(json.dumps(record.to_json()))
    assert StepRecord.read("image", {"$start:image": state}) == record


@pytest.mark.parametrize(
    ("sentence", "outcome"),
    [
        ("parked: resource (disk-full)", StepOutcome("waiting", "resource", "disk-full")),
        ("retry: transient (busy)", StepOutcome("retry", "transient", "busy")),
        ("failed: permanent (bad-input)", StepOutcome("failed", "permanent", "bad-input")),
        ("escalated: permanent (x)", StepOutcome("fallback", "permanent", "x")),
        ("handed back", StepOutcome("released")),
        ("poison", StepOutcome("poison")),
        (None, None),
    ],
)
def test_outcomes_of_earlier_versions_are_read(sentence: Any, outcome: StepOutcome | None) -> None:
    start = {
        "start": 3,
        "attempt": 1,
        "run_id": "r",
        "worker": "w",
        "started_at": NOON.isoformat(),
        "outcome": sentence,
    }
    record = StepRecord.read("image", {"$start:image": {"starts": [start]}})
    assert record.last_outcome == outcome
    assert record.starts == (StartRecord(3, 1, "r", "w", NOON, outcome),)


def test_waits_counted_by_an_earlier_version_go_on() -> None:
    """Their checkpoint counts until the record has counts of its own."""
    checkpoints: dict[str, Any] = {"$parked:image": {"disk-full": 3}, "$start:image": {}}
    record = StepRecord.read("image", checkpoints)
    waiting = StepOutcome("waiting", "resource", "disk-full")
    record = record.started(1, "r", "w", NOON).ended(waiting)
    assert record.waits == {"disk-full": 4}
    checkpoints["$start:image"] = record.ended(StepOutcome("failed")).to_json()
    assert StepRecord.read("image", checkpoints).waits == {}


def test_outcome_is_stored_whatever_its_message_holds() -> None:
    """jsonb refuses NUL and lone surrogates; a path may have both of a damaged name."""
    outcome = StepOutcome("failed", message="a\0b", path="/data/\udcff", evidence={"x": "\0"})
    text = json.dumps(outcome.to_json())
    assert "\\u0000" not in text
    assert "\\udcff" not in text


def test_fallbacks_of_earlier_versions_are_read() -> None:
    """They were called escalations."""
    start = {"start": 2, "attempt": 1, "run_id": "r", "worker": "w", "outcome": None}
    start |= {"started_at": NOON.isoformat(), "escalations": ["a"], "escalation": "b"}
    (read,) = StepRecord.read("image", {"$start:image": {"starts": [start]}}).starts
    assert (read.fallbacks, read.fallback) == (("a",), "b")
