"""Backup and restoration: both databases destroyed, tasks in flight, nothing lost or doubled."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from every_product import commit_all
from typer.testing import CliRunner

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.backends.postgres.schema import queues_without_additions
from absurd_contimg.core.errors import BackendUnavailable
from absurd_contimg.core.records import History
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.errors import CorruptInputError, MissingInputError, OutputError, SettingError
from absurd_contimg.ingest.batches import queue_names
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.maintenance import database_programs
from absurd_contimg.operations.maintenance.backup import (
    _copy_sqlite,
    make_backup,
    restore_backup,
)
from absurd_contimg.operations.maintenance.backup_folder import read_backup
from absurd_contimg.operations.maintenance.restoration_guard import (
    require_no_other_queues,
    require_stopped,
)
from absurd_contimg.operations.maintenance.schema_replacement import what_would_go
from absurd_contimg.operations.services.site_identity import require_own_site
from absurd_contimg.products.site_file import read_site
from absurd_contimg.registry import Registry
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import SubbandFile
from absurd_contimg.registry.service_records import ServiceKind, ServiceRecord, store_service
from absurd_contimg.registry.tables import ALL_TABLES
from absurd_contimg.settings import load_settings

QUEUE = "dsa110-pipeline"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(params=["sqlite", "postgres"])
def registry_url(request: pytest.FixtureRequest, tmp_path: Path, database_url: str) -> str:
    """A file, or the same database as Absurd's."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'registry.sqlite3'}"
    return database_url


