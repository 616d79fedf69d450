"""What the trigger costs a spawn, and what the index saves a claim from a deep backlog.

    pytest benchmarks/test_claim_speed.py -s

Compared with the same tables without them, on one server in one run. Nothing is asserted.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from absurd_contimg.backends.postgres import EmbeddedPostgres
from absurd_contimg.backends.postgres.schema import install_schema

PENDING = 1_000_000
SPAWNS = {1: 1_000, 8: 6_000}
"""By the number of clients."""
LISTENERS = 5
ROUNDS = 3


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database on a server that waits for its disk; the queue `plain` has only Absurd's own."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("pg"), durable=True) as server:
        address = server.create_database("speed")
        install_schema(address)
        with psycopg.connect(address, autocommit=True) as connection:
            for queue in ("plain", "ours"):
                connection.execute("select absurd.create_queue(%s)", (queue,))
        install_schema(address)
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute("drop trigger contimg_due on absurd.r_plain")
            connection.execute("drop index absurd.r_plain_due")
        yield address


def spawns_a_second(url: str, queue: str, clients: int) -> float:
    """Each in a transaction of its own."""

    def spawn() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            for _ in range(SPAWNS[clients] // clients):
                connection.execute(
                    "select absurd.spawn_task(%s, 'work', '{}'::jsonb, '{}'::jsonb)", (queue,)
                )

    threads = [threading.Thread(target=spawn) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return SPAWNS[clients] / (time.perf_counter() - began)


def test_a_burst_of_spawns(url: str) -> None:
    print()
    for clients in SPAWNS:
        for _ in range(ROUNDS):
            rates = [spawns_a_second(url, queue, clients) for queue in ("plain", "ours")]
            listeners = [psycopg.connect(url, autocommit=True) for _ in range(LISTENERS)]
            for listener in listeners:
                listener.execute("listen r_ours")
            rates.append(spawns_a_second(url, "ours", clients))
            for listener in listeners:
                listener.close()
            without, triggered, heard = rates
            print(
                f"{clients} clients: {without:.0f} spawns a second without the trigger, "
                f"{triggered:.0f} with it, {heard:.0f} with {LISTENERS} listeners"
            )


def test_claims_from_a_deep_backlog(url: str) -> None:
    print()
    with psycopg.connect(url, autocommit=True) as connection:
        for queue, claims in (("plain", 5), ("ours", 200)):
            connection.execute(
                "with made as (select absurd.portable_uuidv7() as run, absurd.portable_uuidv7()"
                " as task, now() - interval '1 hour' + n * interval '1 microsecond' as at"
                f" from generate_series(1, {PENDING}) n), tasks as (insert into absurd.t_{queue}"
                " (task_id, task_name, params, state, enqueue_at, last_attempt_run)"
                " select task, 'work', '{}', 'pending', at, run from made)"
                f" insert into absurd.r_{queue} (run_id, task_id, attempt, state, available_at)"
                " select run, task, 1, 'pending', at from made".encode()
            )
            connection.execute(f"analyze absurd.r_{queue}, absurd.t_{queue}".encode())
            for number in (1, 10):
                seconds = []
                for _ in range(claims):
                    began = time.perf_counter()
                    connection.execute(
                        "select * from absurd.claim_task(%s, 'w', 60, %s)", (queue, number)
                    ).fetchall()
                    seconds.append(time.perf_counter() - began)
                print(
                    f"{PENDING} pending, {queue}, {number} at a time: p50 "
                    f"{statistics.median(seconds) * 1000:.1f} ms, slowest {max(seconds) * 1000:.1f}"
                )
