"""Queues in partitions, which another client has made: they are used as they are."""

from __future__ import annotations

import psycopg

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.backend import Backend
from absurd_contimg.execution.stage import stage_queues
from absurd_contimg.operations.services import initialise
from absurd_contimg.operations.services.database import make_queue


async def test_initialising_keeps_how_a_queue_is_stored(database_url: str) -> None:
    """It was refused, and the queues of the stages were not made."""
    stages = sorted(stage_queues("q").values())
    with psycopg.connect(database_url, autocommit=True) as client:
        for queue in ("q", stages[0]):
            client.execute("select absurd.create_queue(%s, 'partitioned')", (queue,))
    message = await initialise(database_url, "q")
    assert "Queue 'q' exists." in message
    assert message.endswith(f"pipeline: {', '.join(stages[1:])}.")
    async with PostgresBackend(database_url) as backend:
        modes = {queue: await storage_mode(backend, queue) for queue in ("q", *stages)}
        await backend.spawn_task("q", "t", {})
    expected = dict.fromkeys(stages, "unpartitioned") | {"q": "partitioned"}
    assert modes == {**expected, stages[0]: "partitioned"}


async def test_a_queue_is_made_once(backend: Backend) -> None:
    await make_queue(backend, "new")
    assert await storage_mode(backend, "new") == "unpartitioned"
    await backend.create_queue("other", "partitioned")
    await make_queue(backend, "other")
    assert await storage_mode(backend, "other") == "partitioned"


async def storage_mode(backend: Backend, queue: str) -> str | None:
    policy = await backend.get_queue_policy(queue)
    return policy and policy.storage_mode