def destroy(url: str, registry_url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("drop schema absurd cascade")
        connection.execute("drop schema if exists contimg cascade")
    if registry_url.startswith("sqlite"):
        for file in Path(registry_url.removeprefix("sqlite:///")).parent.glob("registry.sqlite3*"):
            file.unlink()


def rows(registry_url: str) -> dict[str, list[dict[str, Any]]]:
    registry = Registry(registry_url)
    try:
        return {table.__tablename__: registry.rows(table) for table in ALL_TABLES}
    finally:
        registry.close()


async def histories(url: str) -> list[History]:
    async with PostgresBackend(url) as backend:
        tasks = await backend.list_tasks(QUEUE)
        return await backend.histories(QUEUE, [task.task_id for task in tasks])


async def busy_queue(url: str) -> dict[str, UUID]:
    """A task in each state; the running one is held by a worker that dies with the database."""
    async with PostgresBackend(url) as backend:
        await backend.create_queue(QUEUE)
        await backend.create_queue("partitioned", "partitioned")
        await backend.spawn_task("partitioned", "task", {})
        ids = {}
        for state in ("completed", "running", "waiting", "sleeping", "cancelled", "pending"):
            task = await backend.spawn_task(QUEUE, "task", {"was": state})
            ids[state] = task.task_id
            if state == "cancelled":
                await backend.cancel_task(QUEUE, task.task_id)
            if state in ("pending", "cancelled"):
                continue
            (run,) = await backend.claim_task(QUEUE, "w-1", 3600)
            step = (QUEUE, run.task_id, "first", {"done": state}, run.run_id)
            await backend.set_task_checkpoint_state(*step)
            if state == "completed":
                await backend.complete_run(QUEUE, run.run_id, {})
            elif state == "sleeping":
                wake_at = await backend.current_time() + timedelta(seconds=-1)
                await backend.schedule_run(QUEUE, run.run_id, wake_at)
            elif state == "waiting":
                await backend.await_event(QUEUE, run.task_id, run.run_id, "$wait", "event")
        return ids


async def spawn(url: str) -> None:
    async with PostgresBackend(url) as backend:
        await backend.spawn_task(QUEUE, "task", {})


async def test_nobody_else_reads_a_backup(
    database_url: str, registry_url: str, tmp_path: Path
) -> None:
    """Histories hold what users gave to their tasks."""
    await busy_queue(database_url)
    Registry(registry_url).close()
    folder = tmp_path / "backups" / "first"
    earlier = os.umask(0o022)
    try:
        make_backup(database_url, registry_url, folder, NOW)
    finally:
        os.umask(earlier)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


async def test_both_are_destroyed_and_restored_and_the_work_goes_on(
    database_url: str, registry_url: str, tmp_path: Path
) -> None:
    """Every row is as it was; tasks in flight go on, once; the ended ones are not run again."""
    await busy_queue(database_url)
    registry = Registry(registry_url)
    for folder, manifest in commit_all(tmp_path / "products"):
        registry.register(folder, manifest)
    registry.close()
    before, rows_before = await histories(database_url), rows(registry_url)
    folder = tmp_path / "backups" / "first"
    made = make_backup(database_url, registry_url, folder, NOW)
    assert read_backup(folder) == made
    with pytest.raises(SettingError, match=r"not empty: absurd: 6 rows of t_dsa110-pipeline"):
        restore_backup(database_url, registry_url, folder)
    destroy(database_url, registry_url)
    assert what_would_go(database_url, registry_url) == []

    restore_backup(database_url, registry_url, folder)
    assert await histories(database_url) == before
    assert rows(registry_url) == rows_before
    starts: Counter[str] = Counter()

    async def handler(params: Any, ctx: Any) -> dict[str, Any]:
        async def begin() -> dict[str, Any]:
            starts["first"] += 1
            return {"done": params["was"]}

        await ctx.step("first", begin)
        starts[params["was"]] += 1
        return {}

    tasks = TaskRegistry()
    tasks.add("task", handler)
    async with PostgresBackend(database_url) as backend:
        assert await backend.list_queues() == [QUEUE, "partitioned"]
        await backend.emit_event(QUEUE, "event", {})
        settings = WorkerSettings(QUEUE, "w-1", poll_interval_seconds=0.01)
        async with asyncio.timeout(30):
            await Worker(backend, tasks, settings).run(until_idle=True)
        states = Counter((await backend.queue_stats(QUEUE)).tasks_by_state)
        (task,) = await backend.list_tasks("partitioned")
        assert task.state == "pending"
        (claimed,) = await backend.claim_task("partitioned", "w")
        assert claimed.task_id == task.task_id
    assert states == {"completed": 5, "cancelled": 1}
    started = {"running": 1, "sleeping": 1, "waiting": 1, "pending": 1}
    assert starts == {**started, "first": 1}  # the others have that checkpoint

    restore_backup(database_url, registry_url, folder, force=True)
    assert await histories(database_url) == before
    assert rows(registry_url) == rows_before


async def test_a_backup_is_of_one_moment_while_others_write(
    database_url: str, tmp_path: Path
) -> None:
    """Each task in it has its run, each raw file its group."""
    registry_url = f"sqlite:///{tmp_path / 'registry.sqlite3'}"
    registry = Registry(registry_url)
    async with PostgresBackend(database_url) as backend:
        await backend.create_queue(QUEUE)
        copying = asyncio.create_task(
            asyncio.to_thread(make_backup, database_url, registry_url, tmp_path / "b", NOW)
        )
        count = 0
        while not copying.done():
            await backend.spawn_task(QUEUE, "task", {"n": count})
            path = tmp_path / f"2026-01-01T{count // 60 % 24:02}:{count % 60:02}:00_sb00.hdf5"
            await asyncio.to_thread(registry.register_files, [path])
            count += 1
        await copying
    registry.close()
    restore_backup(database_url, registry_url, tmp_path / "b", force=True)
    assert queues_without_additions(database_url) == []
    restored = await histories(database_url)
    assert all(len(each.runs) == 1 for each in restored)
    tables = rows(registry_url)
    files = tables[SubbandFile.__tablename__]
    assert len({row["group_id"] for row in files}) == len(tables["observation_groups"])
    assert len(restored) <= count
    assert len(files) <= count


def test_nothing_is_restored_beside_a_running_service(tmp_path: Path) -> None:
    """It would work on what is replaced; one that has stopped or died long ago does not."""
    registry_url = f"sqlite:///{tmp_path / 'registry.sqlite3'}"
    require_stopped(registry_url, NOW)  # no registry
    second = NOW.timestamp()
    record = ServiceRecord(
        ServiceKind.WORKER, "w1", "alpha", 7, "0.1", QUEUE, second - 99, second - 5
    )
    with closing(Database(registry_url)) as database:
        store_service(database, record)
        with pytest.raises(SettingError, match=r"worker w1 on alpha.*Stop them first"):
            require_stopped(registry_url, NOW)
        require_stopped(registry_url, NOW + timedelta(seconds=61))
        store_service(database, replace(record, stopped_at=second))
        require_stopped(registry_url, NOW)
    (tmp_path / "registry.sqlite3").write_bytes(b"damaged" * 999)
    require_stopped(registry_url, NOW)


async def test_queues_of_others_in_the_database_are_not_set_back(
    database_url: str, tmp_path: Path
) -> None:
    """Of another site, of another program, and of one whose name begins alike."""
    site = tmp_path / "one"
    async with PostgresBackend(database_url) as backend:
        for folder, queue in ((site, QUEUE), (tmp_path / "two", f"{QUEUE}-io")):
            folders = {"output_dir": folder, "state_dir": folder / "state"}
            settings = load_settings({"database_url": database_url, **folders}, [], {})
            await backend.create_queue(queue)
            await require_own_site(backend, settings, [queue])
    with pytest.raises(SettingError, match=rf"another site or program, too: '{QUEUE}-io'\."):
        require_no_other_queues(database_url, queue_names(QUEUE), read_site(site))
    async with PostgresBackend(database_url) as backend:
        await backend.sites.forget([f"{QUEUE}-io"])
    require_no_other_queues(database_url, queue_names(QUEUE), read_site(site))
    async with PostgresBackend(database_url) as backend:
        await backend.create_queue("other program")
    with pytest.raises(SettingError, match="too: 'other program'"):
        require_no_other_queues(database_url, queue_names(QUEUE), read_site(site))
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("drop table absurd.contimg_sites")
    with pytest.raises(SettingError, match="too: 'other program'"):
        require_no_other_queues(database_url, queue_names(QUEUE), read_site(site))


def test_the_backup_of_another_site_is_refused(
    database_url: str, new_database: Callable[[], str], tmp_path: Path
) -> None:
    """Its tasks and its products took the place of this site's, and no worker started then."""
    clean = {key: None for key in os.environ if key.startswith(("ABSURD_", "PIPELINE_"))}

    def run(site: str, *words: str) -> Any:
        options = ["--input-dir", str(tmp_path / "incoming"), "--output-dir", str(tmp_path / site)]
        options += ["--database-url", urls[site]]
        return CliRunner().invoke(app, [*options, *words], env={**clean, "COLUMNS": "120"})

    urls = {"one_site": database_url, "other_site": new_database()}
    for site in urls:
        assert run(site, "db", "init", "--this-site").exit_code == 0
        assert run(site, "backup", str(tmp_path / f"of_{site}")).exit_code == 0
    folder = str(tmp_path / "of_other_site")
    refused = run("one_site", "restore", folder, "--force")
    assert f"{folder} is a backup of another site" in f"{refused.exception}"
    assert run("one_site", "restore", str(tmp_path / "of_one_site"), "--force").exit_code == 0
    assert run("one_site", "restore", folder, "--force", "--other-site").exit_code == 0
    (tmp_path / "incoming").mkdir()
    refused = run("one_site", "worker", "--until-idle")
    assert "this process has one of another site there" in f"{refused.exception}"
    assert run("one_site", "db", "init", "--this-site").exit_code == 0


def test_a_restoration_asks_for_all_queues(database_url: str, tmp_path: Path) -> None:
    clean = {key: None for key in os.environ if key.startswith(("ABSURD_", "PIPELINE_"))}
    options = [
        "--input-dir",
        str(tmp_path / "incoming"),
        "--output-dir",
        str(tmp_path / "products"),
    ]
    options += ["--database-url", database_url]

    def run(*words: str) -> Any:
        return CliRunner().invoke(app, [*options, *words], env={**clean, "COLUMNS": "120"})

    assert run("db", "init").exit_code == 0
    assert run("backup", str(tmp_path / "b")).exit_code == 0
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("select absurd.create_queue('of others')")
    refused = run("restore", str(tmp_path / "b"), "--force")
    assert "--all-queues" in f"{refused.exception}"
    assert run("restore", str(tmp_path / "b"), "--force", "--all-queues").exit_code == 0


def test_what_is_no_whole_backup_is_refused(database_url: str, tmp_path: Path) -> None:
    """Before anything is changed."""
    registry_url = f"sqlite:///{tmp_path / 'registry.sqlite3'}"
    Registry(registry_url).close()
    with pytest.raises(MissingInputError):
        restore_backup(database_url, registry_url, tmp_path / "absent")
    folder = tmp_path / "b"
    make_backup(database_url, registry_url, folder, NOW)
    with pytest.raises(SettingError, match="is there already"):
        make_backup(database_url, registry_url, folder, NOW)
    with pytest.raises(SettingError, match="registry is a file"):
        restore_backup(database_url, database_url, folder, force=True)
    (folder / "queue.dump").write_bytes(b"PGDMP")
    with pytest.raises(CorruptInputError, match=r"queue\.dump"):
        restore_backup(database_url, registry_url, folder, force=True)
    (folder / "backup.json").write_text("[]")
    with pytest.raises(CorruptInputError, match="damaged"):
        restore_backup(database_url, registry_url, folder, force=True)
    with pytest.raises(BackendUnavailable, match=r"cannot be reached.*/nowhere"):
        make_backup("postgresql:///absent?host=/nowhere", registry_url, tmp_path / "c", NOW)
    assert not (tmp_path / "c").exists()
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".backup")] == []


