# ruff: noqa: E501 - a statement is one line
"""`MemoryDatabase` as a test double: seed, clock, fork, snapshot, timeline; and its backend."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from uuid import UUID

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase, jsonb
from absurd_contimg.backends.memory.records import dumped
from absurd_contimg.backends.memory.values import times
from absurd_contimg.backends.memory.values.times import timestamptz_in, timestamptz_out
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.errors import (
    BackendError,
    InvalidRetryStrategy,
    QueueNotFound,
    RunAlreadyFailed,
    TaskCancelled,
    ValueRefused,
)
from absurd_contimg.core.records import INFINITY, SpawnOptions
from absurd_contimg.core.row_values import json_text

START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def backend(clock: Clock) -> MemoryBackend:
    backend = MemoryBackend(MemoryDatabase(seed=1, clock=clock))
    await backend.create_queue("q")
    return backend


def test_it_is_a_backend() -> None:
    """The type checker holds it to the protocol; this holds the names."""
    backend: Backend = MemoryBackend(MemoryDatabase())
    names = {name for name in Backend.__dict__ if not name.startswith("_")}
    assert all(callable(getattr(backend, name)) for name in names)


async def test_the_same_seed_and_clock_give_the_same_database(clock: Clock) -> None:
    """Ids and times are a function of seed and clock; another seed gives other ids."""

    async def ids(seed: int) -> list[UUID]:
        backend = MemoryBackend(MemoryDatabase(seed=seed, clock=clock))
        await backend.create_queue("q")
        return [(await backend.spawn_task("q", "t", {})).task_id for _ in range(3)]

    first = await ids(1)
    assert first == await ids(1)
    assert first != await ids(2)
    assert first == sorted(first)
    assert all(task_id.version == 7 for task_id in first)


async def test_time_is_the_clocks(backend: MemoryBackend, clock: Clock) -> None:
    """Leases, sleeping and backoff follow the clock that was given, and nothing else."""
    assert await backend.current_time() == START
    strategy = {"kind": "fixed", "base_seconds": 10}
    await backend.spawn_task("q", "t", {}, SpawnOptions(retry_strategy=strategy))
    (first,) = await backend.claim_task("q", "w", 30)
    clock.now += timedelta(seconds=30)
    assert await backend.claim_task("q", "w", 30) == [], "swept, and due only in ten seconds"
    clock.now += timedelta(seconds=10)
    (second,) = await backend.claim_task("q", "w", 30)
    assert (first.attempt, second.attempt) == (1, 2)
    history = await backend.history("q", first.task_id)
    assert history is not None
    assert history.runs[0].failure_reason["name"] == "$ClaimTimeout"  # type: ignore[index,call-overload]
    await backend.await_event("q", first.task_id, second.run_id, "wait", "never")
    (_, waiting) = await backend.list_runs("q")
    assert waiting.available_at == INFINITY


async def test_a_fork_is_independent_and_goes_on_alike(backend: MemoryBackend) -> None:
    """What happens in a fork stays there; both go on with the same ids."""
    await backend.spawn_task("q", "t", {"n": 1})
    fork = MemoryBackend(backend.db.fork())
    (ours,) = await backend.claim_task("q", "w")
    stats = await fork.queue_stats("q")
    assert (stats.claimable, stats.tasks_by_state) == (1, {"pending": 1})
    (theirs,) = await fork.claim_task("q", "other")
    assert ours.run_id == theirs.run_id
    spawned = [(await each.spawn_task("q", "t", {})).task_id for each in (backend, fork)]
    assert spawned[0] == spawned[1]
    await fork.await_event("q", theirs.task_id, theirs.run_id, "s", "e")
    await fork.emit_event("q", "e", 1)
    assert (await backend.list_runs("q", states=["running"]))[0].claimed_by == "w"


async def test_a_fork_takes_only_what_is_committed(backend: MemoryBackend) -> None:
    """Open transactions stay behind."""
    connection = backend.db.connect()
    connection.execute("select absurd.spawn_task('q', 't', '{}')")
    fork = MemoryBackend(backend.db.fork())
    assert (await fork.queue_stats("q")).tasks_by_state == {}
    connection.commit()
    assert (await backend.queue_stats("q")).tasks_by_state == {"pending": 1}
    assert (await fork.queue_stats("q")).tasks_by_state == {}


async def test_snapshots_can_be_restored_again_and_again(backend: MemoryBackend) -> None:
    """Back to the same past, twice; an open transaction is in the way."""
    await backend.spawn_task("q", "t", {})
    snapshot = backend.db.snapshot()
    ids = set()
    for _ in range(2):
        (claimed,) = await backend.claim_task("q", "w")
        await backend.complete_run("q", claimed.run_id, "done")
        ids.add((await backend.spawn_task("q", "t", {})).task_id)
        backend.db.restore(snapshot)
        assert (await backend.queue_stats("q")).claimable == 1
    assert len(ids) == 1
    connection = backend.db.connect()
    connection.execute("select * from absurd.t_q")
    with pytest.raises(RuntimeError, match="transaction is open"):
        backend.db.restore(snapshot)


async def test_the_timeline_can_be_read(backend: MemoryBackend) -> None:
    """One line an operation: time, session, procedure, arguments, answer or error."""
    spawned = await backend.spawn_task("q", "image", {"a": 1})
    with pytest.raises(QueueNotFound):
        await backend.claim_task("nowhere", "w")
    lines = backend.db.timeline_text().splitlines()
    assert lines[-2].startswith("2026-01-01T00:00:00.000+00:00  s1  spawn_task('q', 'image'")
    task, run = (str(each)[-8:] for each in (spawned.task_id, spawned.run_id))
    assert lines[-2].endswith(f"-> ({task}, {run}, 1, True)")
    assert lines[-1].endswith('-> 42P01 relation "absurd.t_nowhere" does not exist')


def test_a_call_that_gave_up_waiting_is_no_line() -> None:
    """It is undone and run again as often as needed; one that gave up waiting did nothing."""
    db = MemoryDatabase(seed=1)
    with db.connect() as first, db.connect(autocommit=True) as second:
        second.execute("select absurd.create_queue('q')")
        second.execute("select absurd.spawn_task('q', 'image', 'null')")
        first.execute("select * from absurd.claim_task('q', 'w')")
        second.execute("set lock_timeout = '1ms'")
        task = second.execute("select task_id from absurd.t_q").fetchone()
        with pytest.raises(psycopg.errors.LockNotAvailable):
            second.execute("select absurd.cancel_task('q', %s)", task)
        first.rollback()
        second.execute("select absurd.cancel_task('q', %s)", task)
    lines = [line for line in db.timeline_text().splitlines() if "cancel_task" in line]
    assert len(lines) == 1


def test_a_clock_without_a_zone_is_named() -> None:
    """The error says what is wrong with what was given."""
    db = MemoryDatabase(clock=lambda: datetime(2026, 1, 1))  # noqa: DTZ001 - the mistake
    with pytest.raises(TypeError, match="aware datetimes"):
        db.connect(autocommit=True).execute("select absurd.current_time()")


async def test_errors_are_cores(backend: MemoryBackend) -> None:
    """AB001, AB002 and AB003, a missing queue, and everything else."""
    with pytest.raises(InvalidRetryStrategy):
        await backend.spawn_task("q", "t", {}, SpawnOptions(retry_strategy={"kind": "odd"}))
    with pytest.raises(BackendError) as caught:
        await backend.spawn_task("q", "t", {"a": "\0"})
    assert caught.value.sqlstate == "22P05"
    with pytest.raises(BackendError) as caught:
        await backend.spawn_task("q", "t", float("nan"))
    assert caught.value.sqlstate == "22P02"
    await backend.spawn_task("q", "t", {}, SpawnOptions(max_attempts=1))
    (claimed,) = await backend.claim_task("q", "w")
    await backend.fail_run("q", claimed.run_id, {})
    with pytest.raises(RunAlreadyFailed):
        await backend.complete_run("q", claimed.run_id)
    await backend.spawn_task("q", "t", {})
    (claimed,) = await backend.claim_task("q", "w")
    await backend.cancel_task("q", claimed.task_id)
    with pytest.raises(TaskCancelled):
        await backend.extend_claim("q", claimed.run_id, 5)


async def test_a_permanent_failure_leaves_no_attempts(backend: MemoryBackend) -> None:
    """The task fails at once, however many attempts were left, and can be retried by hand."""
    await backend.spawn_task("q", "t", {}, SpawnOptions(max_attempts=5))
    (claimed,) = await backend.claim_task("q", "w")
    await backend.fail_run_permanently("q", claimed.run_id, {"name": "Corrupt"})
    result = await backend.get_task_result("q", claimed.task_id)
    assert result is not None
    assert (result.state, result.failure_reason) == ("failed", {"name": "Corrupt"})
    assert await backend.claim_task("q", "w") == []
    assert (await backend.retry_task("q", claimed.task_id)).attempt == 2


async def test_two_workers_on_one_backend(backend: MemoryBackend) -> None:
    """Concurrent coroutines never claim the same run."""
    for number in range(30):
        await backend.spawn_task("q", "t", number)
    done: list[UUID] = []

    async def work(name: str) -> None:
        while claimed := await backend.claim_task("q", name, qty=2):
            await asyncio.sleep(0)
            for run in claimed:
                await backend.complete_run("q", run.run_id)
                done.append(run.run_id)

    await asyncio.gather(work("a"), work("b"), work("c"))
    assert len(done) == len(set(done)) == 30


async def test_the_backend_waits_for_a_connections_transaction(backend: MemoryBackend) -> None:
    """A row that a connection has changed and not committed holds the backend up, not the loop."""
    spawned = await backend.spawn_task("q", "t", {})
    connection = backend.db.connect()
    connection.execute("update absurd.t_q set max_attempts = 3")
    cancel = asyncio.ensure_future(backend.cancel_task("q", spawned.task_id))
    await asyncio.sleep(0)
    assert not cancel.done()
    connection.commit()
    await cancel
    history = await backend.history("q", spawned.task_id)
    assert history is not None
    assert (history.task.state, history.task.max_attempts) == ("cancelled", 3)


async def test_answers_are_the_callers_own(backend: MemoryBackend) -> None:
    """Changing what was passed in or handed out changes nothing in the database."""
    params = {"list": [1]}
    spawned = await backend.spawn_task("q", "t", params)
    params["list"].append(2)
    (claimed,) = await backend.claim_task("q", "w")
    claimed.params["list"].append(3)  # type: ignore[index,call-overload,union-attr]
    history = await backend.history("q", spawned.task_id)
    assert history is not None
    assert history.task.params == {"list": [1]}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=4), inner, max_size=4
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(value=JSON)
def test_jsonb_is_postgres_own_text(value: object, shared_postgres: psycopg.Connection) -> None:
    """Any value comes out as the very text that Postgres prints for it."""
    row = shared_postgres.execute(
        "select %s::jsonb::text", (psycopg.types.json.Jsonb(value),)
    ).fetchone()
    assert row is not None
    assert jsonb.dumps(value) == row[0]
    assert jsonb.parse(row[0]) == row[0]


KEYS = st.sampled_from([1, "1", 1.5, "1.5", True, "true", None, "null", "a", "b"])
WITH_KEYS = st.recursive(
    st.integers(0, 1),
    lambda inner: st.tuples(inner, inner) | st.dictionaries(KEYS, inner, max_size=4)
    | st.dictionaries(KEYS, inner, max_size=4).map(MappingProxyType),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(value=WITH_KEYS)
def test_keys_that_json_cannot_tell_apart_are_refused_as_on_postgres(value: object) -> None:
    """By the emulator's encoder where the other backend looks through the value."""

    def answer(encode: Callable[[], str]) -> str | None:
        try:
            encode()
        except ValueRefused as error:
            return str(error)
        return None

    theirs = answer(lambda: json_text(value, lambda given: json.dumps(given, default=dict)))
    assert (answer(lambda: dumped(value)) is None) == (theirs is None), theirs


