"""All transaction IDs are given out: the database takes no changes, and no value is wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
from used_up_ids import ids_used_up

from absurd_contimg.backends.postgres import EmbeddedPostgres, PostgresBackend
from absurd_contimg.backends.postgres.database_errors import raise_translated
from absurd_contimg.backends.postgres.schema import check_schema, install_schema
from absurd_contimg.core.errors import BackendError
from absurd_contimg.core.evidence import Evidence
from absurd_contimg.core.failures import FailureKind
from absurd_contimg.core.refusals import Refusal, meaning_of
from absurd_contimg.errors import RegistryAwayError
from absurd_contimg.operations.alerts.look import make_look
from absurd_contimg.operations.overview import Site, read_site
from absurd_contimg.registry import GroupStatus, Registry, database
from absurd_contimg.workflows.failure_rules import CLASSIFIER

REMEDY = r"(?s)takes no changes.*replication slots.*vacuumdb --all --no-truncate"
"""With the server's own hint."""


async def test_it_is_named_wherever_it_is_met(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each read is answered, so doctor, monitor and alerts saw nothing; then all goes on."""
    monkeypatch.setattr(database, "_PATIENCE_SECONDS", 0.0)
    with TemporaryDirectory() as folder:  # short, for the path of a socket
        server = EmbeddedPostgres(Path(folder) / "pg", durable=False)
        with server:
            url = server.create_database("site")
            install_schema(url)
            registry = Registry(url)
            registry.set_group_status("G", GroupStatus.DISCOVERED)
            async with PostgresBackend(url) as backend:
                await backend.create_queue("q")
            with ids_used_up(server):
                with pytest.raises(BackendError, match=REMEDY):
                    check_schema(url)
                with pytest.raises(RegistryAwayError, match=REMEDY) as away:
                    registry.set_group_status("G", GroupStatus.FAILED, "text")
                verdict = CLASSIFIER.classify(Evidence.of(away.value))
                assert (verdict.kind, verdict.rule_id) == (FailureKind.RESOURCE, "registry-away")
                async with PostgresBackend(url) as backend:
                    with pytest.raises(BackendError, match=REMEDY) as refused:
                        await backend.spawn_task("q", "task", {})
                    assert meaning_of(refused.value) is Refusal.PASSING
                    site = Site("production", backend)
                    assert "vacuumdb" in (await make_look(site, 60.0)()).away["database"]
                    assert "vacuumdb" in " ".join((await read_site(site)).problems)
            async with PostgresBackend(url) as backend, asyncio.timeout(30):
                while (await make_look(Site("production", backend), 60.0)()).away:
                    await asyncio.sleep(0.1)
                await backend.spawn_task("q", "task", {})
            registry.set_group_status("G", GroupStatus.FAILED, "text")


def test_each_wording_is_known(database_url: str) -> None:
    """Of 15 and earlier, of 17, and of MultiXactIds."""
    for words in ("", "that assign new transaction IDs ", "that generate new MultiXactIds "):
        text = f"database is not accepting commands {words}to avoid wraparound data loss"
        statement = f"do $$ begin raise exception '{text}' using errcode = '54000'; end $$"
        with psycopg.connect(database_url) as connection, pytest.raises(psycopg.Error) as error:
            connection.execute(statement.encode())
        with pytest.raises(BackendError, match="vacuumdb") as translated:
            raise_translated(error.value)
        assert meaning_of(translated.value) is Refusal.PASSING
