"""Over random histories, every task that has not ended has a sentence that says why."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Sequence
from datetime import timedelta

import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unreadable_rows import EmulatorConnection, rows, store

from absurd_contimg.backends.memory import MemoryBackend
from absurd_contimg.core.records import TERMINAL_STATES, History
from absurd_contimg.history.wait_explanation import WaitContext, WorkerFact, explain_wait
from conformance import operations
from conformance.comparison import learn, look, opening, random_operation
from conformance.databases import QUEUES, Call, EmulatorDatabase
from conformance.operations import RandomChooser, World

ROWS = list(rows(QUEUES[0]))

names = st.sampled_from(["w1", "w2", "é", ""])
workers = st.builds(
    WorkerFact,
    names,
    st.sampled_from([None, "dsa-1"]),
    st.sampled_from([None, frozenset({QUEUES[0]})]),
    st.sampled_from([None, None, 70.0]),
    st.sampled_from(["", "", "/data is full"]),
    st.integers(0, 2),
)
contexts = st.builds(
    WaitContext,
    st.sampled_from([0, 1, 20, 40, 100, 4000, 10**6]).map(
        lambda seconds: operations.START + timedelta(seconds=seconds)
    ),
    st.one_of(st.none(), st.lists(workers, max_size=3)),
    st.sampled_from([{}, {}, {QUEUES[0]: "queue plain is paused by anna: new disk"}]),
    st.sampled_from([{}, {}, {QUEUES[1]: "task 5: its rule is no number"}]),
    st.sampled_from(["", "", "The registry is away."]),
)


def histories_of(memory: EmulatorDatabase) -> Sequence[History]:
    """All histories of both queues."""

    async def read() -> list[History]:
        backend = MemoryBackend(memory.db)
        histories = []
        for queue in await backend.list_queues():
            tasks = await backend.list_tasks(queue, limit=1000)
            histories += await backend.histories(queue, [task.task_id for task in tasks])
        return histories

    return asyncio.run(read())


def random_histories(data: st.DataObject) -> Sequence[History]:
    """After random procedures with good and bad arguments, as SDKs and operators call them, and
    rows that no client of ours would store."""
    memory, world = EmulatorDatabase(), World()
    choose = RandomChooser(data.draw(st.integers(0, 2**32)))  # drawing each argument takes minutes

    def call(each: Call) -> None:
        learn(world, each, memory.call(each), memory.status(each.session))
        look(world, memory)

    for each in opening(world):
        call(each)
    for _ in range(data.draw(st.integers(5, 120))):
        call(random_operation(choose, world, memory))
    for session in memory.connections:
        session.rollback()
    connection = EmulatorConnection(memory.db.connect(autocommit=True))
    ids = [h.task.task_id for h in histories_of(memory) if h.queue_name == QUEUES[0]]
    for _ in range(data.draw(st.integers(0, 3)) if ids else 0):
        _, _, statement = data.draw(st.sampled_from(ROWS))
        with contextlib.suppress(psycopg.Error):  # a checkpoint that is there already
            store(connection, statement, data.draw(st.sampled_from(ids)))
    return histories_of(memory)


def test_every_task_that_has_not_ended_has_its_sentence() -> None:
    """Whatever is known of the site: never that it is unknown; and all kinds of waits are met."""
    facts: set[str] = set()

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def search(data: st.DataObject) -> None:
        known = data.draw(st.lists(contexts, min_size=4, max_size=4))
        for history, context in itertools.product(random_histories(data), known):
            explanation = explain_wait(history, context)
            if history.task.state in TERMINAL_STATES:
                assert explanation is None
                continue
            assert explanation is not None
            facts.add(explanation.fact)
            assert len(explanation.sentence) > 10
            for word in ("unknown", "None", "nan", "inf ", "9999", "0001-01-01"):
                assert word not in explanation.sentence, explanation.sentence
            assert explanation.until is None or explanation.until > context.now

    search()
    assert facts >= {"claimable", "no-worker", "running", "event", "time"}
    assert len(facts) > 9
