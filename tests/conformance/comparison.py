"""Drive both databases alike and compare everything after every operation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from conformance import operations
from conformance.databases import (
    QUEUES,
    SESSIONS,
    Answer,
    Call,
    Database,
    EmulatorDatabase,
    PostgresDatabase,
)
from conformance.operations import Chooser, Operation, RandomChooser, World
from conformance.regression_sequences import REGRESSIONS
from conformance.scripted_sequences import SCRIPTS, Script

STEPS_PER_SEQUENCE = 50


class Divergence(AssertionError):
    """The two databases differ."""


class Observation(tuple[Any, ...]):
    """What a side shows after an operation: answer, transaction status, tables."""


def observe(side: Database, call: Call) -> Observation:
    """Run the call and look at everything."""
    answer = side.call(call)
    status = side.status(call.session)
    tables = list(side.tables())
    inside = list(side.tables(call.session)) if status == "INTRANS" else []
    about = "partition" in call.text or "queue" in call.text
    idle = all(side.status(number) == "IDLE" for number in range(SESSIONS))
    # A session in a transaction may hold locks that reading the catalogue would wait for.
    partitions = side.partitions() if about and idle else None
    return Observation((answer, status, tables, inside, partitions))


def explain(left: Observation, right: Observation) -> str:  # noqa: PLR0911 - one a place
    """Where two observations differ."""
    for name, first, other in (("answer", left[0], right[0]), ("status", left[1], right[1])):
        if first != other:
            return f"{name}:\n  postgres {first}\n  memory   {other}"
    for kind, place in (("committed", 2), ("in the session", 3)):
        for first, other in itertools.zip_longest(left[place], right[place]):
            if first == other:
                continue
            if first is None or other is None or first[0] != other[0]:
                return f"{kind}: tables {first} {other}"
            rows, others = first[1], other[1]
            if rows[0] != "rows" or others[0] != "rows":
                return f"{kind} {first[0]}:\n  postgres {rows}\n  memory   {others}"
            pairs = itertools.zip_longest(rows[2], others[2])
            for row, twin in pairs:
                if row != twin:
                    return f"{kind} {first[0]}:\n  postgres {row}\n  memory   {twin}"
            return f"{kind} {first[0]}: columns {rows[1]} {others[1]}"
    if left[4] != right[4]:
        return f"partitions: {set(left[4]) ^ set(right[4])}"
    return "equal"


class Pair:
    """Both databases, the calls so far, and what operations may refer to."""

    def __init__(self, postgres: PostgresDatabase, memory: EmulatorDatabase) -> None:
        self.postgres = postgres
        self.memory = memory
        self.world = World()
        self.calls: list[Call] = []
        self.observed: list[Observation] = []

    def begin(self) -> None:
        """A fresh sequence: empty databases, two queues, a fake time in every session."""
        self.postgres.reset()
        self.memory.reset()
        self.world = World()
        self.calls, self.observed = [], []
        for call in opening(self.world):
            self.step(call)

    def step(self, call: Call) -> None:
        """One call on both databases; `Divergence` if anything differs."""
        self.calls.append(call)
        left = observe(self.postgres, call)
        self.observed.append(left)
        right = observe(self.memory, call)
        learn(self.world, call, left[0], left[1])
        if left != right:
            raise Divergence(f"{explain(left, right)}\n{self.story()}")

    def play(self, script: Script, choose: Chooser) -> None:
        """All of a script's calls."""
        look(self.world, self.memory)
        for call in script(choose, self.world):
            self.step(call)
            look(self.world, self.memory)

    def story(self) -> str:
        """The calls so far, one a line."""
        return "\n".join(str(call) for call in self.calls)


def opening(world: World) -> Iterator[Call]:
    """What every sequence begins with."""
    for session in range(SESSIONS):
        now = world.now.isoformat()
        yield Call(session, "select set_config('absurd.fake_now', %s, false)", (now,))
    yield Call(0, "select absurd.create_queue(%s)", (QUEUES[0],))
    yield Call(0, "select absurd.create_queue(%s, 'partitioned')", (QUEUES[1],))


def learn(world: World, call: Call, answer: Answer, status: object) -> None:
    """Remember what later operations can use: the ids shown, and who is in a transaction."""
    for state, members in (("INTRANS", world.open), ("INERROR", world.failed)):
        members.discard(call.session)
        if status == state:
            members.add(call.session)
    if answer[0] != "rows" or "uuid" in call.text:
        return
    columns = [name for name, _ in answer[1]]  # type: ignore[attr-defined]
    for row in answer[2]:  # type: ignore[attr-defined]
        values = {
            name: int(value[1:])
            for name, value in zip(columns, row, strict=True)
            if name in ("task_id", "run_id") and isinstance(value, str) and value[:1] == "#"
        }
        for name, pool in (("task_id", world.tasks), ("run_id", world.runs)):
            if name in values and values[name] not in pool:
                pool.append(values[name])


def look(world: World, memory: EmulatorDatabase) -> None:
    """Which runs are in which state: what makes an operation likely to do something.

    Read from the emulator, because that is cheap; it only guides the choice.
    """
    world.runs_in = {}
    for name in QUEUES[:2]:
        relation = memory.db.relations.rows.get(f"r_{name}")
        for run in [] if relation is None else relation.table.rows.values():
            numbers = [
                memory.names.numbers.get(UUID(int=value)) for value in (run.run_id, run.task_id)
            ]
            if None not in numbers:
                world.runs_in.setdefault(run.state, []).append((name, *numbers))  # type: ignore[arg-type]


def random_operation(choose: Chooser, world: World, memory: EmulatorDatabase) -> Call:
    """One operation by `operations.WEIGHTS`."""
    kinds: list[Operation | None] = [
        kind for kind, weight in operations.WEIGHTS.items() for _ in range(weight)
    ]
    look(world, memory)
    if world.failed and choose.integer(0, 2) == 0:
        return operations.transaction(choose, world)
    kind = choose.pick([*kinds, None, None, None])
    return operations.cleanup(choose, world, memory) if kind is None else kind(choose, world)


def random_sequence(pair: Pair, seed: int, steps: int = STEPS_PER_SEQUENCE) -> None:
    """A sequence from a seed; `Divergence` names the seed."""
    choose = RandomChooser(seed)
    try:
        pair.begin()
        while len(pair.calls) < steps:
            if choose.integer(0, 9) == 0:
                pair.play(choose.pick(SCRIPTS), choose)
            else:
                pair.step(random_operation(choose, pair.world, pair.memory))
    except Divergence as error:
        raise Divergence(f"seed {seed}: {error}") from None


def regression_sequence(pair: Pair) -> None:
    """Every script of `REGRESSIONS` once."""
    pair.begin()
    for script in REGRESSIONS:
        pair.play(script, RandomChooser(0))
