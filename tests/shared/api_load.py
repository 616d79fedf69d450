"""Many clients at once: no spawn is lost, none is done twice.

`python -m api_load CLIENTS SECONDS` in `tests/shared`, on Postgres. Each client spawns with keys of
its own and with keys that all share, repeats some of them, and lists meanwhile.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from api_search import served_site
from api_sites import AUTHORISED
from served_api import QUEUE

from absurd_contimg.backends.postgres import EmbeddedPostgres, PostgresBackend
from absurd_contimg.backends.postgres.schema import install_schema

TASKS = f"/v1/queues/{QUEUE}/tasks"


@dataclass
class Load:
    """What the clients have seen."""

    ids_by_key: dict[str, set[str]] = field(default_factory=dict)
    created: Counter[str] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)
    read_seconds: list[float] = field(default_factory=list)

    def p95_ms(self) -> float:
        """Of the reads, on this machine under this load."""
        ordered = sorted(self.read_seconds) or [0.0]
        return 1000 * ordered[int(0.95 * (len(ordered) - 1))]


async def run_load(url: str, clients: int, seconds: float) -> Load:
    """Let so many clients work for so long."""
    load, end = Load(), time.monotonic() + seconds
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(
        base_url=url, headers=AUTHORISED, limits=limits, timeout=60
    ) as http:

        async def spawn(key: str) -> None:
            body = {"task_name": "pipeline", "params": {"group_id": key}}
            answer = await http.post(TASKS, json=body, headers={"Idempotency-Key": key})
            if answer.status_code != 200:
                load.refused[answer.status_code] += 1
                return
            load.ids_by_key.setdefault(key, set()).add(answer.json()["task_id"])
            load.created[key] += answer.json()["created"]

        async def work(number: int) -> None:
            turn = 0
            while time.monotonic() < end:
                turn += 1
                await spawn(f"client-{number}-{turn}")
                await spawn(f"client-{number}-{turn}")
                await spawn(f"shared-{turn}")
                began = time.monotonic()
                await http.get(TASKS, params={"limit": 10})
                load.read_seconds.append(time.monotonic() - began)

        await asyncio.gather(*(work(number) for number in range(clients)))
    return load


async def check_load(load: Load, database_url: str) -> None:
    """Each key has one task, made once, and the database has exactly these."""
    assert load.ids_by_key, load.refused
    assert all(len(ids) == 1 for ids in load.ids_by_key.values())
    assert all(load.created[key] == 1 for key in load.ids_by_key), load.created.most_common(3)
    async with PostgresBackend(database_url) as backend:
        tasks = await backend.list_tasks(QUEUE, limit=10_000_000)
    keys = Counter(task.idempotency_key for task in tasks)
    assert keys.keys() == load.ids_by_key.keys()
    assert set(keys.values()) == {1}


def main(clients: int, seconds: float) -> None:
    """On a Postgres of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="al-") as folder,
        EmbeddedPostgres(Path(folder) / "pg", durable=False) as server,
    ):
        url = server.create_database("load")
        install_schema(url)
        (Path(folder) / "site").mkdir()
        with served_site(Path(folder) / "site", url) as address:
            load = asyncio.run(run_load(address, clients, seconds))
        asyncio.run(check_load(load, url))
        print(
            f"{clients} clients, {seconds:g} s: {len(load.ids_by_key)} tasks spawned, none lost, "
            f"none twice; refused {dict(load.refused)}; p95 of a list {load.p95_ms():.0f} ms"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
