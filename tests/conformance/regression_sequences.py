"""Sequences for rules that random operations do not meet in 150 sequences: each is played once.

Each finds a mutant that random sequences miss.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from psycopg.types.json import Jsonb

from conformance.databases import Call
from conformance.operations import Chooser, World
from conformance.scripted_sequences import AWAIT, CHECKPOINT, CLAIM, Script, latest, move, start

EMIT = "select absurd.emit_event(%s, %s, %s)"


def a_checkpoint_of_nothing(choose: Chooser, world: World) -> Iterator[Call]:
    """A checkpoint without a state does not answer a wait of its name; JSON null does."""
    for state in (None, Jsonb(None)):
        yield from start("plain", {})
        if (ids := latest(world)) is None:
            return
        run, task = ids
        yield Call(0, CHECKPOINT, ("plain", task, "s", state, run))
        yield Call(0, AWAIT, ("plain", task, run, "s", "never", None))


def _awake_with(world: World, event: str, first: str, second: str) -> Iterator[Call]:
    """A run that got `first`; its event is cleaned up and emitted again before it asks again."""
    yield from start("plain", {})
    if (ids := latest(world)) is None:
        return
    run, task = ids
    yield Call(0, AWAIT, ("plain", task, run, "s", event, None))
    yield Call(0, EMIT, ("plain", event, first))
    yield Call(0, CLAIM, ("plain", "w", 600, 50))
    yield from move(world, 5)
    yield Call(0, "select absurd.cleanup_events('plain', 0)")
    yield Call(0, EMIT, ("plain", event, second))
    yield Call(0, AWAIT, ("plain", task, run, "t", event, None))


def an_event_emitted_again(choose: Chooser, world: World) -> Iterator[Call]:
    """The event's payload counts, not the one received, unless they are equal as jsonb."""
    yield from _awake_with(world, "again", "1", "2")
    yield from _awake_with(world, "equal", "1", "1.0")
    yield from _awake_with(world, "objects", '{"a": 1.00}', '{"a": 1}')


def a_step_that_waits_again(choose: Chooser, world: World) -> Iterator[Call]:
    """A wait that was left standing takes the new event's name and timeout."""
    yield from start("plain", {})
    if (ids := latest(world)) is None:
        return
    run, task = ids
    yield Call(0, AWAIT, ("plain", task, run, "s", "first", None))
    yield Call(
        0,
        "update absurd.r_plain set available_at = absurd.current_time() where run_id = %s",
        (run,),
    )
    yield Call(0, CLAIM, ("plain", "w", 600, 50))
    yield Call(0, AWAIT, ("plain", task, run, "s", "second", 60))
    yield Call(0, EMIT, ("plain", "first", "1"))
    yield Call(0, EMIT, ("plain", "second", "2"))


def owners_that_are_gone(choose: Chooser, world: World) -> Iterator[Call]:
    """A checkpoint whose owner's run is gone, or that never had one, is shown and overwritten."""
    yield from start("plain", {"max_attempts": 3})
    if (ids := latest(world)) is None:
        return
    run, task = ids
    yield Call(0, CHECKPOINT, ("plain", task, "s", Jsonb(1), run))
    yield Call(0, "select absurd.fail_run(%s, %s, %s)", ("plain", run, Jsonb("no")))
    yield Call(0, CLAIM, ("plain", "w", 600, 50))
    if (second := latest(world)) is None:
        return
    yield Call(0, "delete from absurd.r_plain where run_id = %s", (run,))
    states = "select * from absurd.get_task_checkpoint_states(%s, %s, %s)"
    yield Call(0, states, ("plain", task, second[0]), ties=4)
    yield Call(0, CHECKPOINT, ("plain", task, "s", Jsonb(2), second[0]))
    yield Call(0, "update absurd.c_plain set owner_run_id = null where task_id = %s", (task,))
    yield Call(0, states, ("plain", task, second[0]), ties=4)
    yield Call(0, CHECKPOINT, ("plain", task, "s", Jsonb(3), second[0]))


def policies_in_months(choose: Chooser, world: World) -> Iterator[Call]:
    """A month of a time to live has 30 days, a year 365.25; a limit of one deletes one."""
    policy = "select absurd.set_queue_policy('plain', %s)"
    yield Call(0, policy, (Jsonb({"cleanup_ttl": "1 mon", "cleanup_limit": 1}),))
    for _ in range(2):
        yield from start("plain", {})
        if (ids := latest(world)) is None:
            return
        yield Call(0, "select absurd.complete_run('plain', %s)", (ids[0],))
        yield from move(world, 1)
    yield from move(world, 30 * 86_400 + 3600)
    yield Call(0, "select * from absurd.cleanup_all_queues('plain')")
    yield Call(0, policy, (Jsonb({"cleanup_ttl": "30 days", "cleanup_limit": 1000}),))


def a_live_task_that_was_cancelled_once(choose: Chooser, world: World) -> Iterator[Call]:
    """Failing keeps an old ``cancelled_at``, retrying by hand forgets it."""
    yield from start("plain", {"max_attempts": 1})
    if (ids := latest(world)) is None:
        return
    run, task = ids
    yield Call(
        0,
        "update absurd.t_plain set cancelled_at = '2026-01-01', cancellation = %s "
        "where task_id = %s",
        (Jsonb({"max_duration": 0}), task),
    )
    yield Call(0, "update absurd.t_plain set max_attempts = 2 where task_id = %s", (task,))
    yield Call(0, "select absurd.fail_run(%s, %s, %s)", ("plain", run, Jsonb("no")))
    yield Call(0, "update absurd.t_plain set state = 'failed' where task_id = %s", (task,))
    yield Call(0, "select attempt from absurd.retry_task('plain', %s)", (task,))


def a_task_that_failed_before_its_attempts(choose: Chooser, world: World) -> Iterator[Call]:
    """Retrying by hand adds an attempt to those that were allowed, not to those that were made."""
    yield from start("plain", {"max_attempts": 3})
    if (ids := latest(world)) is None:
        return
    run, task = ids
    broken = Jsonb({"kind": "odd"})
    yield Call(
        0, "update absurd.t_plain set retry_strategy = %s where task_id = %s", (broken, task)
    )
    yield Call(0, "select absurd.fail_run(%s, %s, %s)", ("plain", run, Jsonb("no")))
    yield Call(0, "select attempt from absurd.retry_task('plain', %s)", (task,))


def a_run_that_sleeps(choose: Chooser, world: World) -> Iterator[Call]:
    """It cannot complete, may fail, and is claimed when it is due and not before."""
    for ending in ("complete_run", "fail_run"):
        yield from start("plain", {})
        if (ids := latest(world)) is None:
            return
        run, task = ids
        yield Call(0, AWAIT, ("plain", task, run, "s", "never", None))
        yield Call(0, f"select absurd.{ending}(%s, %s, %s)", ("plain", run, Jsonb(1)))
    yield from start("plain", {})
    if (ids := latest(world)) is None:
        return
    later = world.now + timedelta(seconds=60)
    yield Call(0, "select absurd.schedule_run(%s, %s, %s)", ("plain", ids[0], later))
    yield Call(0, CLAIM, ("plain", "w", 600, 50))


REGRESSIONS: tuple[Script, ...] = (
    a_checkpoint_of_nothing, an_event_emitted_again, a_step_that_waits_again, owners_that_are_gone,
    policies_in_months, a_live_task_that_was_cancelled_once,
    a_task_that_failed_before_its_attempts, a_run_that_sleeps,
)  # fmt: skip
