"""Questions about many tasks: both backends answer what the definition over histories does."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from unreadable_rows import connected, spawn_unchecked

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase, task_reads
from absurd_contimg.backends.memory import backend as memory_backend
from absurd_contimg.core.backend import Backend, Inspection
from absurd_contimg.core.errors import ValueRefused
from absurd_contimg.core.records import SpawnOptions
from absurd_contimg.core.task_queries import TaskFilter
from absurd_contimg.history.queue_health import find_problems

QUEUE = "dsa110-pipeline"
REASONS: list[Any] = [
    {"name": "OSError", "kind": "transient", "rule": "busy", "message": "x"},
    {"name": "OSError", "kind": 5, "rule": None},
    {"name": "$ClaimTimeout"},
    "just text",
    None,
    [1, 2],
]


async def mixture(backend: Backend, count: int = 60, seed: int = 1) -> None:
    """Tasks in every state, some by a foreign client."""
    choose = random.Random(seed)
    for number in range(count):
        rules: Any = {"max_delay": "soon"} if number == count - 1 else {"max_duration": "60"}
        options = SpawnOptions(
            max_attempts=choose.choice([None, 1, 2]),
            cancellation=rules if number % 20 == 19 else None,
        )
        name, params = choose.choice(["a", "b"]), {"group_id": f"G{number % 3}"}
        await spawn_unchecked(backend, QUEUE, options, name, params)
        for claimed in await _claimed(backend):
            action = choose.randrange(6)
            if action == 0:
                await backend.complete_run(QUEUE, claimed.run_id, {"n": number})
            elif action == 1:
                await backend.fail_run(QUEUE, claimed.run_id, choose.choice(REASONS))
            elif action == 2:
                await backend.fail_run_permanently(QUEUE, claimed.run_id, choose.choice(REASONS))
            elif action == 3:
                await backend.await_event(QUEUE, claimed.task_id, claimed.run_id, "s", "e")
            elif action == 4:
                await backend.cancel_task(QUEUE, claimed.task_id)


async def _claimed(backend: Backend) -> list[Any]:
    try:
        return await backend.claim_task(QUEUE, "w", 60)
    except ValueRefused:  # a rule that is no number refuses every claim
        return []


async def test_filters_and_counts_are_those_of_the_definition(backend: Backend) -> None:
    """Every condition alone and with another one; pages by key leave nothing out."""
    await mixture(backend)
    now = await backend.current_time()
    everything = await backend.list_tasks(QUEUE, limit=1000)
    middle = everything[len(everything) // 2]
    filters = [
        TaskFilter(),
        TaskFilter(states=["pending", "sleeping"]),
        TaskFilter(task_name="a", states=["completed"]),
        TaskFilter(id_suffix=str(middle.task_id)[-3:]),
        TaskFilter(params={"group_id": "G1"}),
        TaskFilter(task_ids=[task.task_id for task in everything[::3]]),
        TaskFilter(failure="busy"),
        TaskFilter(failure="$ClaimTimeout", states=["failed"]),
        TaskFilter(failure="OSError"),
        TaskFilter(enqueued_from=middle.enqueue_at),
        TaskFilter(enqueued_before=middle.enqueue_at),
        TaskFilter(enqueued_from=now + timedelta(hours=1)),
    ]
    sizes = set()
    for wanted in filters:
        expected = await Inspection.find_tasks(backend, QUEUE, wanted, limit=1000)
        pages, before = [], None
        while page := await backend.find_tasks(QUEUE, wanted, before=before, limit=7):
            pages += page
            before = page[-1].task_id
        assert pages == expected, wanted
        counts = await backend.count_tasks(QUEUE, wanted)
        assert counts == await Inspection.count_tasks(backend, QUEUE, wanted)
        assert sum(counts.values()) == len(expected)
        sizes.add(len(expected))
    assert len(sizes) > 5, "the filters tell tasks apart"


async def test_recent_activity_is_that_of_the_definition(backend: Backend) -> None:
    await mixture(backend)
    now = await backend.current_time()
    for since in (now - timedelta(hours=1), now + timedelta(seconds=1)):
        activity = await backend.recent_activity(QUEUE, since)
        expected = await Inspection.recent_activity(backend, QUEUE, since)
        assert _unordered(activity.failures) == _unordered(expected.failures)
        assert (activity.completed, activity.failed) == (expected.completed, expected.failed)
        assert activity.failed_tasks == expected.failed_tasks
        assert activity.latency_seconds_p50 == pytest.approx(expected.latency_seconds_p50)
        assert activity.latency_seconds_p95 == pytest.approx(expected.latency_seconds_p95)
    all_time = await backend.recent_activity(QUEUE, now - timedelta(hours=1))
    assert all_time.completed
    assert all_time.failed
    assert len(all_time.failures) > 3
    assert len(all_time.failed_tasks) == all_time.failed


def _unordered(failures: Any) -> list[tuple[str, int]]:
    return sorted((repr(sorted(dict(f.reason).items()) if isinstance(f.reason, dict) else f.reason),
                   f.runs) for f in failures)  # fmt: skip


async def test_every_task_with_a_problem_is_a_suspect(backend: Backend) -> None:
    """The few that SQL finds have the problems that all live tasks have."""
    await mixture(backend)
    problems = await find_problems(backend, QUEUE)
    suspects = await backend.suspect_tasks(QUEUE, 1000)

    class EveryTask:
        """All live tasks as suspects."""

        async def suspect_tasks(self, queue: str, limit: int) -> Any:
            return await Inspection.suspect_tasks(backend, queue, limit)

        async def histories(self, queue: str, ids: Any) -> Any:
            return await backend.histories(queue, ids)

        async def current_time(self) -> Any:
            return await backend.current_time()

    everything: Any = EveryTask()
    assert set(map(str, problems)) == set(map(str, await find_problems(everything, QUEUE)))
    assert {problem.task_id for problem in problems} <= set(suspects)
    assert any(problem.blocks_the_queue for problem in problems)
    assert not all(problem.blocks_the_queue for problem in problems)
    assert len(suspects) < len(await Inspection.suspect_tasks(backend, QUEUE))


async def test_the_emulator_makes_records_only_of_what_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A look at a long queue does not copy all that has ended long ago."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    backend = MemoryBackend(MemoryDatabase(clock=lambda: now))
    await backend.create_queue(QUEUE)
    for number in range(30):
        await backend.spawn_task(QUEUE, "task", {"n": number})
        (claimed,) = await backend.claim_task(QUEUE, "worker")
        await backend.complete_run(QUEUE, claimed.run_id)
    now += timedelta(days=2)
    waiting = await backend.spawn_task(QUEUE, "task", {"n": 30}, SpawnOptions(max_attempts=1))
    records = []

    def python_values(row: tuple[Any, ...]) -> list[Any]:
        records.append(row)
        return original(row)

    original = task_reads.python_values
    monkeypatch.setattr(task_reads, "python_values", python_values)
    monkeypatch.setattr(memory_backend, "python_values", python_values)
    activity = await backend.recent_activity(QUEUE, now - timedelta(days=1))
    assert (activity.completed, await find_problems(backend, QUEUE)) == (0, [])
    (newest,) = await backend.find_tasks(QUEUE, TaskFilter(), limit=1)
    assert newest.task_id == waiting.task_id
    assert await backend.count_tasks(QUEUE, TaskFilter()) == {"pending": 1, "completed": 30}
    assert len(records) == 1


async def test_a_run_whose_task_has_ended_counts_as_none(
    backend: Backend, request: pytest.FixtureRequest
) -> None:
    """Another client may leave one; no claim finds it."""
    is_memory = isinstance(backend, MemoryBackend)
    url = "" if is_memory else request.getfixturevalue("database_url")
    assert (await backend.queue_stats(QUEUE)).oldest_claimable_seconds is None
    ended = await backend.spawn_task(QUEUE, "task", {})
    await backend.spawn_task(QUEUE, "task", {})
    assert (await backend.queue_stats(QUEUE)).claimable == 2
    with connected(backend, url) as connection:
        connection.execute(
            f"update absurd.\"t_{QUEUE}\" set state = 'completed' where task_id = '{ended.task_id}'"
        )
    stats = await backend.queue_stats(QUEUE)
    assert stats.claimable == 1
    assert stats.tasks_by_state == {"completed": 1, "pending": 1}
    assert stats.oldest_claimable_seconds is not None
