# ruff: noqa: E501 - a statement is one line
"""What is done to both databases: every procedure with good and bad arguments, transactions,
settings, and statements on the tables themselves.

Each operation draws its arguments from a `Chooser`, so that Hypothesis and a plain random source
can both drive it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from conformance.databases import QUEUES, SESSIONS, Call, EmulatorDatabase, Ref

T = TypeVar("T")


class Chooser(Protocol):
    """Where decisions come from."""

    def integer(self, low: int, high: int) -> int:
        """A number from low to high."""

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""


class RandomChooser:
    """Decisions from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integer(self, low: int, high: int) -> int:
        """A number from low to high."""
        return self._random.randint(low, high)

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return self._random.choice(options)


class DataChooser:
    """Decisions from Hypothesis."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def integer(self, low: int, high: int) -> int:
        """A number from low to high."""
        return self._data.draw(st.integers(low, high))

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return self._data.draw(st.sampled_from(options))


def rarely(choose: Chooser, usual: Callable[[], Any], options: Sequence[Any]) -> Any:
    """Usually what is usual, in one of 24 cases one of the others."""
    return choose.pick(options) if choose.integer(0, 23) == 23 else usual()


START = datetime.now(UTC).replace(microsecond=0) - timedelta(days=3)
"""Fake time begins near the real one: ids follow the real clock, and partitions the fake one."""


class World:
    """What an operation may draw on: the common numbering of ids, and the fake time."""

    def __init__(self) -> None:
        self.ids = 0
        self.now = START
        self.tasks: list[int] = []
        self.runs: list[int] = []
        self.runs_in: dict[str, list[tuple[str, int, int]]] = {}
        """By state, the latest runs: queue, run, task."""
        self.open: set[int] = set()
        """Sessions in a transaction, and those in a failed one."""
        self.failed: set[int] = set()

    @property
    def in_transactions(self) -> bool:
        """Whether any session is in a transaction."""
        return bool(self.open or self.failed)


def session(choose: Chooser) -> int:
    """One of the sessions, mostly the first."""
    return choose.pick((0, 0, 0, 0, 0, 0, 0, 1, 1, 2))


def queue(choose: Chooser) -> Any:
    """A queue's name, sometimes of one that cannot be."""
    return rarely(
        choose,
        lambda: choose.pick((QUEUES[0], QUEUES[0], QUEUES[1])),
        (QUEUES[2], QUEUES[2], None, "", "missing", "x" * 58, "é" * 29),
    )


def task(choose: Chooser, world: World) -> Any:
    """A task's id, sometimes something else."""
    return _id(choose, world.tasks, world)


def run(choose: Chooser, world: World) -> Any:
    """A run's id, sometimes something else."""
    return _id(choose, world.runs, world)


def _id(choose: Chooser, pool: list[int], world: World) -> Any:
    bad = (None, "abc", "00000000-0000-0000-0000-000000000001", 5, Ref(choose.integer(0, 40)))
    if not pool:
        return choose.pick(bad)
    recent = pool[-6:]
    return rarely(choose, lambda: Ref(choose.pick(recent)), bad)


JSON = (
    {}, {"a": 1}, [1, 2], "text", 5, 1.0, 1.5e300, -0.0, None, True, {"b": 1, "a": {"z": 1, "y": None}},
    {"aa": 1, "b": 2, "é": 3, "": 4}, [None, {"x": [1.10, "\u2603"]}], 10**30, "a\u0001\\\"b",
)  # fmt: skip
RAW_JSON = (
    "null", '{"a":1,"a":2}', "[1e400]", "-0", '"\\u00e9"', " [1, 2.50] ", "1e2", "{bad", "NaN",
    '{"a":"\\u0000"}', '"\\ud800"', "", '{"b":1,"aa":2,"a":3}', "[1E-3, -1.0e1]", "tru", "01",
    '{"a":1} x', "1e200000", '"\t"',
)  # fmt: skip


def json_value(choose: Chooser) -> Any:
    """Something for a jsonb parameter: adapted, as text, or not JSON at all."""
    return rarely(choose, lambda: Jsonb(choose.pick(JSON)), (None, *RAW_JSON, 5, "x"))


