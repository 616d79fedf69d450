"""Calls that many runs make at once are one statement, and each ends as if it were alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from freezing_proxy import FreezingProxy

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.errors import (
    BackendError,
    BackendUnavailable,
    TaskCancelled,
    ValueRefused,
)
from absurd_contimg.core.records import ClaimedTask

QUEUE = "q"
RUNS = 30
SOON = 5.0


@pytest.fixture
async def backend(database_url: str) -> AsyncIterator[PostgresBackend]:
    async with PostgresBackend(database_url) as backend:
        await backend.create_queue(QUEUE)
        yield backend


async def claimed_runs(backend: PostgresBackend) -> list[ClaimedTask]:
    for number in range(RUNS):
        await backend.spawn_task(QUEUE, "task", {"number": number})
    return await backend.claim_task(QUEUE, "w", 60, RUNS)


async def save(backend: PostgresBackend, run: ClaimedTask, state: Any = 1, name: str = "s") -> None:
    await backend.set_task_checkpoint_state(QUEUE, run.task_id, name, state, run.run_id, 60)


async def outcomes(*calls: Any) -> list[Any]:
    async with asyncio.timeout(2 * SOON):
        return await asyncio.gather(*calls, return_exceptions=True)


async def states(backend: PostgresBackend, runs: list[ClaimedTask], name: str = "s") -> list[Any]:
    rows = await asyncio.gather(
        *(backend.get_task_checkpoint_states(QUEUE, run.task_id, run.run_id) for run in runs)
    )
    return [next((c.state for c in each if c.checkpoint_name == name), None) for each in rows]


def transactions(url: str) -> int:
    """So many that changed anything."""
    with psycopg.connect(url, autocommit=True) as connection:
        ((number,),) = connection.execute("select pg_current_xact_id()::text::bigint").fetchall()
        return int(number)


async def test_many_runs_share_a_transaction(backend: PostgresBackend, database_url: str) -> None:
    runs = await claimed_runs(backend)
    before = transactions(database_url)
    await asyncio.gather(*(save(backend, run, number) for number, run in enumerate(runs)))
    assert await states(backend, runs) == list(range(RUNS))
    await asyncio.gather(
        *(backend.complete_run(QUEUE, run.run_id, number) for number, run in enumerate(runs))
    )
    assert transactions(database_url) - before < RUNS / 2
    for number, run in enumerate(runs):
        result = await backend.get_task_result(QUEUE, run.task_id)
        assert result is not None
        assert (result.state, result.result) == ("completed", number)


async def test_a_refused_call_is_refused_alone(backend: PostgresBackend) -> None:
    runs = await claimed_runs(backend)
    await backend.cancel_task(QUEUE, runs[7].task_id)
    ended = await outcomes(
        *(save(backend, run, "\0" if n == 9 else n) for n, run in enumerate(runs)),
        save(backend, runs[0], 1, " "),
    )
    kinds = {number: type(end) for number, end in enumerate(ended) if end is not None}
    assert kinds == {7: TaskCancelled, 9: ValueRefused, RUNS: BackendError}
    expected = [None if number in (7, 9) else number for number in range(RUNS)]
    assert await states(backend, runs) == expected


async def test_a_locked_row_delays_its_own_run(backend: PostgresBackend, database_url: str) -> None:
    runs = await claimed_runs(backend)
    with psycopg.connect(database_url) as other:
        locked = "select from absurd.r_q where run_id = %s for update"
        other.execute(locked, (runs[3].run_id,))
        calls = [asyncio.create_task(save(backend, run)) for run in runs]
        done, waiting = await asyncio.wait(calls, timeout=SOON / 2)
        assert waiting == {calls[3]}
        assert all(call.exception() is None for call in done)
        calls[3].cancel()
        await asyncio.wait(waiting, timeout=SOON)
    assert (await states(backend, runs)).count(1) >= RUNS - 1


async def test_a_call_without_an_answer_delays_no_other(database_url: str, tmp_path: Path) -> None:
    with FreezingProxy(database_url, tmp_path / "proxy") as proxy:
        async with PostgresBackend(proxy.url) as backend:
            await backend.create_queue(QUEUE)
            runs = await claimed_runs(backend)
            await backend.current_time()
            proxy.silence()  # the next call trusts the connection that was used just now
            first = asyncio.create_task(save(backend, runs[0]))
            await asyncio.sleep(0.01)
            began = time.monotonic()
            assert await outcomes(*(save(backend, run) for run in runs[1:])) == [None] * (RUNS - 1)
            assert time.monotonic() - began < SOON
            assert not first.done()
            first.cancel()
            await asyncio.wait({first}, timeout=SOON)


async def test_callers_that_have_left(backend: PostgresBackend, database_url: str) -> None:
    """The others have their answer; a statement that nobody waits for is ended."""
    runs = await claimed_runs(backend)
    with psycopg.connect(database_url) as other:
        other.execute("lock table absurd.c_q")
        first = asyncio.create_task(save(backend, runs[0]))
        await asyncio.sleep(0)
        calls = [asyncio.create_task(save(backend, run)) for run in runs[1:]]
        await asyncio.sleep(0.01)
        for call in (first, *calls[:20]):
            call.cancel()
        await asyncio.wait(calls[:20], timeout=SOON)
        assert all(call.cancelled() for call in calls[:20])
    assert await outcomes(*calls[20:]) == [None] * (RUNS - 21)
    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute("begin; lock table absurd.c_q")
        calls = [asyncio.create_task(save(backend, run, 2)) for run in runs]
        await asyncio.sleep(0.01)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls, timeout=SOON)
        left = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
        async with asyncio.timeout(SOON):
            while other.execute(left).fetchone() != (0,):
                await asyncio.sleep(0.05)


async def test_a_database_that_is_away_is_away_for_all(database_url: str) -> None:
    async with PostgresBackend(database_url, connect_seconds=0.1) as backend:
        await backend.create_queue(QUEUE)
        runs = await claimed_runs(backend)
        await backend.close()
        ended = await outcomes(*(save(backend, run) for run in runs))
        assert {type(end) for end in ended} == {BackendUnavailable}