@settings(max_examples=150, deadline=None)
@given(
    time=st.integers(
        -62_135_596_800_000_000 + times.DAY_US, 253_402_300_799_999_999 - times.DAY_US
    ),
    zone=st.sampled_from(["UTC", "Europe/Vienna", "America/New_York", "Asia/Kolkata"]),
)
def test_times_are_postgres_own_text(
    time: int, zone: str, shared_postgres: psycopg.Connection
) -> None:
    """Any time of the years 1 to 9999 is printed as Postgres prints it, and read back."""
    from zoneinfo import ZoneInfo  # noqa: PLC0415

    tz = ZoneInfo(zone)
    text = timestamptz_out(time, tz)
    assert timestamptz_in(text, tz, 0) == time
    if -62_135_596_800_000_000 < time < 2_145_916_800_000_000:
        # Before and after, Python's and Postgres' time zone data take different rules.
        row = shared_postgres.execute(
            "select set_config('timezone', %s, false), (timestamptz 'epoch' + %s * interval '1 us')::text",
            (zone, time),
        ).fetchone()
        assert row is not None
        if time > 0:
            assert text == row[1]


@pytest.fixture(scope="module")
def shared_postgres(new_database):  # type: ignore[no-untyped-def]
    with psycopg.connect(new_database(), autocommit=True) as connection:
        yield connection