STRATEGIES = (
    None, {}, {"kind": "none"}, {"kind": "fixed"}, {"kind": "fixed", "base_seconds": 5},
    {"kind": "fixed", "base_seconds": 0}, {"kind": "exponential"}, {"kind": None},
    {"kind": "exponential", "base_seconds": 2, "factor": 3, "max_seconds": 50},
    {"kind": "exponential", "base_seconds": 1.5, "factor": 0.5},
    {"kind": "exponential", "factor": "1e300", "base_seconds": "1e-3"},
    {"kind": "fixed", "base_seconds": "7"}, {"kind": "fixed", "base_seconds": "0x10"},
)  # fmt: skip
BAD_STRATEGIES = (
    5, [], "x", {"kind": "linear"}, {"kind": 5}, {"kind": "fixed", "base_seconds": -1},
    {"kind": "fixed", "base_seconds": "abc"}, {"kind": "fixed", "base_seconds": "NaN"},
    {"kind": "fixed", "base_seconds": 86401}, {"kind": "exponential", "factor": -1},
    {"kind": "exponential", "factor": "Infinity"}, {"kind": "exponential", "max_seconds": "1e999"},
    {"kind": "exponential", "max_seconds": -1}, {"kind": "exponential", "factor": True},
    {"kind": "fixed", "base_seconds": "1_0"}, {"kind": "fixed", "base_seconds": ""},
)  # fmt: skip
ATTEMPTS = (None, 1, 2, 3, "2", 1e0, 5)
BAD_ATTEMPTS = (0, -1, True, "x", 1.5, 2**31, "", "1_0", " 3 ", "0x2", [], {})
CANCELLATIONS = (
    None, {}, {"max_delay": 60}, {"max_duration": 60}, {"max_delay": 0}, {"max_duration": "30"},
    {"max_delay": 3600, "max_duration": 5}, {"max_duration": None}, "soon", [1], {"max_delay": -5},
)  # fmt: skip


def spawn(choose: Chooser, world: World) -> Call:
    """``spawn_task``."""
    options: dict[str, Any] = {}
    if choose.integer(0, 1):
        options["max_attempts"] = rarely(choose, lambda: choose.pick(ATTEMPTS), BAD_ATTEMPTS)
    if choose.integer(0, 2) == 0:
        options["retry_strategy"] = rarely(
            choose, lambda: choose.pick(STRATEGIES[1:]), (None, *BAD_STRATEGIES)
        )
    if choose.integer(0, 4) == 0:
        options["cancellation"] = rarely(
            choose, lambda: choose.pick(CANCELLATIONS), ({"max_delay": "soon"}, {"max_delay": 5})
        )
    if choose.integer(0, 4) == 0:
        options["headers"] = choose.pick(JSON)
    if choose.integer(0, 3) == 0:
        options["idempotency_key"] = choose.pick(("k1", "k2", "k3", None, 5, ""))
    given = rarely(
        choose,
        lambda: Jsonb(options),
        (None, "{}", "[]", '"max_attempts"', '["max_attempts"]', "5", "null", '{"x": 1}'),
    )
    name = rarely(choose, lambda: choose.pick(("image", "flag")), (None, "", "  ", "\t", "x" * 99))
    where = queue(choose)
    if choose.integer(0, 3) == 0:
        return Call(
            session(choose), "select * from absurd.spawn_task(%s, %s, %s)",
            (where, name, json_value(choose)),
        )  # fmt: skip
    return Call(
        session(choose), "select * from absurd.spawn_task(%s, %s, %s, %s)",
        (where, name, json_value(choose), given),
    )  # fmt: skip


def claim(choose: Chooser, world: World) -> Call:
    """``claim_task``."""
    if choose.integer(0, 3) == 0:
        return Call(
            session(choose), "select * from absurd.claim_task(%s, %s)", (queue(choose), "w")
        )
    worker = rarely(choose, lambda: choose.pick(("w1", "w2")), (None, "", "é"))
    timeout = rarely(
        choose, lambda: choose.pick((30, 5, 60, 0)), (None, -1, 2**31 - 1, 2**31, True)
    )
    quantity = rarely(choose, lambda: choose.pick((1, 1, 2, 5)), (None, 0, -1, 1.5, "2", "x"))
    return Call(
        session(choose), "select * from absurd.claim_task(%s, %s, %s, %s)",
        (queue(choose), worker, timeout, quantity),
    )  # fmt: skip


def known(choose: Chooser, world: World, *states: str) -> tuple[Any, Any, Any]:
    """Queue, run and task of a run, mostly in one of the states; sometimes a mixture."""
    likely = [item for state in states for item in world.runs_in.get(state, [])[-4:]]
    others = [item for items in world.runs_in.values() for item in items[-4:]]
    pool = likely if likely and choose.integer(0, 7) else others
    if not pool or choose.integer(0, 19) == 19:
        return queue(choose), run(choose, world), task(choose, world)
    name, run_number, task_number = choose.pick(pool)
    return name, Ref(run_number), Ref(task_number)


