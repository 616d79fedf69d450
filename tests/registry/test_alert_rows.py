"""Alerts in the registry: one evaluator at a time, and nothing of one that was overtaken."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from absurd_contimg.registry.alerts import (
    StoredAlert,
    change_alerts,
    find_evaluator,
    list_alerts,
    release_evaluator,
)
from absurd_contimg.registry.database import Database

ALERT = StoredAlert("disk-full", "h1:/data", {"alert": {"looks": 2}, "messages": []})


@pytest.fixture(params=["sqlite", "postgres"])
def database(
    request: pytest.FixtureRequest, tmp_path: Path, new_database: Callable[[], str]
) -> Iterator[Database]:
    url = new_database() if request.param == "postgres" else f"sqlite:///{tmp_path / 'r.sqlite3'}"
    with closing(Database(url)) as opened:
        yield opened


def keep(*alerts: StoredAlert) -> Callable[[Sequence[StoredAlert], bool], list[StoredAlert]]:
    return lambda _before, _held: list(alerts)


def test_alerts_are_kept_changed_and_removed(database: Database) -> None:
    assert change_alerts(database, "a", 60.0, keep(ALERT)) == [ALERT]
    assert list_alerts(database) == [ALERT]
    changed = StoredAlert(ALERT.rule, ALERT.subject, {"alert": None, "messages": ["\x00\ud800ü"]})
    other = StoredAlert("a-rule", "", {})
    change_alerts(database, "a", 60.0, keep(changed, other))
    assert list_alerts(database) == [other, changed]
    change_alerts(database, "a", 60.0, keep())
    assert list_alerts(database) == []


def test_only_the_holder_of_the_lease_changes_alerts(database: Database) -> None:
    """Until its lease is over; then another one does, and the first is refused."""
    assert find_evaluator(database) is None
    change_alerts(database, "a", 60.0, keep(ALERT))
    holder, seconds = find_evaluator(database) or ("", 0.0)
    assert (holder, 50 < seconds <= 60) == ("a", True)
    assert change_alerts(database, "b", 60.0, keep()) is None
    assert list_alerts(database) == [ALERT]
    change_alerts(database, "a", -1.0, keep(ALERT))
    assert find_evaluator(database) is None
    seen: list[tuple[int, bool]] = []

    def note(before: Sequence[StoredAlert], held: bool) -> Sequence[StoredAlert]:
        seen.append((len(before), held))
        return before

    assert change_alerts(database, "b", 60.0, note) == [ALERT]
    assert change_alerts(database, "b", 60.0, note) == [ALERT]
    assert seen == [(1, False), (1, True)]
    assert change_alerts(database, "a", 60.0, keep()) is None


def test_released_lease_is_free_at_once(database: Database) -> None:
    change_alerts(database, "a", 60.0, keep(ALERT))
    release_evaluator(database, "b")
    assert change_alerts(database, "b", 60.0, keep()) is None
    release_evaluator(database, "a")
    assert change_alerts(database, "b", 60.0, keep(ALERT)) == [ALERT]


def test_of_many_at_once_one_evaluates(database: Database) -> None:
    start = threading.Barrier(4)
    winners: list[str] = []

    def compete(name: str) -> None:
        start.wait()
        if change_alerts(database, name, 60.0, keep(ALERT)) is not None:
            winners.append(name)

    threads = [threading.Thread(target=compete, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1
