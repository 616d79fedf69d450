"""Every command and every SQL statement of docs/operations.md works, in order, on a real site."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from arriving_groups import group_id, write_subband
from guide_commands import ROOT, Operator, blocks, clean_environment
from unit_runner import UnitRunner

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.service_records import ServiceRecord, list_services

PAGE = ROOT / "docs" / "operations.md"
QUEUE = "dsa110-pipeline"
FIRST, FAILED = group_id(0), group_id(1)


@pytest.fixture
def operator(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Operator]:
    clean_environment(monkeypatch)
    (tmp_path / "catalog.csv").write_text("name\n")
    units = UnitRunner(tmp_path / "root", tmp_path)
    folders = {
        "/data/incoming": tmp_path / "incoming",
        "/data/catalog.csv": tmp_path / "catalog.csv",
        "/stage/dsa110-contimg": tmp_path / "products",
        "/etc/dsa110-contimg": tmp_path / "root/etc/dsa110-contimg",
        "/tmp/contimg-journal": tmp_path / "journal",
    }
    (tmp_path / "incoming").mkdir()
    operator = Operator(folders, database_url, units, {"ABSURD_DATABASE_URL": database_url})
    yield operator
    units.close()


def files_arrive(operator: Operator) -> None:
    """Before the section on ingestion: a whole group, seen once."""
    folder = operator.folders["/data/incoming"]
    for subband in range(16):
        write_subband(folder, 0, subband, modified=time.time() - 100)
    operator.run("contimg --set streaming.arrival=rename daemon --once")


def read_catalogue() -> None:
    Path("/nowhere/catalogue.csv").read_text()


def a_group_fails(operator: Operator) -> None:
    """Before the section on the queue: a task that failed at its second stage."""

    async def handler(params: object, ctx: Any) -> None:
        async def convert() -> dict[str, str]:
            return {}

        async def image() -> None:
            read_catalogue()

        await ctx.step("convert", convert)
        await ctx.step("image", image)

    async def fail() -> None:
        tasks = TaskRegistry()
        tasks.add("test-group", handler)
        async with PostgresBackend(operator.database_url) as backend:
            task = await backend.spawn_task(QUEUE, "test-group", {"group_id": FAILED})
            worker = Worker(backend, tasks, WorkerSettings(QUEUE, "test"))
            await worker.run(until_idle=True)
            result = await backend.get_task_result(QUEUE, task.task_id)
        assert result is not None
        assert result.state == "failed"

    asyncio.run(fail())


def check_services(operator: Operator) -> None:
    """After the quick start: daemon, servers and two workers run, and everybody sees them."""
    registry = operator.folders["/stage/dsa110-contimg"] / "state/registry.sqlite3"
    services = {each.kind for each in list_services(Database(registry)) if not each.stopped_at}
    assert services == {"api", "daemon", "dashboard", "worker"}
    assert len(operator.units.running) == 5


PREPARATIONS: dict[str, Callable[[Operator], None]] = {
    "Data ingestion": files_arrive,
    "View the queue": a_group_fails,
}


def test_all_services_start_and_stop_by_hand(tmp_path: Path, database_url: str) -> None:
    """As in a container: no systemd, each process with a file of its number."""
    start, stop = [block.text for block in blocks(PAGE) if block.language == "bash"]
    (tmp_path / "incoming").mkdir()
    (tmp_path / "catalog.csv").write_text("name\n")
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "ABSURD_DATABASE_URL": database_url,
        "PIPELINE_INPUT_DIR": str(tmp_path / "incoming"),
        "PIPELINE_OUTPUT_DIR": str(tmp_path / "products"),
        "PIPELINE_CATALOG": str(tmp_path / "catalog.csv"),
    }
    free = start.replace("contimg api", "contimg api --port 0")
    free = free.replace("contimg dashboard", "contimg dashboard --port 0")
    registry = Database(tmp_path / "products/state/registry.sqlite3")

    def run(script: str) -> None:
        command = ["bash", "-euc", script]
        subprocess.run(command, env=environment, check=True, timeout=120)

    def until(done: Callable[[Sequence[ServiceRecord]], bool]) -> None:
        give_up = time.monotonic() + 120
        while not done(records := list_services(registry)):
            assert time.monotonic() < give_up, records
            time.sleep(0.1)

    try:
        run(free)
        until(lambda records: len(records) == 4)  # a dashboard by hand only looks
        log = tmp_path / "products/run/dashboard.log"
        until(lambda _: "Dashboard: http" in log.read_text())
        run(stop.replace("contimg db stop", "true"))  # the server is that of the tests
        until(lambda records: all(each.stopped_at is not None for each in records))
    finally:
        for file in (tmp_path / "products/run").glob("*.pid"):
            with suppress(ProcessLookupError):
                os.kill(int(file.read_text()), signal.SIGKILL)


def test_every_command_works(operator: Operator) -> None:
    heading, statements = "", 0
    operator.may_fail = lambda command: command.startswith(
        # A busy machine; a file without a sky; their exit codes tell that a task has failed.
        ("contimg doctor", "contimg inspect", "contimg monitor", "contimg alerts", "contimg report")
    )
    for block in blocks(PAGE):
        if block.heading != heading:
            heading = block.heading
            if heading == "Data ingestion":
                check_services(operator)
                for unit in list(operator.units.running):
                    assert operator.units.stop(unit) == 0
                operator.starts_services = False
            PREPARATIONS.get(heading, lambda _: None)(operator)
        if block.language == "sh":
            for command in block.commands():
                if (command, heading) != ("contimg doctor", "Support"):  # 6 s, run before
                    operator.run(command)
        elif block.language == "sql":
            rows = operator.query(block.text)
            statements += 1
            if "state, count" in block.text:
                assert ("failed", 1) in rows
            if "failure_reason" in block.text:
                assert rows[0][1:4] == (FAILED, "image", "permanent")
                assert "catalogue.csv" in str(rows[0][4])
            if "checkpoint_name not like" in block.text:
                assert [row[0] for row in rows] == ["convert"]
    assert statements >= 9
    outputs = dict(operator.outputs)
    assert FIRST in outputs["contimg groups"]
    assert json.loads(outputs["contimg status --json"])
    assert "Task Queue Depth" in outputs["contimg monitor --once"]
    assert "contimg_tasks" in outputs["contimg metrics"]
    assert "worker-1" in next(text for name, text in operator.outputs if "service_records" in name)
