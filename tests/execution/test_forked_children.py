"""A child that a handler forks outlives its worker, and holds nothing of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg

from absurd_contimg.execution.scratch import ScratchOwner
from absurd_contimg.products.filesystem import LOCAL

WORKER = """
import asyncio, multiprocessing, os, sys, time
from pathlib import Path
from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.backends.postgres.sessions import Session
from absurd_contimg.execution.scratch import ScratchOwner

def child():
    os.write(1, b"%d\\n" % os.getpid())  # whole lines, as two processes write
    time.sleep(60)

async def main():
    async with PostgresBackend(sys.argv[1]) as backend:
        with Session.connect(sys.argv[1], autocommit=True) as session:
            with ScratchOwner(Path(sys.argv[2]), "w"):
                fork = multiprocessing.get_context("fork").Process
                brief = fork(target=print)
                brief.start()
                brief.join()
                await backend.list_queues()
                session.execute("select 1")
                await asyncio.to_thread(fork(target=child).start)
                await backend.list_queues()
                os.write(1, b"works\\n")
                await asyncio.Event().wait()

asyncio.run(main())
"""


def test_forked_child_holds_no_lock_and_no_connection(database_url: str, tmp_path: Path) -> None:
    """It goes on after the worker's death, the only thing that it can still do."""
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, database_url, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stdout is not None
        lines = [line.strip() for line in (worker.stdout.readline() for _ in range(3)) if line]
        child = next(int(line) for line in lines if line.isdecimal())
        try:
            while "works" not in lines:
                lines.append(worker.stdout.readline().strip())
            assert LOCAL.try_lock(tmp_path / ".owners" / "w.lock") is None
            worker.kill()
            worker.wait()
            os.kill(child, 0)
            with ScratchOwner(tmp_path, "w"), psycopg.connect(database_url) as stranger:
                give_up = time.monotonic() + 10
                while sessions(stranger) and time.monotonic() < give_up:
                    time.sleep(0.02)
                assert sessions(stranger) == 0
            os.kill(child, 0)
        finally:
            os.kill(child, signal.SIGKILL)


def sessions(stranger: psycopg.Connection) -> int:
    """How many others are connected to the database."""
    row = stranger.execute(
        "select count(*) from pg_stat_activity where datname = current_database()"
        " and backend_type = 'client backend' and pid <> pg_backend_pid()"
    ).fetchone()
    stranger.commit()
    assert row is not None
    return int(row[0])
