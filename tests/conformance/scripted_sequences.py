# ruff: noqa: E501 - a statement is one line
"""Short scripted stretches between the random operations: they lead to rules that chance seldom meets.

A script yields calls; between two of them it may look at what the world has learnt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from psycopg.types.json import Jsonb

from conformance.databases import Call, Ref
from conformance.operations import STRATEGIES, Chooser, World

Script = Callable[[Chooser, World], Iterator[Call]]
SPAWN = "select * from absurd.spawn_task(%s, %s, %s, %s)"
CLAIM = "select * from absurd.claim_task(%s, %s, %s, %s)"
CHECKPOINT = "select absurd.set_task_checkpoint_state(%s, %s, %s, %s, %s)"
AWAIT = "select * from absurd.await_event(%s, %s, %s, %s, %s, %s)"


def start(queue: str, options: dict[str, Any], lease: int | None = 600) -> Iterator[Call]:
    """Spawn a task and claim what is due."""
    yield Call(0, SPAWN, (queue, "script", Jsonb({"p": [1, "x"]}), Jsonb(options)))
    yield Call(0, CLAIM, (queue, "w", lease, 50))


def latest(world: World, state: str = "running") -> tuple[Ref, Ref] | None:
    """Run and task of the newest run in a state, of the newest task."""
    ids = [
        item for item in world.runs_in.get(state, []) if world.tasks and item[2] == world.tasks[-1]
    ]
    return (Ref(ids[-1][1]), Ref(ids[-1][2])) if ids else None


def newest(world: World) -> Ref:
    """The newest task."""
    return Ref(world.tasks[-1] if world.tasks else 0)


def move(world: World, seconds: int) -> Iterator[Call]:
    """Move the first session's time."""
    world.now += timedelta(seconds=seconds)
    yield Call(0, "select set_config('absurd.fake_now', %s, false)", (world.now.isoformat(),))


def late_checkpoints(choose: Chooser, world: World) -> Iterator[Call]:
    """A later attempt's checkpoint wins; pending ones hide; another's run may not read."""
    queue = choose.pick(("plain", "parted"))
    yield from start(queue, {"max_attempts": 3})
    if (first := latest(world)) is None:
        return
    run, task = first
    yield Call(0, "select absurd.fail_run(%s, %s, %s)", (queue, run, Jsonb("no")))
    yield Call(0, CLAIM, (queue, "w", 600, 50))
    if (second := latest(world)) is None:
        return
    yield Call(0, CHECKPOINT, (queue, task, "late", Jsonb(1), second[0]))
    yield from start(queue, {})
    if (other := latest(world)) is None:
        return
    yield Call(0, CHECKPOINT, (queue, task, "late", Jsonb(2), other[0]))
    yield Call(0, CHECKPOINT, (queue, task, "early", Jsonb(2), other[0]))
    yield Call(
        0, "select * from absurd.get_task_checkpoint_states(%s, %s, %s)", (queue, task, other[0])
    )
    yield Call(0, CHECKPOINT, (queue, task, "late", Jsonb(3), second[0]))
    yield Call(
        0,
        f"update absurd.c_{queue} set status = 'pending' where task_id = %s and checkpoint_name = 'early'",
        (task,),
    )
    for pending in (None, True, False):
        yield Call(
            0,
            "select * from absurd.get_task_checkpoint_state(%s, %s, %s, %s)",
            (queue, task, "early", pending),
        )
    for reader in (run, second[0]):
        yield Call(
            0,
            "select * from absurd.get_task_checkpoint_states(%s, %s, %s)",
            (queue, task, reader),
            ties=4,
        )


