"""What a run leaves in the handlers' variables is there to be read, and not for the next run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked_programs import run_pytest

from absurd_contimg.core.context import TaskContext
from absurd_contimg.testing import explore_crashes, outside, replay_handler, run_handler

CACHE: dict[str, Any] = {}
SENT: list[str] = []
SEEN: set[str] = set()
RAW = bytearray()
NESTED: dict[str, list[int]] = {"numbers": []}
NUMBER = 1000


async def charges_again(_params: Any, ctx: TaskContext) -> None:
    """A mistake: what it has done stands in the memory of its process alone."""

    async def charge() -> None:
        await outside("charge", "key")
        CACHE["charged"] = True

    await ctx.step("charge", charge)
    await ctx.sleep_for("cooling off", 10)
    if "charged" not in CACHE:
        await ctx.step("again", lambda: outside("charge again", "key"))


async def sends(params: Any, _ctx: TaskContext) -> list[Any]:
    """Shows what it begins with."""
    global NUMBER  # noqa: PLW0603 - a variable of the process
    beginning = [CACHE.copy(), SENT.copy(), sorted(SEEN), list(RAW), NESTED["numbers"][:], NUMBER]
    SENT.append(params.get("mail", "mail"))
    SEEN.add("mail")
    RAW.append(1)
    NESTED.setdefault("numbers", []).append(1)
    NESTED["others"] = [1]
    CACHE["sent"] = [1]
    NUMBER += 1
    return beginning


def begins_with() -> Any:
    return run_handler(sends, {}).result


BEFORE = [{}, [], [], [], [], 1000]

RUNS: dict[str, Callable[[], object]] = {
    "run": lambda: run_handler(charges_again, {}),
    "exploration": lambda: explore_crashes(charges_again, {}, faults=[]),
    "replay": lambda: replay_handler(charges_again, {}, "kill@3"),
}


@pytest.mark.parametrize("run", RUNS)
def test_an_exploration_finds_the_same_after_another_run(run: str) -> None:
    """The variables were as that had left them: the mistake was not seen."""
    RUNS[run]()
    with pytest.raises(AssertionError, match="futures have violations"):
        explore_crashes(charges_again, {}, faults=["kill"])


def test_a_test_reads_what_the_run_has_left() -> None:
    for _ in range(2):
        run_handler(sends, {"mail": "ours"})
        left = [SENT, SEEN, RAW, NUMBER, NESTED, CACHE]
        nested = {"numbers": [1], "others": [1]}
        assert left == [["ours"], {"mail"}, bytearray([1]), 1001, nested, {"sent": [1]}]


def test_each_run_begins_with_the_variables_as_they_were() -> None:
    assert [begins_with(), begins_with()] == [BEFORE, BEFORE]


def test_what_the_test_changes_between_runs_is_the_new_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begins_with()
    CACHE["ours"] = 1
    SENT[:] = ["ours"]
    monkeypatch.setattr(f"{__name__}.NUMBER", 7)
    beginning = [{"ours": 1}, ["ours"], [], [], [], 7]
    assert [begins_with(), begins_with()] == [beginning, beginning]
    assert list(CACHE) == ["ours", "sent"]
    del CACHE["ours"]
    SENT.clear()
    monkeypatch.undo()
    monkeypatch.setattr(f"{__name__}.NUMBER", 1000)
    assert begins_with() == BEFORE


def test_a_variable_that_a_handler_removes_is_there_again() -> None:
    async def forgets(_params: Any, _ctx: TaskContext) -> list[str]:
        keys = list(NESTED)
        del NESTED["numbers"]
        return keys

    assert [run_handler(forgets, {}).result for _ in range(2)] == [["numbers"], ["numbers"]]
    NESTED["ours"] = []
    assert sorted(run_handler(forgets, {}).result) == ["numbers", "ours"]
    del NESTED["ours"]


_BETWEEN_TESTS = """
import pytest
from absurd_contimg.testing import run_handler

SENT, COUNTS, LIMIT = [], [], 1

async def sends(params, ctx):
    global LIMIT
    SENT.append(1)
    LIMIT += 1
    return [len(SENT), LIMIT]

async def counts(params, ctx):
    COUNTS.append(1)

@pytest.fixture(scope="module", autouse=True)
def counted():
    run_handler(counts, {})

@pytest.fixture
def sent():
    yield
    assert SENT == [1]

def test_a_limit_of_its_own(monkeypatch, sent):
    monkeypatch.setattr(f"{__name__}.LIMIT", 10)
    assert COUNTS == [1]
    assert run_handler(sends, {}).result == [1, 11]

@pytest.mark.parametrize("number", range(2))
def test_as_at_first(number, sent):
    assert (SENT, LIMIT) == ([], 1)
    assert run_handler(sends, {}).result == [1, 2]

def test_what_the_test_before_has_left_may_be_set():
    global LIMIT
    SENT.append(1)
    LIMIT = 2
    assert run_handler(sends, {}).result == [2, 3]
"""


def test_the_end_of_a_test_sets_back_what_its_runs_have_left(tmp_path: Path) -> None:
    """A replacement that the next test takes back would bring the value again."""
    (tmp_path / "test_between.py").write_text(_BETWEEN_TESTS)
    ran = run_pytest(
        ["-q", "-p", "absurd_contimg.testing.plugin", "."],
        {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        tmp_path,
    )
    assert "4 passed" in ran.stdout, ran.stdout
