"""A commit that waits for a standby which never answers: the change may be made all the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest

from absurd_contimg.backends.postgres import EmbeddedPostgres, PostgresBackend, connections
from absurd_contimg.backends.postgres.schema import install_schema
from absurd_contimg.core.errors import BackendUnavailable

QUEUE = "q"
MAY_BE_MADE = "The change may be made all the same"


@pytest.fixture
def server_url() -> Iterator[str]:
    with (
        TemporaryDirectory() as folder,  # short, for the path of a socket
        EmbeddedPostgres(Path(folder) / "postgres") as server,
    ):
        url = server.create_database("site")
        install_schema(url)
        yield url


async def test_a_change_without_an_answer_is_said_to_be_possible(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with PostgresBackend(server_url) as backend:
        await backend.create_queue(QUEUE)
        task = await backend.spawn_task(QUEUE, "t", {})
        with psycopg.connect(server_url, autocommit=True) as superuser:
            superuser.execute("alter system set synchronous_standby_names = 'ghost'")
            superuser.execute("select pg_reload_conf()")
            monkeypatch.setattr(connections, "_CALL_SECONDS", 1.0)
            with suppress(BackendUnavailable):  # the server's checkpointer reads it a moment later
                while True:
                    await backend.spawn_task(QUEUE, "t", {})
            with pytest.raises(BackendUnavailable, match="contimg status") as refusal:
                await backend.cancel_task(QUEUE, task.task_id)
            assert MAY_BE_MADE in str(refusal.value)
            superuser.execute("alter system reset synchronous_standby_names")
            superuser.execute("select pg_reload_conf()")
        monkeypatch.undo()
        history = await backend.history(QUEUE, task.task_id)
        assert history is not None
        assert history.task.state == "cancelled"


async def test_a_question_without_an_answer_changes_nothing(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with PostgresBackend(database_url) as backend:
        await backend.create_queue(QUEUE)
        task = await backend.spawn_task(QUEUE, "t", {})
        monkeypatch.setattr(connections, "_CALL_SECONDS", 0.5)
        with psycopg.connect(database_url) as locker:
            locker.execute(f"lock table absurd.t_{QUEUE} in access exclusive mode")
            with pytest.raises(BackendUnavailable, match="did not answer") as refusal:
                await backend.get_task_result(QUEUE, task.task_id)
    assert MAY_BE_MADE not in str(refusal.value)