def odd_leases(choose: Chooser, world: World) -> Iterator[Call]:
    """No lease, the default lease, and extending either."""
    yield from start("plain", {}, choose.pick((0, None, -1)))
    if (ids := latest(world)) is None:
        return
    for seconds in (0, 7, -1):
        yield Call(0, "select absurd.extend_claim(%s, %s, %s)", ("plain", ids[0], seconds))
    yield Call(
        0,
        "select absurd.set_task_checkpoint_state(%s, %s, %s, %s, %s, %s)",
        ("plain", ids[1], "s", Jsonb(1), ids[0], 50),
    )
    yield from move(world, 40)
    yield Call(0, CLAIM, ("plain", "w", 30, 5))


def by_hand(choose: Chooser, world: World) -> Iterator[Call]:
    """Retrying a failed task, in place and as new, with too few and with enough attempts."""
    queue = choose.pick(("plain", "parted"))
    headers = choose.pick((None, {"h": 1}))
    yield from start(queue, {"max_attempts": 1, "headers": headers})
    if (ids := latest(world)) is None:
        return
    yield Call(0, "select absurd.fail_run(%s, %s, %s)", (queue, ids[0], Jsonb({"name": "x"})))
    for state in ("sleeping", "failed"):
        yield Call(
            0, f"update absurd.t_{queue} set state = '{state}' where task_id = %s", (ids[1],)
        )
        yield Call(0, "select * from absurd.get_task_result(%s, %s)", (queue, ids[1]))
    for options in (
        {"max_attempts": 1},
        {"spawn_new": True},
        {"spawn_new": True, "max_attempts": 4},
        {"spawn_new": False, "max_attempts": 2},
    ):
        yield Call(
            0, "select * from absurd.retry_task(%s, %s, %s)", (queue, ids[1], Jsonb(options))
        )
    yield Call(0, "select * from absurd.get_task_result(%s, %s)", (queue, ids[1]))


def waiting(choose: Chooser, world: World) -> Iterator[Call]:
    """Waits that end by an event, by time, or by an operator's hand."""
    queue = choose.pick(("plain", "parted"))
    event = f"e{choose.integer(0, 10**6)}"
    timeout = choose.pick((None, None, 20))
    yield from start(queue, {"max_attempts": 2})
    if (ids := latest(world)) is None:
        return
    run, task = ids
    yield Call(0, AWAIT, (queue, task, run, "s", event, timeout))
    how = choose.pick(("event", "hand", "time", "late event"))
    if how == "event":
        yield Call(
            0,
            "select absurd.emit_event(%s, %s, %s)",
            (queue, event, choose.pick((None, Jsonb(1.0)))),
        )
    elif how == "hand":
        yield Call(
            0,
            f"update absurd.r_{queue} set state = 'pending', available_at = %s where run_id = %s",
            (world.now, run),
        )
    else:
        yield from move(world, 30)
    if how == "late event":
        yield Call(0, "select absurd.emit_event(%s, %s, %s)", (queue, event, Jsonb(2)))
    yield Call(0, CLAIM, (queue, "w", 600, 50))
    then = choose.pick(("await", "complete", "fail", "schedule"))
    if then == "await":
        for step in (choose.pick(("s", "t")), "u"):
            yield Call(0, AWAIT, (queue, task, run, step, event, timeout))
        yield Call(0, "select absurd.emit_event(%s, %s, %s)", (queue, event, Jsonb(3)))
    elif then == "schedule":
        yield Call(0, "select absurd.schedule_run(%s, %s, %s)", (queue, run, world.now))
    else:
        yield Call(0, f"select absurd.{then}_run(%s, %s, %s)", (queue, run, Jsonb("end")))