def claimed(choose: Chooser, world: World) -> tuple[Any, Any, Any]:
    """Queue, run and task of what is mostly a running run."""
    return known(choose, world, "running")


def complete(choose: Chooser, world: World) -> Call:
    """``complete_run``."""
    where, which, _ = claimed(choose, world)
    if choose.integer(0, 4) == 0:
        return Call(session(choose), "select absurd.complete_run(%s, %s)", (where, which))
    return Call(
        session(choose), "select absurd.complete_run(%s, %s, %s)",
        (where, which, json_value(choose)),
    )  # fmt: skip


def moment(choose: Chooser, world: World) -> Any:
    """A time around the fake now, in one of the forms that a client may send."""
    when = world.now + timedelta(seconds=choose.pick((-60, 0, 1, 30, 90, 4000)))
    return rarely(
        choose,
        lambda: when,
        (
            None, "infinity", "-infinity", "soon", when.isoformat(),
            when.isoformat()[:19], str(when.date()), "2026-02-30", "epoch", 5,
        ),
    )  # fmt: skip


def schedule(choose: Chooser, world: World) -> Call:
    """``schedule_run``."""
    where, which, _ = claimed(choose, world)
    return Call(
        session(choose), "select absurd.schedule_run(%s, %s, %s)",
        (where, which, moment(choose, world)),
    )  # fmt: skip


def fail(choose: Chooser, world: World) -> Call:
    """``fail_run``."""
    where, which, _ = known(choose, world, "running", "running", "sleeping")
    reason = json_value(choose)
    if choose.integer(0, 2):
        return Call(session(choose), "select absurd.fail_run(%s, %s, %s)", (where, which, reason))
    return Call(
        session(choose), "select absurd.fail_run(%s, %s, %s, %s)",
        (where, which, reason, moment(choose, world)),
    )  # fmt: skip


def retry(choose: Chooser, world: World) -> Call:
    """``retry_task``."""
    options: dict[str, Any] = {}
    if choose.integer(0, 2) == 0:
        options["spawn_new"] = rarely(
            choose, lambda: choose.pick((True, False)), (None, "yes", "maybe", 1, "t", "of", 2)
        )
    if choose.integer(0, 1):
        options["max_attempts"] = rarely(choose, lambda: choose.pick((2, 3, 5)), BAD_ATTEMPTS)
    where, _, which = known(choose, world, "failed")
    given = rarely(choose, lambda: Jsonb(options), (None, "[]", "5"))
    return Call(
        session(choose), "select * from absurd.retry_task(%s, %s, %s)", (where, which, given)
    )


def cancel(choose: Chooser, world: World) -> Call:
    """``cancel_task``."""
    where, _, which = known(choose, world, "running", "sleeping", "pending")
    return Call(session(choose), "select absurd.cancel_task(%s, %s)", (where, which))


def result(choose: Chooser, world: World) -> Call:
    """``get_task_result``."""
    where, _, which = known(choose, world, "failed", "completed")
    return Call(session(choose), "select * from absurd.get_task_result(%s, %s)", (where, which))


def extend(choose: Chooser, world: World) -> Call:
    """``extend_claim``."""
    where, which, _ = claimed(choose, world)
    seconds = rarely(choose, lambda: choose.pick((10, 60)), (None, 0, -5, 2**31, "7", True))
    return Call(session(choose), "select absurd.extend_claim(%s, %s, %s)", (where, which, seconds))


STEPS = ("fetch", "solve")


def step(choose: Chooser) -> Any:
    """A step's name."""
    return rarely(choose, lambda: choose.pick(STEPS), (None, "", " ", "\n", "é"))


def checkpoint(choose: Chooser, world: World) -> Call:
    """``set_task_checkpoint_state``."""
    where, owner, which = claimed(choose, world)
    if choose.integer(0, 5) == 0:
        owner = run(choose, world)
    extra = rarely(choose, lambda: choose.pick((None, 40)), (0, -5, 2**31 - 1))
    return Call(
        session(choose),
        "select absurd.set_task_checkpoint_state(%s, %s, %s, %s, %s, %s)",
        (where, which, step(choose), json_value(choose), owner, extra),
    )


