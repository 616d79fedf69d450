"""The daemon's commands: groups, windows, reopen, the daemon's lock and its preconditions."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from pathlib import Path

import pytest
from arriving_groups import DaemonSite, file_name, group_id, write_subband
from typer.testing import CliRunner

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.errors import SettingError
from absurd_contimg.ingest.closing import ClosingRules
from absurd_contimg.ingest.daemon import Outage
from absurd_contimg.ingest.incoming_folder import IncomingAwayError
from absurd_contimg.operations.cli import daemon as _commands  # noqa: F401 - registers them
from absurd_contimg.operations.cli.app import app
from absurd_contimg.operations.services import open_tables
from absurd_contimg.operations.services.daemon_service import LOCK_NAME, OutageLog, poll_once
from absurd_contimg.products.filesystem import LOCAL
from absurd_contimg.registry.publications import Publications, PublicationState
from absurd_contimg.registry.windows import WindowState
from absurd_contimg.settings import Settings, load_settings


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> DaemonSite:
    """Ten groups, the second incomplete with a late file, and one that is being collected."""
    site = DaemonSite(tmp_path_factory.mktemp("site"))
    asyncio.run(_night(site))
    return site


async def _night(site: DaemonSite) -> None:
    await site.begin()
    site.closing = ClosingRules(expected_subbands=2, subbands_min=1, group_wait_seconds=100)
    for number in range(10):
        site.write(number, [0, 1] if number != 1 else [0])
    await site.polls(60, 4)
    site.write(1, [1])
    site.write(10, [0])
    await site.polls(1, 2)


def run(site: DaemonSite, *arguments: str) -> tuple[int, str]:
    """A command in this process, on a terminal of 80 columns."""
    options = [
        *("--input-dir", str(site.incoming), "--output-dir", str(site.root / "out")),
        *("--set", "conversion.expected_subbands=2", "--set", "conversion.subbands_min=1"),
    ]
    result = CliRunner().invoke(
        app,
        [*options, *arguments],
        env={"COLUMNS": "80", "PIPELINE_PRODUCTS_DB": str(site.root / "registry.sqlite3")},
    )
    return result.exit_code, result.output


def test_groups_say_why_they_wait_and_which_files_are_late(site: DaemonSite) -> None:
    code, shown = run(site, "groups")
    assert code == 0
    assert max(map(len, shown.splitlines())) <= 80
    text = " ".join(shown.split())
    assert group_id(10) in text
    assert "late: sb01" in text
    code, shown = run(site, "groups", "--json")
    by_id = {group["group_id"]: group for group in json.loads(shown)}
    assert by_id[group_id(10)]["why"].startswith("waits until ")
    assert "missing: sb01; late: sb01; to process it again" in by_id[group_id(1)]["why"]
    code, shown = run(site, "groups", group_id(1))
    assert file_name(1, 1) in shown


def test_windows_say_what_they_wait_for(site: DaemonSite) -> None:
    code, shown = run(site, "windows")
    assert code == 0
    assert max(map(len, shown.splitlines())) <= 80
    assert "10 groups to be processed" in " ".join(shown.split())
    ((window,)) = json.loads(run(site, "windows", "--json")[1])
    assert (window["state"], len(window["members"])) == (WindowState.OPEN, 10)
    code, shown = run(site, "windows", window["window_id"])
    assert group_id(9) in shown


@pytest.mark.parametrize("arguments", [["groups", "x"], ["windows", "x"], ["reopen", "x"]])
def test_an_unknown_name_is_refused(site: DaemonSite, arguments: list[str]) -> None:
    result = CliRunner().invoke(
        app, arguments, env={"PIPELINE_PRODUCTS_DB": str(site.root / "registry.sqlite3")}
    )
    assert result.exit_code == 1
    assert "x" in str(result.exception)


def test_reopen_collects_the_files_again(site: DaemonSite) -> None:
    code, shown = run(site, "reopen", group_id(1))
    assert code == 0
    assert "version 2 of its files" in " ".join(shown.split())
    assert site.group(1).files_version == 2


def test_an_outage_is_logged_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = OutageLog()
    for attempt in range(5):
        log.note([Outage("files: IncomingAwayError", f"away, attempt {attempt}")])
    log.note([])
    log.note([])
    assert [record.message for record in caplog.records] == [
        "the daemon waits (files: IncomingAwayError): away, attempt 0",
        "the daemon goes on (files: IncomingAwayError)",
    ]


def site_settings(root: Path, database_url: str) -> Settings:
    folders = {"input_dir": root / "incoming", "output_dir": root / "products"}
    return load_settings({**folders, "database_url": database_url}, environment={})


def test_a_daemon_makes_nothing_where_it_could_spawn_nothing(tmp_path: Path) -> None:
    with pytest.raises(IncomingAwayError, match="cannot be read"):
        asyncio.run(poll_once(site_settings(tmp_path, "postgresql://nobody@127.0.0.1:1/none")))
    assert list(tmp_path.iterdir()) == []


async def test_a_second_daemon_of_a_site_is_refused_by_the_lock(
    tmp_path: Path, database_url: str
) -> None:
    settings = site_settings(tmp_path, database_url)
    async with PostgresBackend(database_url) as backend:
        await backend.create_queue(settings.queue_name)
    state = settings.pipeline.paths.state_dir
    for folder in (settings.pipeline.paths.input_dir, state):
        folder.mkdir(parents=True)
    (settings.pipeline.paths.input_dir / "catalog.csv").write_text("name\n")
    lock = LOCAL.try_lock(state / LOCK_NAME)
    assert lock is not None
    with pytest.raises(SettingError, match="runs on this host already"):
        await poll_once(settings)
    LOCAL.unlock(lock)
    (state / LOCK_NAME).unlink()
    os.mkfifo(state / LOCK_NAME)
    with pytest.raises(SettingError, match="no lock file"):
        await poll_once(settings)
    (state / LOCK_NAME).unlink()
    assert (await poll_once(settings))[0].outages == ()


def test_polls_from_cron_close_a_group_and_say_what_they_did(
    tmp_path: Path, database_url: str
) -> None:
    """Each ended with 0 and said nothing, and a group without one sub-band stayed open for ever."""
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    (incoming / "catalog.csv").write_text("name\n")
    for subband in range(15):
        write_subband(incoming, 0, subband, modified=time.time() - 100)
    options = [
        *("--input-dir", str(incoming), "--output-dir", str(tmp_path / "products")),
        *("--set", "streaming.arrival=rename"),
    ]
    environment = {"ABSURD_DATABASE_URL": database_url, "COLUMNS": "300"}

    def poll(wait_seconds: float) -> str:
        wait = ["--set", f"streaming.group_wait_seconds={wait_seconds}"]
        result = CliRunner().invoke(app, [*options, *wait, "daemon", "--once"], env=environment)
        assert result.exit_code == 0, result.output
        (line,) = result.output.splitlines()
        return line

    async def make_queue() -> None:
        async with PostgresBackend(database_url) as backend:
            await backend.create_queue("dsa110-pipeline")

    asyncio.run(make_queue())
    first = poll(300)
    assert first.startswith("Polled: 15 new files, no group closed, 0 groups and 0 mosaics spawned")
    assert "1 group collecting: " + group_id(0) in first
    assert "for sb15" in first
    second = poll(0.1)
    assert "a poll of the daemon closes it" in second
    third = poll(0.1)
    assert f"0 new files, {group_id(0)} is closed, 1 group and 0 mosaics spawned" in third
    assert third.endswith("0 groups collecting.")


async def test_a_poll_ends_the_publication_of_a_cancelled_task(
    tmp_path: Path, database_url: str
) -> None:
    """Also where the product is gone; a task of any queue may still work at it."""
    settings = site_settings(tmp_path, database_url)
    settings.pipeline.paths.input_dir.mkdir(parents=True)
    (settings.pipeline.paths.input_dir / "catalog.csv").write_text("name\n")
    key, product = "0" * 40, settings.pipeline.paths.output_dir / "mosaics" / "gone"
    async with PostgresBackend(database_url) as backend:
        for queue in (settings.queue_name, "other"):
            await backend.create_queue(queue)
        task = await backend.spawn_task("other", "publication", {"product_key": key})
        await poll_once(settings)  # makes the registry
        with open_tables(settings) as database:
            publications = Publications(database)
            publications.begin(key, "mosaic", product, tmp_path / "published" / "gone")
            await poll_once(settings)
            assert publications.all()[0].state is PublicationState.STAGING
            await backend.cancel_task("other", task.task_id)
            await poll_once(settings)
            (row,) = publications.all()
    assert row.state is PublicationState.FAILED
    assert str(row.reason).startswith("its task has ended")
