"""A right that the worker's role has lost: it is named, and nothing waits for it without end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core import worker as worker_module
from absurd_contimg.core.errors import BackendError
from absurd_contimg.operations.doctor.rights import lacking_rights
from absurd_contimg.operations.services.service_state import WorkerState

from .worker_helpers import QUEUE, make_worker, noop

CLAIM = "function absurd.claim_task(text,text,integer,integer)"
USAGE = "schema absurd"
TABLE = f'table absurd."r_{QUEUE}"'
RIGHTS = {CLAIM: "execute", USAGE: "usage", TABLE: "select"}


@pytest.fixture
async def role_url(database_url: str) -> AsyncIterator[str]:
    """The database, with a queue, for a role that has all rights which a worker needs."""
    async with PostgresBackend(database_url) as backend:
        await backend.create_queue(QUEUE)
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("create role worker login password 'secret'")
        owner.execute("grant usage on schema absurd to worker")
        owner.execute("grant all on all tables in schema absurd to worker")
        owner.execute("revoke execute on all functions in schema absurd from public")
        owner.execute("grant execute on all functions in schema absurd to worker")
        yield make_conninfo(database_url, user="worker", password="secret", passfile="")
        owner.execute("drop owned by worker")
        owner.execute("drop role worker")


@pytest.mark.parametrize("thing", RIGHTS)
async def test_a_right_that_stays_away_ends_a_worker_that_ends_when_it_is_idle(
    database_url: str, role_url: str, thing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It repeated "cannot claim" without end."""
    monkeypatch.setattr(worker_module, "_RIGHT_SECONDS", 0.1)
    monkeypatch.setattr(worker_module, "_UNREACHABLE_PAUSE_SECONDS", 0.02)
    async with PostgresBackend(role_url) as backend, asyncio.timeout(10):
        with psycopg.connect(database_url, autocommit=True) as owner:
            owner.execute(f"revoke {RIGHTS[thing]} on {thing} from worker".encode())
        worker = make_worker(backend, noop)
        with pytest.raises(BackendError, match=r"lacks a right: permission denied for .* Grant it"):
            await worker.run(until_idle=True)
        assert "lacks a right" in WorkerState([worker]).problem()


async def test_a_right_that_comes_back_is_waited_for(database_url: str, role_url: str) -> None:
    """A worker for good goes on trying, and its record says why it claims nothing."""
    with psycopg.connect(database_url, autocommit=True) as owner:
        assert lacking_rights(role_url) == []
        owner.execute(f"revoke execute on {CLAIM} from worker".encode())
        owner.execute(f"revoke update on {TABLE} from worker".encode())
        (finding,) = lacking_rights(role_url)
        assert "user worker lacks execute on function absurd.claim_task(" in finding.finding
        assert f"update on {TABLE}" in finding.finding
        async with PostgresBackend(role_url) as backend, asyncio.timeout(10):
            worker = make_worker(backend, noop)
            running = asyncio.create_task(worker.run())
            while not (problem := worker.problem()):
                await asyncio.sleep(0.01)
            assert f"cannot claim from queue {QUEUE}: The database's user lacks a right" in problem
            owner.execute(f"grant execute on {CLAIM} to worker".encode())
            owner.execute(f"grant update on {TABLE} to worker".encode())
            while worker.problem():
                await asyncio.sleep(0.01)
            worker.stop()
            await running