def read_checkpoint(choose: Chooser, world: World) -> Call:
    """``get_task_checkpoint_state``."""
    where, _, which = claimed(choose, world)
    pending = choose.pick((None, True, False))
    return Call(
        session(choose),
        "select * from absurd.get_task_checkpoint_state(%s, %s, %s, %s)",
        (where, which, step(choose), pending),
    )


def read_checkpoints(choose: Chooser, world: World) -> Call:
    """``get_task_checkpoint_states``; checkpoints written at the same time may come in any order."""
    where, owner, which = claimed(choose, world)
    return Call(
        session(choose),
        "select * from absurd.get_task_checkpoint_states(%s, %s, %s)",
        (where, which, owner),
        ties=4,
    )


EVENTS = ("ready", "done")


def event(choose: Chooser) -> Any:
    """An event's name."""
    return rarely(choose, lambda: choose.pick(EVENTS), (None, "", " ", "é"))


def await_event(choose: Chooser, world: World) -> Call:
    """``await_event``."""
    where, which, owner = claimed(choose, world)
    if choose.integer(0, 5) == 0:
        owner = task(choose, world)
    timeout = rarely(choose, lambda: choose.pick((None, None, 5, 60)), (0, -1, 2**31 - 1, "x"))
    return Call(
        session(choose),
        "select * from absurd.await_event(%s, %s, %s, %s, %s, %s)",
        (where, owner, which, step(choose), event(choose), timeout),
    )


def emit(choose: Chooser, world: World) -> Call:
    """``emit_event``."""
    where = queue(choose)
    if choose.integer(0, 4) == 0:
        return Call(session(choose), "select absurd.emit_event(%s, %s)", (where, event(choose)))
    return Call(
        session(choose), "select absurd.emit_event(%s, %s, %s)",
        (where, event(choose), json_value(choose)),
    )  # fmt: skip


def create_queue(choose: Chooser, world: World) -> Call:
    """``create_queue`` and ``ensure_queue_tables``."""
    name = queue(choose)
    if world.in_transactions and name == "parted":
        name = "plain"
    usual = {"plain": "unpartitioned", "parted": "partitioned"}.get(name or "", "unpartitioned")
    mode = rarely(choose, lambda: usual, (" PARTITIONED ", "partitioned", "", None, "other"))
    return choose.pick(
        (
            Call(session(choose), "select absurd.create_queue(%s, %s)", (name, mode)),
            Call(session(choose), "select absurd.create_queue(%s, %s)", (name, mode)),
            Call(session(choose), "select absurd.create_queue(%s)", (name,)),
            Call(session(choose), "select absurd.ensure_queue_tables(%s)", (name,)),
        )
    )


def drop_queue(choose: Chooser, world: World) -> Call:
    """``drop_queue``."""
    return Call(session(choose), "select absurd.drop_queue(%s)", (queue(choose),))


POLICIES = (
    {"partition_lookahead": "14 days"}, {"partition_lookback": "3 weeks"}, {"cleanup_ttl": "1 hour"},
    {"cleanup_ttl": "0"}, {"cleanup_limit": 100}, {"detach_mode": "empty"}, {"detach_mode": " NONE "},
    {"detach_min_age": "0 days"}, {"default_partition": "disabled"}, {"default_partition": "Enabled"},
    {"cleanup_ttl": "1 mon 2 days", "cleanup_limit": "50"}, {}, {"detach_min_age": "-0 s"},
)  # fmt: skip
BAD_POLICIES = (
    {"x": 1}, {"zz": 1, "y": 2}, {"cleanup_ttl": "soon"}, {"cleanup_ttl": None}, {"cleanup_ttl": "-1 s"},
    {"cleanup_limit": 0}, {"cleanup_limit": None}, {"cleanup_limit": "x"}, {"detach_mode": None},
    {"detach_mode": "full"}, {"default_partition": "x"}, {"partition_lookback": "-1 day"},
    {"partition_lookahead": "-1 day"}, {"detach_min_age": "-1 day"}, 5, [], None,
    {"cleanup_ttl": "infinity"}, {"detach_min_age": None},
)  # fmt: skip


def policy(choose: Chooser, world: World) -> Call:
    """``set_queue_policy`` and ``get_queue_policy``."""
    if choose.integer(0, 4) == 0:
        return Call(session(choose), "select * from absurd.get_queue_policy(%s)", (queue(choose),))
    given = choose.pick(BAD_POLICIES if choose.integer(0, 3) == 0 else POLICIES)
    if world.in_transactions and isinstance(given, dict) and "default_partition" in given:
        given = {}
    return Call(
        session(choose), "select absurd.set_queue_policy(%s, %s)", (queue(choose), Jsonb(given))
    )