def too_long(choose: Chooser, world: World) -> Iterator[Call]:
    """Rules that cancel: at a claim, at a failure, and a malformed one that blocks the queue."""
    rule = choose.pick(
        (
            {"max_delay": 60},
            {"max_duration": 60},
            {"max_delay": 60, "max_duration": 90},
            {"max_duration": "x"},
        )
    )
    strategy = {"kind": "fixed", "base_seconds": choose.pick((59, 60, 100))}
    yield Call(
        0,
        SPAWN,
        ("plain", "script", None, Jsonb({"cancellation": rule, "retry_strategy": strategy})),
    )
    yield from move(world, choose.pick((0, 59, 60)))
    yield Call(0, CLAIM, ("plain", "w", 600, 50))
    if (ids := latest(world)) is not None:
        yield Call(0, "select absurd.fail_run(%s, %s, %s)", ("plain", ids[0], Jsonb("no")))
        yield from move(world, choose.pick((59, 60, 90)))
        yield Call(0, CLAIM, ("plain", "w", 600, 50))
    if rule.get("max_duration") == "x":
        yield Call(
            0,
            "update absurd.t_plain set cancellation = null where task_id = %s",
            (newest(world),),
        )


def delays(choose: Chooser, world: World) -> Iterator[Call]:
    """Retry delays of strategies and attempts; JSON null is no strategy."""
    pairs = [(strategy, attempt) for strategy in STRATEGIES for attempt in (1, 2, 5, 4000)]
    values = ", ".join(["(%s::jsonb, %s::int)"] * len(pairs))
    given = tuple(item for strategy, attempt in pairs for item in (Jsonb(strategy or {}), attempt))
    yield Call(
        0, f"select absurd.retry_delay_seconds(a, b) from (values {values}) as v(a, b)", given
    )
    yield Call(0, "select absurd.retry_delay_seconds('null', 1)")
    yield Call(0, SPAWN, ("plain", "t", None, Jsonb({"headers": None})))
    yield Call(0, SPAWN, ("plain", "t", None, Jsonb({"retry_strategy": None})))


def elsewhere(choose: Chooser, world: World) -> Iterator[Call]:
    """A lease that ends in another time zone; a run of a task that an operator has ended."""
    yield Call(0, "set timezone = 'Asia/Tokyo'")
    yield from start("plain", {}, 5)
    yield from move(world, 5)
    yield Call(0, CLAIM, ("plain", "w", 30, 50))
    yield Call(0, "reset timezone")
    yield Call(0, SPAWN, ("plain", "script", None, None))
    state = choose.pick(("completed", "cancelled", "failed", "sleeping", "sleeping", "sleeping"))
    yield Call(
        0,
        f"update absurd.t_plain set state = '{state}', completed_payload = '1', last_attempt_run = null where task_id = %s",
        (newest(world),),
    )
    yield Call(0, CLAIM, ("plain", "w", 30, 50))
    yield Call(0, "select * from absurd.get_task_result(%s, %s)", ("plain", newest(world)))
    yield Call(0, "select absurd.cleanup_tasks(%s, %s)", ("plain", 0))
    # Its run is still pending: a retry would make a second one, and which of the two a claim notes on
    # the task follows from how Postgres hashes their random ids (seed 30262493).
    yield Call(
        0,
        "delete from absurd.r_plain where task_id = %s and state = 'pending'",
        (newest(world),),
    )


def clean(choose: Chooser, world: World) -> Iterator[Call]:
    """Tasks that ended in each way, cleaned up one second too early and then in time."""
    queue = choose.pick(("plain", "parted"))
    yield from start(queue, {"max_attempts": 1, "idempotency_key": f"c{len(world.tasks)}"})
    if (ids := latest(world)) is None:
        return
    run, task = ids
    yield Call(0, CHECKPOINT, (queue, task, "s", Jsonb(1), run))
    ending = choose.pick(("complete_run", "fail_run", "cancel_task"))
    arguments = (queue, task) if ending == "cancel_task" else (queue, run, Jsonb("r"))
    yield Call(0, f"select absurd.{ending}({', '.join(['%s'] * len(arguments))})", arguments)
    yield Call(0, "select absurd.cancel_task(%s, %s)", (queue, task))
    yield Call(0, "select absurd.emit_event(%s, %s)", (queue, "clean"))
    for seconds in (10, 1):
        yield from move(world, seconds)
        yield Call(0, "select absurd.cleanup_tasks(%s, %s)", (queue, 10))
        yield Call(0, "select absurd.cleanup_events(%s, %s)", (queue, 10))


