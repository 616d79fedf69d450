"""Groups that wait for sub-bands are seen: by `run`, `spawn`, `status` and in the report."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import h5py
import pytest
from typer.testing import CliRunner

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.records import History
from absurd_contimg.history.wait_explanation import WaitContext
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.night_report.task_reading import task_facts

QUEUE = "dsa110-pipeline"
GROUP = "2025-01-15T10:00:00"

Contimg = Callable[..., Any]


@pytest.fixture
def contimg(tmp_path: Path, database_url: str) -> Contimg:
    """Run a command on a site with 14 sub-bands of one group that have just come."""
    incoming = tmp_path / "in"
    incoming.mkdir()
    (incoming / "catalog.csv").write_text("name,ra_deg,dec_deg,flux_jy\n")
    for subband in range(14):
        with h5py.File(incoming / f"{GROUP}_sb{subband:02d}.hdf5", "w"):
            pass
    folders = [
        *("--input-dir", str(incoming), "--output-dir", str(tmp_path / "out")),
        *("--scratch-dir", str(tmp_path / "scratch"), "--state-dir", str(tmp_path / "state")),
    ]
    clean = {key: None for key in os.environ if key.startswith(("ABSURD_", "PIPELINE_"))}

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(
            app,
            [*folders, "--database-url", database_url, *arguments],
            env={**clean, "COLUMNS": "200"},
        )

    assert run("db", "init").exit_code == 0
    return run


def test_a_waiting_group_is_no_success_and_is_seen_everywhere(
    contimg: Contimg, tmp_path: Path
) -> None:
    shown = contimg("run")
    assert shown.exit_code == 1, shown.output
    ends = time.strftime("%H:", time.gmtime(time.time() + 300))
    assert re.search(rf"{GROUP} +14 of 16 +waits for sb14, sb15 until {ends}", shown.stdout)
    assert f"1 group not processed, waiting for files: {GROUP}" in shown.stdout
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Groups without a task" in page
    assert "14 of 16" in page
    (group,) = json.loads(contimg("status", "--json").stdout)["groups_waiting"]
    assert (group["name"], group["present"], group["expected"]) == (GROUP, 14, 16)
    text = contimg("status").stdout
    assert re.search(rf"{GROUP} +14 of 16 +waits until [0-9:]+ for sb14", text)
    (tmp_path / "out" / "report.html").unlink()
    assert contimg("report").exit_code == 0
    assert "14 of 16" in (tmp_path / "out" / "report.html").read_text()


def test_a_cancelled_group_is_called_so_with_who_and_why_until_it_has_another_task(
    contimg: Contimg, database_url: str
) -> None:
    """It was called closed, with the last step that had been done."""
    (first,) = json.loads(contimg("spawn", "--now", "--json").stdout)
    assert contimg("cancel", first["task_id"], "--reason", "snow on the dishes").exit_code == 0
    go_on = f"To go on: contimg spawn --group {GROUP} --respawn"
    for command in ("groups", "history"):
        text = " ".join(contimg(command, GROUP).stdout.split())
        for part in ("cancelled by ", ": snow on the dishes", "--respawn"):
            assert part in text, command
    (group,) = json.loads(contimg("groups", "--json").stdout)
    assert go_on in group["why"]

    async def read() -> History:
        async with PostgresBackend(database_url) as backend:
            history = await backend.history(QUEUE, UUID(first["task_id"]))
        assert history is not None
        return history

    facts = task_facts(asyncio.run(read()), WaitContext(datetime.now(UTC)))
    assert "cancelled" in facts.explanation
    assert go_on.endswith(facts.advice)
    assert facts.advice
    assert contimg("spawn", "--group", GROUP, "--now", "--respawn").exit_code == 0
    (group,) = json.loads(contimg("groups", "--json").stdout)
    assert "cancelled" not in group["why"]
    assert go_on not in " ".join(contimg("history", first["task_id"]).stdout.split())


def test_spawn_counts_the_files_that_are_there_and_names_the_newest_task(
    contimg: Contimg, tmp_path: Path
) -> None:
    (first,) = json.loads(contimg("spawn", "--now", "--json").stdout)
    assert (first["created"], first["present"], first["waits_for"]) == (True, 14, None)
    assert json.loads(contimg("status", "--json").stdout)["groups_waiting"] == []
    contimg("cancel", first["task_id"])
    (tmp_path / "in" / f"{GROUP}_sb07.hdf5").unlink()
    (second,) = json.loads(contimg("spawn", "--now", "--respawn", "--json").stdout)
    assert second["task_id"] != first["task_id"]
    (again,) = json.loads(contimg("spawn", "--now", "--json").stdout)
    assert (again["task_id"], again["created"], again["present"]) == (second["task_id"], False, 13)
    contimg("cancel", second["task_id"])
    shown = " ".join(contimg("spawn", "--now").stdout.split())
    for text in (second["task_id"], "13 of 16", "existed, cancelled: ", "--respawn"):
        assert text in shown
