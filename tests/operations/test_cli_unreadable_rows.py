"""The commands show, retry and cancel tasks whatever their rows hold."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from typer.testing import CliRunner
from unreadable_rows import connected, rows, store

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.operations.cli.main import app

QUEUE = "dsa110-pipeline"


def test_commands_take_every_row(tmp_path: Path, database_url: str) -> None:
    def contimg(*arguments: str) -> Any:
        clean = {key: None for key in os.environ if key.startswith(("ABSURD_", "PIPELINE_"))}
        folders = ("input", "scratch", "output", "state")
        options = [f"--{name}-dir={tmp_path / name}" for name in folders]
        return CliRunner().invoke(
            app, [*options, "--database-url", database_url, *arguments], env=clean
        )

    assert contimg("db", "init").exit_code == 0
    failed, waiting = asyncio.run(spawn(database_url))
    for arguments in (
        ("status", "--limit", "1000"),
        ("status", "--limit", "1000", "--json"),
        ("history", failed),
        ("history", "--json", failed),
        ("report", "--limit", "10"),
        ("retry", failed),
        ("cancel", waiting),
        ("retry", "--all-failed"),
    ):
        result = contimg(*arguments)
        assert result.exit_code == 0, (arguments, result.output, result.exception)
    audited = contimg("audit")
    assert audited.exit_code == 1  # what was stored breaks invariants
    assert "tasks audited" in audited.output


async def spawn(url: str) -> tuple[str, str]:
    """Tasks with every fifth of the rows; one that has failed and one that waits."""
    async with PostgresBackend(url) as backend:
        with connected(backend, url) as connection:
            for place, (_, _, statement) in enumerate(list(rows(QUEUE))[::5]):
                task = await backend.spawn_task(QUEUE, "task", {})
                if place % 2:
                    (claimed,) = await backend.claim_task(QUEUE, f"w{place}", 60)
                    await backend.fail_run_permanently(QUEUE, claimed.run_id, {"name": "E"})
                store(connection, statement, task.task_id)
                if place % 2:
                    failed = str(task.task_id)
                else:
                    await backend.cancel_task(QUEUE, task.task_id)
        waiting = await backend.spawn_task(QUEUE, "task", {})
    return failed, str(waiting.task_id)