def partitions(choose: Chooser, world: World) -> Call:
    """Partition procedures, and pg_cron's on a server without it.

    Partitions are made and dropped only while nobody is in a transaction: which of a table's
    partitions a statement has locked is up to Postgres' planner.
    """
    if world.in_transactions:
        return Call(session(choose), "select * from absurd.list_detach_candidates()")
    name = rarely(choose, lambda: "parted", (None, "plain", "missing", ""))
    s = session(choose)
    return choose.pick(
        (
            Call(s, "select absurd.ensure_partitions(%s)", (name,)),
            Call(s, "select absurd.ensure_partitions()"),
            Call(s, "select * from absurd.list_detach_candidates(%s)", (name,)),
            Call(s, "select * from absurd.list_detach_candidates(%s)", (name,)),
            Call(s, "select absurd.drop_detached_partition(%s)", (choose.pick(("t_parted_d", "t_plain_x", "", None)),)),
            Call(s, choose.pick(("select * from absurd.enable_cron(%s)", "select * from absurd.disable_cron(%s)", "select * from absurd.schedule_detach_jobs(%s)")), (name,)),
        )
    )  # fmt: skip


def helpers(choose: Chooser, world: World) -> Call:
    """UUIDv7 helpers, week buckets, retry delays, and the rest without a queue."""
    s = session(choose)
    when = moment(choose, world)
    strategy = choose.pick((*STRATEGIES, *BAD_STRATEGIES))
    return choose.pick(
        (
            Call(s, "select absurd.uuidv7_floor(%s)", (when,)),
            Call(s, "select absurd.uuidv7_timestamp(absurd.uuidv7_floor(%s))", (when,)),
            Call(s, "select absurd.week_bucket_utc(%s)::text", (when,)),
            Call(s, "select absurd.partition_week_tag(%s)", (when,)),
            Call(s, "select absurd.retry_delay_seconds(%s, %s)", (Jsonb(strategy), choose.pick((1, 2, 9, 4000, None)))),
            Call(s, "select absurd.current_time()::text, absurd.get_schema_version()"),
            Call(s, "select absurd.validate_queue_name(%s)", (queue(choose),)),
            Call(s, "select * from absurd.list_queues()"),
        )
    )  # fmt: skip


def advance(choose: Chooser, world: World) -> Call:
    """Move one session's fake time."""
    world.now += timedelta(seconds=choose.pick((0, 1, 5, 5, 30, 31, 60, 61, 3601, 86_400 * 8)))
    value = rarely(choose, world.now.isoformat, ("garbage", "2026-13-01", "infinity"))
    return Call(session(choose), "select set_config('absurd.fake_now', %s, false)", (value,))


def settings(choose: Chooser, world: World) -> Call:
    """Other settings."""
    text = choose.pick(
        (
            "set timezone = 'Europe/Vienna'", "set timezone to 'America/New_York'", "reset timezone",
            "set local absurd.fake_now = '2026-01-01T00:00:00Z'", "show timezone",
            "select current_setting('absurd.fake_now', true)", "set absurd.other = 'x'",
            "select current_setting('absurd.other', true)", "set absurd.other = default",
            "set timezone = 'Nowhere'", "show absurd.other", "set local timezone = 'Asia/Tokyo'",
        )
    )  # fmt: skip
    return Call(session(choose), text)


def transaction(choose: Chooser, world: World) -> Call:
    """Transaction control; a transaction that has failed is ended soon."""
    if world.failed and choose.integer(0, 2):
        text = choose.pick(("rollback", "commit", "rollback to savepoint a", "rollback"))
        return Call(choose.pick(sorted(world.failed)), text)
    if world.open and choose.integer(0, 2) == 0:
        return Call(
            choose.pick(sorted(world.open)), choose.pick(("commit", "rollback", "savepoint a"))
        )
    text = choose.pick(
        (
            "begin", "begin", "commit", "commit", "rollback", "savepoint a", "savepoint b",
            "rollback to savepoint a", "rollback to b", "release savepoint a", "release b",
        )
    )  # fmt: skip
    return Call(session(choose), text)


