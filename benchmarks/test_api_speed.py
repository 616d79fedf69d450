"""How long the API takes to answer reads with 100,000 tasks in the queue.

    pytest benchmarks/test_api_speed.py -s

Each read by one client on a real socket, beside a plain count of the same tasks in Postgres: on a
machine that other programs load too, the ratio says more than the milliseconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import psycopg
import pytest
from api_search import served_site

from absurd_contimg.backends.postgres import EmbeddedPostgres, PostgresBackend
from absurd_contimg.backends.postgres.schema import install_schema

QUEUE = "dsa110-pipeline"
TASKS = 100_000
READS = 60
LIMIT_MS = 100.0

_INSERT = f"""
with made as (
  insert into absurd."t_{QUEUE}"
    (task_id, task_name, params, headers, enqueue_at, state, attempts, last_attempt_run)
  select absurd.portable_uuidv7(), 'pipeline', jsonb_build_object('group_id', 'G' || n), null,
    now() - ({TASKS} - n) * interval '300 s',
    case when n > {TASKS} - 5000 then 'pending' when n % 50 = 1 then 'failed' else 'completed' end,
    1, absurd.portable_uuidv7()
  from generate_series(1, {TASKS}) n returning task_id, last_attempt_run, state, enqueue_at)
insert into absurd."r_{QUEUE}"
  (run_id, task_id, attempt, state, available_at, created_at, started_at, completed_at, failed_at,
   result, failure_reason)
select last_attempt_run, task_id, 1, state, enqueue_at, enqueue_at, enqueue_at,
  case when state = 'completed' then enqueue_at + interval '200 s' end,
  case when state = 'failed' then enqueue_at + interval '100 s' end,
  case when state = 'completed' then jsonb_build_object('products', repeat('x', 500)) end,
  case when state = 'failed' then
    jsonb_build_object('name', 'OSError', 'kind', 'resource', 'message', repeat('x', 500)) end
from made
"""


@pytest.fixture(scope="module")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A queue with many tasks, as a year of groups would leave it, 5,000 of them waiting."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("pg"), durable=False)
    server.start()
    url = server.create_database("speed")
    install_schema(url)
    asyncio.run(_make_queue(url))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_INSERT)
        connection.execute("vacuum analyze")
    yield url
    server.stop()


async def _make_queue(url: str) -> None:
    async with PostgresBackend(url) as backend:
        await backend.create_queue(QUEUE)


def test_reads_take_less_than_a_tenth_of_a_second(database_url: str, tmp_path: Path) -> None:
    """p95 of each read, beside that of a plain count of the same tasks on the same machine."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        count = f'select state, count(*) from absurd."t_{QUEUE}" group by 1'
        plain = p95_ms([seconds(lambda: connection.execute(count).fetchall()) for _ in range(20)])
    with served_site(tmp_path, database_url) as url, httpx.Client(base_url=url) as http:
        tasks = f"/v1/queues/{QUEUE}/tasks"
        first = http.get(tasks).json()
        task = first["items"][0]["task_id"]
        paths = (
            tasks,
            f"{tasks}?state=failed",
            f"{tasks}?group=G77",
            f"{tasks}?cursor={first['next_cursor']}",
            f"{tasks}/{task}",
            f"{tasks}/{task}/history",
            f"{tasks}/{task}/wait",
            "/v1/queues",
            "/v1/overview",
            "/health/ready",
        )
        slow = []
        for path in paths:
            durations = [seconds(partial(read, http, path)) for _ in range(READS)]
            figure, longest = p95_ms(durations), 1000 * max(durations)
            name = path.replace(task, "ID").partition("?cursor")[0]
            print(
                f"{name}: p95 {figure:.0f} ms, {figure / plain:.1f} times a plain count; "
                f"the longest {longest:.0f} ms"
            )
            if figure > max(LIMIT_MS, 2 * plain):
                slow.append((name, figure))
    assert not slow


def read(http: httpx.Client, path: str) -> None:
    """Ask, and expect an answer."""
    http.get(path).raise_for_status()


def seconds(ask: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    ask()
    return time.perf_counter() - began


def p95_ms(durations: list[float]) -> float:
    """The 95th percentile."""
    return 1000 * sorted(durations)[int(0.95 * (len(durations) - 1))]