def test_a_registry_that_cannot_be_reached_is_named_by_its_own_setting(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who read ABSURD_DATABASE_URL looked for the fault where there was none."""
    for variable in ("ABSURD_DATABASE_URL", "PIPELINE_PRODUCTS_DB"):
        monkeypatch.setenv(variable, "set")
    Registry(database_url, output_dir=tmp_path).close()
    make_backup(database_url, database_url, tmp_path / "b", NOW)
    away = "postgresql:///absent?host=/nowhere"
    for act in (
        lambda: make_backup(database_url, away, tmp_path / "c", NOW),
        lambda: restore_backup(database_url, away, tmp_path / "b", force=True),
    ):
        with pytest.raises(BackendUnavailable, match=r"/nowhere.*Check PIPELINE_PRODUCTS_DB and"):
            act()


def test_every_command_of_the_page_works(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/maintenance.md, from top to bottom."""
    monkeypatch.chdir(tmp_path)
    clean = {key: None for key in os.environ if key.startswith(("ABSURD_", "PIPELINE_"))}
    options = [
        "--input-dir",
        str(tmp_path / "incoming"),
        "--output-dir",
        str(tmp_path / "products"),
    ]
    options += ["--database-url", database_url]
    registry = Registry(tmp_path / "products" / "state" / "registry.sqlite3")
    for folder, manifest in commit_all(tmp_path / "products"):
        registry.register(folder, manifest)
    now = datetime.now(UTC).timestamp()
    daemon = ServiceRecord(ServiceKind.DAEMON, "daemon", "alpha", 7, "0.1", QUEUE, now - 9, now - 5)
    store_service(registry.database, replace(daemon, stopped_at=now))
    registry.close()

    def run(command: str) -> Any:
        words = [a or b for a, b in re.findall(r'"([^"]*)"|(\S+)', command)]
        return CliRunner().invoke(app, [*options, *words], env={**clean, "COLUMNS": "120"})

    assert run("db init").exit_code == 0
    asyncio.run(spawn(database_url))
    page = (DOCS / "maintenance.md").read_text()
    lines = [
        line
        for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
        for line in block.split("\n")
    ]
    commands = [line.removeprefix("contimg ") for line in lines if line]
    assert len(commands) > 12
    for command in commands:
        outcome = run(command)
        assert outcome.exit_code == 0, (command, outcome.output, outcome.exception)


def test_copy_onto_a_full_disk_is_one_sentence(tmp_path: Path, small_disk: Path) -> None:
    """The disk on which one saves in a hurry is the full one."""
    with closing(sqlite3.connect(tmp_path / "registry.sqlite3")) as database:
        database.execute("create table t as select randomblob(12000000)")
        database.commit()
    with pytest.raises(OutputError, match=r"could not be copied to .*disk is full.*Free space"):
        _copy_sqlite(tmp_path / "registry.sqlite3", small_disk / "registry.sqlite3")


def test_a_database_without_a_queue_is_named(database_url: str, tmp_path: Path) -> None:
    """It was told that pg_dump had failed."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("drop schema absurd cascade")
    with pytest.raises(MissingInputError, match=r"holds no schema absurd.*ABSURD_DATABASE_URL"):
        make_backup(database_url, f"sqlite:///{tmp_path}/none", tmp_path / "b", datetime.now(UTC))
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("place", ["incoming", "published"])
def test_no_backup_lies_where_others_look_for_data(tmp_path: Path, place: str) -> None:
    """A backup holds what users gave to their tasks."""
    (tmp_path / place).mkdir()
    folders = (
        f"--folder={tmp_path}",
        f"--input-dir={tmp_path / 'incoming'}",
        f"--publish-dir={tmp_path / 'published'}",
    )
    refused = CliRunner().invoke(app, [*folders, "backup", str(tmp_path / place / "b")])
    assert isinstance(refused.exception, SettingError)
    assert str(tmp_path / place) in str(refused.exception)
    assert "in the state folder" in str(refused.exception)
    assert [path.name for path in tmp_path.iterdir()] == [place]


def test_a_server_that_goes_away_during_a_backup_is_named(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended in the words of pg_dump, and asked for its version."""
    parameters = database_programs._parameters

    def moved(url: str) -> tuple[dict[str, str], str | None]:
        values, password = parameters(url)
        return {**values, "host": str(tmp_path)}, password

    monkeypatch.setattr(database_programs, "_parameters", moved)
    registry_url = f"sqlite:///{tmp_path / 'registry.sqlite3'}"
    place = rf"cannot be reached: the server {tmp_path} port 5432 is away"
    with pytest.raises(BackendUnavailable, match=place) as refused:
        make_backup(database_url, registry_url, tmp_path / "b", NOW)
    assert "that the server runs (contimg doctor)" in str(refused.value)
    assert not (tmp_path / "b").exists()
