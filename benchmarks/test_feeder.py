"""A backlog of 10,000 groups in a batch: bounded queue, cheap claims, live groups first."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

import pytest

from absurd_contimg.backends.postgres import EmbeddedPostgres, PostgresBackend
from absurd_contimg.backends.postgres.schema import install_schema
from absurd_contimg.core.records import SpawnOptions
from absurd_contimg.ingest.batches import feed, reprocessing_queue
from absurd_contimg.registry.batches import Batch, Batches, BatchState, ItemState
from absurd_contimg.registry.database import Database

LIVE = "dsa110-pipeline"
BACKLOG = reprocessing_queue(LIVE)
GROUPS = 10_000
AHEAD = 20
PROCESSED = 1_000
"""Of the backlog; what follows costs the same."""


@pytest.fixture
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database on a server that does not wait for its disk: processor time counts here."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("pg"), durable=False) as server:
        database_url = server.create_database("benchmark")
        install_schema(database_url)
        yield database_url


@pytest.mark.timeout(900)
async def test_backlog_of_ten_thousand_groups(url: str) -> None:  # noqa: PLR0915
    """A claim under 10 ms, the queue never above its bound, and a live group claimed at once.

    Beside it what a claim costs with the whole backlog in the queue.
    """
    batches = Batches(Database(url))
    parameters = {"task": "pipeline", "ahead": AHEAD, "cap": 200}
    batch = Batch("backlog", "reprocess", BatchState.ACTIVE, BACKLOG, parameters, "2026-01-01")
    items = [(f"G{n}", {"group_id": f"G{n}", "input_files": ["a"] * 16}) for n in range(GROUPS)]
    began = time.perf_counter()
    batches.create(batch, items)
    print(f"\nbatch of {GROUPS} entered in {time.perf_counter() - began:.1f} s")
    claims, feeds, live_claims = [], [], []
    async with PostgresBackend(url) as backend:
        await backend.create_queue(LIVE)
        began = time.perf_counter()
        polls = 0
        while batches.counts("backlog")[ItemState.COMPLETED] < PROCESSED:
            start = time.perf_counter()
            await feed(batches, backend)
            feeds.append(time.perf_counter() - start)
            stats = await backend.queue_stats(BACKLOG)
            assert stats.tasks_by_state.get("pending", 0) <= AHEAD
            if polls % 2 == 0:
                live = await backend.spawn_task(LIVE, "pipeline", {"group_id": f"live {polls}"})
                start = time.perf_counter()
                (claimed,) = await backend.claim_task(LIVE, "live worker", 60, 1)
                live_claims.append(time.perf_counter() - start)
                assert claimed.task_id == live.task_id
                await backend.complete_run(LIVE, claimed.run_id, {})
            for _ in range(4):
                start = time.perf_counter()
                tasks = await backend.claim_task(BACKLOG, "worker", 60, 5)
                claims.append(time.perf_counter() - start)
                for task in tasks:
                    await backend.complete_run(BACKLOG, task.run_id, {})
            polls += 1
        seconds = time.perf_counter() - began
        print(f"{PROCESSED} groups through the feeder in {seconds:.0f} s, {polls} polls")
        began = time.perf_counter()
        batches.change("backlog", BatchState.CANCELLED)
        await feed(batches, backend)
        print(f"the other {GROUPS - PROCESSED} cancelled in {time.perf_counter() - began:.1f} s")
        counts = batches.counts("backlog")
        assert counts[ItemState.CANCELLED] + counts[ItemState.COMPLETED] == GROUPS
        whole = "with the whole backlog in the queue"
        await backend.create_queue("whole")
        for number in range(GROUPS):
            options = SpawnOptions(idempotency_key=f"G{number}")
            await backend.spawn_task("whole", "pipeline", {"group_id": number}, options)
        at_once = []
        for _ in range(20):
            start = time.perf_counter()
            await backend.claim_task("whole", "worker", 60, 5)
            at_once.append(time.perf_counter() - start)
    for name, values in (
        ("feed", feeds), ("claim", claims), ("live claim", live_claims), (whole, at_once),
    ):  # fmt: skip
        worst = sorted(values)[int(len(values) * 0.99)]
        print(f"{name}: median {median(values) * 1e3:.1f} ms, 99 % {worst * 1e3:.1f} ms")
    assert median(claims) < 0.010
    assert median(live_claims) < 0.010
    assert median(claims) < median(at_once)
