"""The emulator equals Postgres: answers, errors and every table, after every operation."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from search_extent import is_search

from conformance import operations
from conformance.comparison import Pair, look, opening, regression_sequence
from conformance.databases import Call, EmulatorDatabase, PostgresDatabase
from conformance.operations import DataChooser
from conformance.scripted_sequences import SCRIPTS, Script

SEQUENCES = int(os.environ.get("CONFORMANCE_SEQUENCES", "100" if is_search() else "15"))
STEPS = 50
SETTINGS = settings(
    max_examples=SEQUENCES,
    stateful_step_count=STEPS,
    deadline=None,
    database=None,
    print_blob=True,
    phases=(Phase.generate,),  # the story is short enough; shrinking takes minutes
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def pair(new_database: Callable[[], str]) -> Iterator[Pair]:
    postgres = PostgresDatabase(new_database())
    yield Pair(postgres, EmulatorDatabase())
    postgres.close()


class Equality(RuleBasedStateMachine):
    """One rule for each procedure; each compares everything afterwards."""

    pair: Pair
    steps = 0
    refused = 0

    @initialize()
    def begin(self) -> None:
        self.pair.begin()

    def do(self, data: st.DataObject, operation: operations.Operation) -> None:
        look(self.pair.world, self.pair.memory)
        self.step(operation(DataChooser(data), self.pair.world))

    def step(self, call: Call) -> None:
        self.pair.step(call)
        type(self).steps += 1
        type(self).refused += self.pair.observed[-1][0][0] == "error"

    @rule(data=st.data(), script=st.sampled_from(SCRIPTS))
    def script(self, data: st.DataObject, script: Script) -> None:
        before = len(self.pair.calls)
        self.pair.play(script, DataChooser(data))
        type(self).steps += len(self.pair.calls) - before

    @rule(data=st.data(), script=st.sampled_from(SCRIPTS))
    def second_script(self, data: st.DataObject, script: Script) -> None:
        before = len(self.pair.calls)
        self.pair.play(script, DataChooser(data))
        type(self).steps += len(self.pair.calls) - before

    @rule(data=st.data())
    def cleanup(self, data: st.DataObject) -> None:
        pair = self.pair
        self.step(operations.cleanup(DataChooser(data), pair.world, pair.memory))


def _add_rule(operation: operations.Operation, number: int) -> None:
    def body(self: Equality, data: st.DataObject) -> None:
        self.do(data, operation)

    body.__name__ = f"{operation.__name__}_{number}" if number else operation.__name__
    setattr(Equality, body.__name__, rule(data=st.data())(body))


for _operation, _weight in operations.WEIGHTS.items():
    for _number in range(max(1, _weight // 2)):  # Hypothesis picks rules evenly
        _add_rule(_operation, _number)


@pytest.mark.timeout(3600 if SEQUENCES > 500 else 600)
def test_emulator_equals_postgres(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    """Sequences of calls, good and bad, in several sessions: no difference anywhere."""
    Equality.pair, Equality.steps, Equality.refused = pair, 0, 0
    run_state_machine_as_test(Equality, settings=SETTINGS)  # type: ignore[no-untyped-call]
    assert Equality.steps >= SEQUENCES * STEPS * 0.8
    assert Equality.refused < Equality.steps * 0.6, "mostly refused calls compare little"
    with capsys.disabled():
        print(f" [{Equality.steps} operations, {Equality.refused} refused]", end="")


def test_regression_sequences_are_equal(pair: Pair) -> None:
    """What random operations would not meet; each does something in both; one is refused."""
    regression_sequence(pair)
    calls = zip(pair.calls, pair.observed, strict=True)
    refused = [call.text for call, item in calls if item[0][0] == "error"]
    assert refused == ["select absurd.complete_run(%s, %s, %s)"]


def test_every_column_has_the_same_type(pair: Pair) -> None:
    """``select *`` on every table gives the same names, types and order of columns."""
    pair.postgres.reset()
    pair.memory.reset()
    for call in opening(pair.world):
        pair.postgres.call(call)
        pair.memory.call(call)
    names = ["queues", *(f"{letter}_parted" for letter in "trcewi"), "t_plain", "r_plain"]
    for name in names:
        text = f"select * from absurd.{name}"
        first, other = (
            [(column.name, column.type_code) for column in side.observer.execute(text).description]
            for side in (pair.postgres, pair.memory)
        )
        assert first == other, name


def both(pair: Pair, text: str, params: Any = None) -> tuple[Any, Any]:
    """What each side's observer answers."""
    return (
        pair.postgres._run(pair.postgres.observer, text, params),
        pair.memory._run(pair.memory.observer, text, params),
    )