def locked(choose: Chooser, world: World) -> Iterator[Call]:
    """One session holds what another wants; then settings and rows go back."""
    if world.in_transactions:
        return
    yield Call(0, SPAWN, ("plain", "script", None, None))
    yield Call(1, "begin")
    yield Call(
        1,
        choose.pick(
            (
                "select run_id from absurd.r_plain for update",
                "select task_id from absurd.t_plain for update",
                "select 1",
            )
        ),
        ties=-1,
    )
    yield Call(0, CLAIM, ("plain", "w", 30, 2))
    yield Call(
        1,
        "select set_config('absurd.fake_now', %s, false)",
        ((world.now + timedelta(days=1)).isoformat(),),
    )
    yield Call(1, CLAIM, ("plain", "w", 30, 50))
    yield Call(0, CLAIM, ("plain", "w", 30, 50))
    yield Call(0, "select absurd.cancel_task(%s, %s)", ("plain", newest(world)))
    yield Call(1, "savepoint a")
    yield Call(1, "select absurd.cancel_task(%s, %s)", ("plain", newest(world)))
    if choose.integer(0, 1):
        yield Call(1, "select 1/0")
    yield Call(1, "rollback to savepoint a")
    yield Call(1, "select absurd.emit_event('plain', 'after')")
    yield Call(1, choose.pick(("rollback", "commit")))
    yield Call(1, "select absurd.current_time()::text")


def refused(choose: Chooser, world: World) -> Iterator[Call]:
    """Arguments at the edge of what is taken, and past it."""
    options = [{"max_attempts": value} for value in (0, 1, -1)]
    for given in (*options, {"idempotency_key": ""}):
        yield Call(0, SPAWN, ("plain", "edge", None, Jsonb(given)))
        yield Call(0, SPAWN, ("plain", "edge", None, Jsonb({"idempotency_key": "edge"})))
    yield Call(0, SPAWN, ("plain", "edge", '{"a": "\\u0000"}', None))
    for name in (" ", "", "\t"):
        yield Call(0, SPAWN, ("plain", name, None, None))
    for worker, lease, quantity in ((None, 30, 0), ("", None, -1), ("w", -5, None), ("w", 0, 1)):
        yield Call(0, CLAIM, ("plain", worker, lease, quantity))
    for step in (" ", "", None):
        yield Call(0, CHECKPOINT, ("plain", newest(world), step, None, newest(world)))
    yield Call(0, AWAIT, ("plain", newest(world), newest(world), "s", " ", -1))
    yield Call(
        0, "select absurd.cleanup_tasks('plain', 10, 0), absurd.cleanup_events('plain', 10, 0)"
    )


def weeks(choose: Chooser, world: World) -> Iterator[Call]:
    """Partitions of other weeks: created, empty or not, and the default one disabled."""
    if world.in_transactions:
        return
    yield Call(
        0,
        "select absurd.set_queue_policy('parted', %s)",
        (
            Jsonb(
                {
                    "detach_mode": "empty",
                    "detach_min_age": "0 days",
                    "partition_lookahead": choose.pick(("0 days", "14 days")),
                }
            ),
        ),
    )
    yield from move(world, 86_400 * choose.pick((6, 7, 21)))
    yield Call(0, "select absurd.ensure_partitions('parted')")
    yield Call(0, "select * from absurd.list_detach_candidates('parted')")
    yield Call(
        0,
        "select absurd.set_queue_policy('parted', %s)",
        (Jsonb({"default_partition": "disabled"}),),
    )
    yield Call(0, "select absurd.ensure_partitions()")
    yield Call(0, "select absurd.set_queue_policy('parted', %s)", (Jsonb({"zz": 1, "a": 2}),))


SCRIPTS: tuple[Script, ...] = (
    late_checkpoints, odd_leases, by_hand, waiting, waiting, waiting, too_long, delays, elsewhere,
    clean, locked, weeks, refused,
)  # fmt: skip
