"""A procedure that had to wait goes on with what it had read before, as on a real server.

Every scene runs on both kinds of connection, with the same expectations: one session holds rows
in an open transaction, another calls a procedure that needs them, then the first commits.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from absurd_contimg.backends.memory import MemoryDatabase

Connect = Callable[[], Any]


@pytest.fixture
def connect(connect: Callable[..., Any]) -> Connect:
    """Opens connections to the database, with two tasks in its queue, of which one is claimed."""

    def make() -> Any:
        connection = connect()
        connection.execute("select set_config('absurd.fake_now', '2030-01-01 00:00+00', false)")
        connection.commit()
        return connection

    with make() as setup:
        for name in ("first", "second"):
            setup.execute(
                "select absurd.spawn_task('q', %s, '{}', '{\"max_attempts\": 1}')", (name,)
            )
        setup.execute("select absurd.claim_task('q', 'w', 60, 1)")
    return make


RUN = (
    "(select run_id from absurd.r_q r join absurd.t_q t using (task_id) where task_name = 'first')"
)
TASK = "(select task_id from absurd.t_q where task_name = 'first')"
SAVE = f"select absurd.set_task_checkpoint_state('q', {TASK}, 'step', '1', {RUN}, 300)"
LATER = "select set_config('absurd.fake_now', '2030-02-01 00:00+00', false)"
FAIL = f"select absurd.fail_run('q', {RUN}, '{{}}')"
RETRY = f"select absurd.retry_task('q', {TASK}, '{{\"max_attempts\": 2}}')"
TASKS = "select task_name, state from absurd.t_q order by 1"
SAVED = "select checkpoint_name, state from absurd.c_q"
EVENTS = "select event_name from absurd.e_q"


@pytest.mark.parametrize(
    ("before", "held", "waits", "answer", "left"),
    [
        pytest.param(
            (),
            f"select absurd.cancel_task('q', {TASK})",
            SAVE,
            [("",)],
            {SAVED: [("step", 1)], TASKS: [("first", "cancelled"), ("second", "pending")]},
            id="a checkpoint is saved though its task was cancelled meanwhile",
        ),
        pytest.param(
            (),
            FAIL,
            SAVE,
            [("",)],
            {SAVED: [("step", 1)], TASKS: [("first", "failed"), ("second", "pending")]},
            id="a checkpoint is saved though its run failed meanwhile",
        ),
        pytest.param(
            (FAIL, LATER),
            RETRY,
            "select absurd.cleanup_tasks('q', 60)",
            [(1,)],
            {TASKS: [("second", "pending")]},
            id="a clean-up deletes the task that it chose though it was retried meanwhile",
        ),
        pytest.param(
            ("select absurd.emit_event('q', 'e', '1')", LATER),
            "update absurd.e_q set emitted_at = '2030-02-01'",
            "select absurd.cleanup_events('q', 60)",
            [(1,)],
            {EVENTS: []},
            id="a clean-up deletes the event that it chose though it was changed meanwhile",
        ),
        pytest.param(
            ("select absurd.emit_event('q', 'e', '1')", LATER),
            "delete from absurd.e_q",
            "select absurd.cleanup_events('q', 60)",
            [(0,)],
            {EVENTS: []},
            id="a clean-up does not count an event that was deleted meanwhile",
        ),
    ],
)
def test_what_was_read_before_waiting_holds(
    connect: Connect,
    before: tuple[str, ...],
    held: str,
    waits: str,
    answer: list[tuple[Any, ...]],
    left: dict[str, list[tuple[Any, ...]]],
) -> None:
    """The scenario's name says what waits for what."""
    holder, waiter = connect(), connect()
    for statement in before:
        for connection in (holder, waiter) if statement == LATER else (holder,):
            connection.execute(statement)
            connection.commit()
    holder.execute(held)
    done, result = threading.Event(), []

    def wait() -> None:
        try:
            result.extend(waiter.execute(waits).fetchall())
            waiter.commit()
        except psycopg.Error as error:
            result.append((error.sqlstate,))
            waiter.rollback()
        done.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not done.wait(0.1)
    holder.commit()
    assert done.wait(10)
    thread.join()
    assert result == answer
    assert {query: holder.execute(query).fetchall() for query in left} == left


@pytest.mark.parametrize("ending", ["forgotten", "in a cycle", "closed"])
def test_a_connection_that_is_gone_holds_no_locks(connect: Connect, ending: str) -> None:
    """What it did without a commit is undone, and a session that waits for it goes on."""
    holder, waiter = connect(), connect()
    waiter.execute("set statement_timeout = '20s'")
    holder.execute(f"select absurd.cancel_task('q', {TASK})")
    if ending == "closed":
        holder.close()
    elif ending == "in a cycle":
        holder.cycle = holder
    del holder
    gc.collect()
    waiter.execute(f"select absurd.complete_run('q', {RUN})")
    assert waiter.execute(TASKS).fetchall() == [("first", "completed"), ("second", "pending")]


def test_a_connection_is_forgotten_while_a_statement_runs() -> None:
    """It is rolled back when the statement of the same thread ends, not in the midst of it."""
    db = MemoryDatabase()
    with db.connect(autocommit=True) as other:
        other.execute("select absurd.create_queue('q')")
        holder: Any = db.connect()
        holder.execute("select absurd.spawn_task('q', 'first', '{}')")
        seen: list[int] = []

        def clock() -> datetime:
            nonlocal holder
            holder = None
            seen.append(len(db.tables()["t_q"]) + len(db.table_locks))
            return datetime(2030, 1, 1, tzinfo=UTC)

        db.clock = clock
        other.execute("select absurd.spawn_task('q', 'second', '{}')")
        assert seen[0] > 0
        assert not db.table_locks
        assert other.execute(TASKS).fetchall() == [("second", "pending")]