def cleanup(choose: Chooser, world: World, memory: EmulatorDatabase) -> Call:
    """The three clean-ups.

    A limit that would cut through tasks or events of the same time is not given: which of them
    go is then up to Postgres' storage.
    """
    name = queue(choose)
    ttl = rarely(choose, lambda: choose.pick((0, 1, 60)), (None, -1, 2**31 - 1))
    limit: Any = rarely(choose, lambda: choose.pick((1000, 1, 2)), (None, -1, 0))
    which = choose.pick(("cleanup_tasks", "cleanup_events", "cleanup_all_queues"))
    if which == "cleanup_all_queues":
        return Call(session(choose), "select * from absurd.cleanup_all_queues(%s)", (name,))
    who = session(choose)
    if isinstance(limit, int) and 0 < limit < 1000 and _cuts_a_tie(memory, who, which, name, limit):
        limit = 1000
    return Call(who, f"select absurd.{which}(%s, %s, %s)", (name, ttl, limit))


def _cuts_a_tie(memory: EmulatorDatabase, who: int, which: str, name: Any, limit: int) -> bool:
    """Whether the first `limit` in order of time are not one certain set."""
    if name not in QUEUES or memory.connections[who].info.transaction_status.name == "INERROR":
        return True
    from psycopg import sql  # noqa: PLC0415

    ended = "coalesce(case t.state when 'completed' then r.completed_at when 'failed' then r.failed_at when 'cancelled' then t.cancelled_at end)"
    text = (
        f"select ({ended})::text from absurd.{{}} t left join absurd.{{}} r on r.run_id = t.last_attempt_run where ({ended}) is not null order by ({ended})"
        if which == "cleanup_tasks"
        else "select emitted_at::text from absurd.{} order by emitted_at"
    )
    letters = "tr" if which == "cleanup_tasks" else "e"
    names = [sql.Identifier(f"{letter}_{name}") for letter in letters]
    try:
        rows = memory.observer.execute(sql.SQL(text).format(*names)).fetchall()  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 - any doubt is a tie
        return True
    return len(rows) > limit and rows[limit - 1] == rows[limit]


def direct(choose: Chooser, world: World) -> Call:
    """Statements on the tables: what operators send, and states that only they can make."""
    s = session(choose)
    name = choose.pick(("plain", "parted"))
    which, who = task(choose, world), run(choose, world)
    if not isinstance(which, Ref) or not isinstance(who, Ref):
        which, who = Ref(0), Ref(1)
    bad = json.dumps(choose.pick(BAD_STRATEGIES))
    return choose.pick(
        (
            Call(s, f"update absurd.t_{name} set retry_strategy = %s where task_id = %s", (bad, which)),
            Call(s, f"update absurd.c_{name} set status = 'pending' where task_id = %s returning checkpoint_name", (which,), ties=-1),
            Call(s, f"update absurd.t_{name} set max_attempts = attempts + 1 where task_id = %s returning attempts", (which,)),
            Call(s, f"delete from absurd.t_{name} where task_id = %s", (which,)),
            Call(s, f"delete from absurd.r_{name} where run_id = %s and state <> 'running'", (who,)),
            Call(s, f"update absurd.r_{name} set state = 'pending', available_at = available_at + interval '1 hour' where run_id = %s and state = 'sleeping'", (who,)),
            Call(s, f"update absurd.t_{name} set state = 'odd' where task_id = %s", (which,)),
            Call(s, f"update absurd.r_{name} set event_payload = '1.0' where run_id = %s", (who,)),
            Call(s, f"select state, count(*) from absurd.t_{name} group by state order by state"),
            Call(s, f"select t.task_name, r.state, r.attempt from absurd.t_{name} t join absurd.r_{name} r on r.task_id = t.task_id order by t.task_id, r.attempt"),
            Call(s, f"select run_id from absurd.r_{name} where run_id = %s for update skip locked", (who,)),
            Call(s, f"select run_id from absurd.r_{name} where run_id = %s for update nowait", (who,)),
            Call(s, f"select task_id from absurd.t_{name} where task_id = %s for share", (which,)),
        )
    )  # fmt: skip


Operation = Callable[[Chooser, World], Call]
WEIGHTS: dict[Operation, int] = {
    spawn: 14, claim: 18, complete: 6, fail: 8, schedule: 4, retry: 5, cancel: 2, result: 3,
    extend: 2, checkpoint: 7, read_checkpoint: 3, read_checkpoints: 3, await_event: 14, emit: 7,
    create_queue: 2, drop_queue: 1, policy: 5, partitions: 4, helpers: 5, advance: 8, settings: 3,
    transaction: 6, direct: 6,
}  # fmt: skip
"""How often each is chosen by the plain random driver; ``cleanup`` beside them 3."""
assert SESSIONS == 3
