"""One output folder and one registry for each queue: a process with another one does not start."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from connection_forms import CONNECTION_FORMS, connection_forms
from psycopg.conninfo import make_conninfo
from typer.testing import CliRunner

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.errors import MissingInputError, SettingError
from absurd_contimg.file_owners import SITE_NAME
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.maintenance import only_reset
from absurd_contimg.operations.services import (
    initialise,
    note_restored,
    require_only_registry,
    serve,
    site_identity,
    take_queue,
)
from absurd_contimg.operations.services.site_gate import SiteGate
from absurd_contimg.operations.services.site_identity import require_own_site
from absurd_contimg.products.site_file import SiteFile, read_site_file, replace_site_file
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.lost_database import require_own_database
from absurd_contimg.settings import Settings, load_settings


def site(url: str, output: Path, state: Path | None = None, **values: Any) -> Settings:
    """The settings of a process; its input folder is the same whatever else it has."""
    (output.parent / "in").mkdir(parents=True, exist_ok=True)
    folders = {
        "input_dir": output.parent / "in",
        "output_dir": output,
        "state_dir": state or output.parent / "state",
    }
    return load_settings({"database_url": url, "queue_name": "q", **folders, **values}, [], {})


async def join(settings: Settings, *, joins: bool = True) -> None:
    async with PostgresBackend(str(settings.database_url)) as backend:
        await require_own_site(backend, settings, [settings.queue_name], joins=joins)
    if joins:
        Database(settings.registry_url).close()


@pytest.fixture
async def url(database_url: str) -> str:
    await initialise(database_url, "q")
    return database_url


async def test_a_worker_with_another_output_folder_is_refused(url: str, tmp_path: Path) -> None:
    """Its tasks were done into the other folder."""
    first, other = tmp_path / "first", tmp_path / "other"
    assert await serve(site(url, first), until_idle=True) == 0
    with pytest.raises(SettingError) as refused:
        await serve(site(url, other), until_idle=True)
    for text in (str(first), str(other), "output folder", "--this-site", "--output-dir"):
        assert text in str(refused.value)
    assert not other.exists()
    assert await serve(site(url, first), until_idle=True) == 0


@pytest.mark.parametrize("form", CONNECTION_FORMS)
async def test_each_form_of_a_connection_serves_queue_and_registry(
    url: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several hosts and ports ended in a traceback, after `contimg db init` had worked."""
    environment, forms = connection_forms(url, tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    text = forms[form]
    values = {"registry_url": text} if "://" in text else {}
    settings = site(text, tmp_path / "out", **values)
    assert await serve(settings, until_idle=True) == 0
    mark = read_site_file(tmp_path / "out")
    assert mark is not None
    expected = "service ha" if "service" in form else "/nowhere:1,/"
    assert mark.databases["q"].startswith(expected)
    with closing(Database(settings.registry_url)) as database, database.reading():
        pass


async def test_a_worker_with_another_registry_is_refused(url: str, tmp_path: Path) -> None:
    output, other = tmp_path / "out", tmp_path / "other"
    await join(site(url, output))
    with pytest.raises(SettingError) as refused:
        await join(site(url, output, other))
    assert "registry" in str(refused.value)
    assert str(tmp_path / "state") in str(refused.value)
    assert str(other) in str(refused.value)
    assert not other.exists()
    Database(site(url, output, other).registry_url).close()
    with pytest.raises(SettingError, match="registry"):  # nor one that is there
        await join(site(url, output, other))


async def test_a_further_queue_joins_only_the_site_of_the_others(url: str, tmp_path: Path) -> None:
    """Its worker started with another registry, and the output folder said then that it is that.

    After a restoration, or as an earlier version left it, the folder says nothing of registries.
    """
    output = tmp_path / "out"
    first, second = site(url, output), site(url, output, tmp_path / "second")
    await join(first)
    async with PostgresBackend(url) as backend:
        await backend.create_queue("q-reprocessing")
    mark = read_site_file(output)
    assert mark is not None
    for content in (mark, SiteFile(mark.site)):
        replace_site_file(output, content)
        with pytest.raises(SettingError, match=r"belongs to a site with the registry .*/state/"):
            await serve(second, True, ["q-reprocessing"])
        assert read_site_file(output) == content
    assert not (tmp_path / "second").exists()
    disk = (output / SITE_NAME).rename(tmp_path / "mark")
    with pytest.raises(SettingError, match="has lost its identity"):
        await serve(first, True, ["q-reprocessing"])
    disk.rename(output / SITE_NAME)
    assert await serve(first, True, ["q-reprocessing"]) == 0
    async with PostgresBackend(url) as backend:
        await take_queue(backend, second)
    assert await serve(second, True, ["q-reprocessing"]) == 0


async def test_a_copy_of_the_registry_is_another_one(url: str, tmp_path: Path) -> None:
    """While the first is there: it serves the same site, and both would be written."""
    output, copy = tmp_path / "out", tmp_path / "copy"
    await join(site(url, output))
    shutil.copytree(tmp_path / "state", copy)
    async with PostgresBackend(url) as backend:
        await backend.create_queue("further")
    before = (output / SITE_NAME).read_text()
    for queue in ("q", "further"):
        with pytest.raises(SettingError, match="registry"):
            await join(site(url, output, copy, queue_name=queue))
    with pytest.raises(SettingError, match="registry"):  # nor is one restored beside it
        require_only_registry(site(url, output, copy))
    assert (output / SITE_NAME).read_text() == before
    shutil.rmtree(tmp_path / "state")
    require_only_registry(site(url, output, copy))
    note_restored(site(url, output, copy), ["q"])
    assert f"{copy}/registry" in (output / SITE_NAME).read_text()
    await join(site(url, output, copy))


@pytest.mark.parametrize("command", [["spawn", "--now"], ["run"], ["daemon", "--once"], ["worker"]])
def test_every_command_that_works_for_a_queue_is_refused(
    url: str, tmp_path: Path, command: list[str]
) -> None:
    asyncio.run(join(site(url, tmp_path / "first")))
    (tmp_path / "in" / "2026-01-01T00:00:00_sb00.hdf5").touch()
    catalogue = tmp_path / "in" / "catalog.csv"
    catalogue.write_text("name,ra_deg,dec_deg,flux_jy,spectral_index,calibrator\na,1,2,3,0,1\n")
    folders = [f"--input-dir={tmp_path / 'in'}", f"--output-dir={tmp_path / 'other'}"]
    options = [*folders, f"--catalog={catalogue}", "--queue=q"]
    clean = {key: None for key in os.environ if key.startswith(("ABSURD_", "PIPELINE_"))}
    environment = {**clean, "ABSURD_DATABASE_URL": url, "COLUMNS": "400"}
    ended = CliRunner().invoke(app, [*options, *command], env=environment)
    assert ended.exit_code != 0
    assert isinstance(ended.exception, SettingError | SystemExit)
    assert "belongs to a site" in f"{ended.exception} {ended.output}"
    assert not (tmp_path / "other").exists()


def test_a_second_spawn_with_another_registry_is_refused_before_any_worker(
    url: str, tmp_path: Path
) -> None:
    """Its groups were entered into a second registry, and the queue belonged to no site yet."""
    (tmp_path / "in").mkdir(exist_ok=True)
    (tmp_path / "in" / "catalog.csv").write_text(
        "name,ra_deg,dec_deg,flux_jy,spectral_index,calibrator\na,1,2,3,0,1\n"
    )
    options = [f"--input-dir={tmp_path / 'in'}", f"--output-dir={tmp_path / 'out'}", "--queue=q"]
    clean = {key: None for key in os.environ if key.startswith(("ABSURD_", "PIPELINE_"))}
    environment = {**clean, "ABSURD_DATABASE_URL": url}
    (tmp_path / "in" / "2026-01-01T00:00:00_sb00.hdf5").touch()
    ended = [
        CliRunner().invoke(
            app, [*options, f"--state-dir={tmp_path / name}", "spawn"], env=environment
        )
        for name in ("first", "first", "second")
    ]
    assert [each.exit_code for each in ended[:2]] == [0, 0], ended[0].exception
    assert "belongs to a site with the registry" in str(ended[2].exception)
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize(
    "command",
    [["retry", "--all-failed"], ["queue", "pause", "--reason=x"], ["maintenance", "run"], ["api"]],
    ids=lambda command: command[0],
)
def test_no_command_changes_a_site_from_another_registry(
    url: str, tmp_path: Path, command: list[str]
) -> None:
    """It acted on the tasks of the one site, and noted it with the other."""
    settings = site(url, tmp_path / "out")
    asyncio.run(join(settings))
    before = (tmp_path / "out" / SITE_NAME).read_text()
    options = [f"--input-dir={tmp_path / 'in'}", f"--output-dir={tmp_path / 'out'}", "--queue=q"]
    clean = {key: None for key in os.environ if key.startswith(("ABSURD_", "PIPELINE_"))}
    environment = {**clean, "ABSURD_DATABASE_URL": url, "COLUMNS": "400"}
    arguments = [*options, f"--state-dir={tmp_path / 'second'}", *command]
    ended = CliRunner().invoke(app, arguments, env=environment)
    assert isinstance(ended.exception, SettingError), ended.output
    assert "belongs to a site with the registry" in str(ended.exception)
    assert not (tmp_path / "second").exists()
    assert (tmp_path / "out" / SITE_NAME).read_text() == before


async def test_a_moved_site_goes_on(url: str, tmp_path: Path) -> None:
    """With its products, by a rename or a copy of which the original is gone."""
    await join(site(url, tmp_path / "a" / "out", tmp_path / "a" / "out" / "state"))
    (tmp_path / "a").rename(tmp_path / "b")
    await join(site(url, tmp_path / "b" / "out", tmp_path / "b" / "out" / "state"))
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    with pytest.raises(SettingError, match="output folder"):
        await join(site(url, tmp_path / "c" / "out", tmp_path / "c" / "out" / "state"))
    shutil.rmtree(tmp_path / "b")
    await join(site(url, tmp_path / "c" / "out", tmp_path / "c" / "out" / "state"))


async def test_a_state_folder_that_moved_goes_on(url: str, tmp_path: Path) -> None:
    await join(site(url, tmp_path / "out"))
    (tmp_path / "state").rename(tmp_path / "elsewhere")
    await join(site(url, tmp_path / "out", tmp_path / "elsewhere"))


async def test_hosts_that_mount_the_folder_are_one_site(
    url: str, new_database: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At one path or at different ones; their state folders are their own."""
    registry = new_database()
    (tmp_path / "mounted").symlink_to(tmp_path / "out")
    for host, name in (("one", "out"), ("two", "mounted"), ("three", "out")):
        monkeypatch.setattr(site_identity, "host_name", lambda host=host: host)
        state = tmp_path / f"state of {host}"
        await join(site(url, tmp_path / name, state, registry_url=registry))


async def test_a_host_without_the_mount_is_refused(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same path, another folder; and a registry of its own in the same path."""
    output = tmp_path / "out"
    await join(site(url, output, output / "state"))
    monkeypatch.setattr(site_identity, "host_name", lambda: "two")
    output.rename(tmp_path / "on the first host")
    with pytest.raises(SettingError, match="output folder"):
        await join(site(url, output, output / "state"))


async def test_a_worker_claims_nothing_for_a_mount_point(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk went away while it ran."""
    await join(site(url, tmp_path / "out"))
    gate = SiteGate(tmp_path / "out")
    assert await gate.ready_to_claim()
    (tmp_path / "out").rename(tmp_path / "disk")
    (tmp_path / "out").mkdir()
    assert [await gate.ready_to_claim() for _ in range(2)] == [False, False]
    assert "Mount its disk" in gate.problem()
    assert caplog.text.count("Mount its disk") == 1
    (tmp_path / "out").rmdir()
    (tmp_path / "disk").rename(tmp_path / "out")
    assert await gate.ready_to_claim()
    assert not gate.problem()


@pytest.mark.parametrize("folders", [["out"], ["out", "state"], ["state"]], ids=", ".join)
async def test_mount_points_without_their_disks_are_not_filled(
    url: str, tmp_path: Path, folders: list[str]
) -> None:
    """They are there, and empty; and what is lost begins again when that is asked for."""
    settings = site(url, tmp_path / "out")
    await join(settings)
    for name in folders:
        (tmp_path / name).rename(tmp_path / f"disk of {name}")
        (tmp_path / name).mkdir()
    for joins in (True, False):
        with pytest.raises(SettingError, match=f"{folders[0]} .*disk seems to be away.*Mount it"):
            await join(settings, joins=joins)
    assert not any(path for name in folders for path in (tmp_path / name).iterdir())
    for name in folders:
        (tmp_path / name).rmdir()
        (tmp_path / f"disk of {name}").rename(tmp_path / name)
    await join(settings)
    for name in folders:
        shutil.rmtree(tmp_path / name)
    async with PostgresBackend(url) as backend:
        await take_queue(backend, settings)
    await join(settings)
    assert (tmp_path / "out" / SITE_NAME).is_file()


async def test_a_second_site_in_one_output_folder_is_refused(
    url: str, new_database: Callable[[], str], tmp_path: Path
) -> None:
    """With a database of its own, and a registry of its own or the same one."""
    first = site(url, tmp_path / "out")
    await join(first)
    other = new_database()
    await initialise(other, "q")
    with pytest.raises(SettingError, match=f"the registry .*{tmp_path / 'state'}/registry"):
        await join(site(other, tmp_path / "out", tmp_path / "second"))
    assert not (tmp_path / "second").exists()
    with pytest.raises(SettingError, match=f"the database .*{urlsplit(url).path}; this"):
        await join(site(other, tmp_path / "out"))
    second = site(other, tmp_path / "out", tmp_path / "second")
    async with PostgresBackend(other) as backend:
        await take_queue(backend, second)
    await join(second)
    with pytest.raises(SettingError, match=f"the registry .*{tmp_path / 'second'}/registry"):
        await join(first)


def test_a_second_private_database_for_one_output_folder_is_not_made(tmp_path: Path) -> None:
    """Two state folders: tasks of both would do the same groups into one folder."""
    first = load_settings(private(tmp_path, "state"), [], {})
    place = f"here:{first.embedded_folder}"
    first.pipeline.paths.output_dir.mkdir()
    content = SiteFile("0" * 16, "here:registry", {first.queue_name: place})
    replace_site_file(first.pipeline.paths.output_dir, content)
    for state in ("state", "second"):
        with pytest.raises(MissingInputError, match=f"{place}.*mount it"):
            require_own_database(load_settings(private(tmp_path, state), [], {}))


def private(folder: Path, state: str) -> dict[str, Any]:
    """Options of a site with a private database."""
    return {"output_dir": folder / "out", "state_dir": folder / state, "input_dir": folder / "in"}


async def test_two_sites_on_two_queues(url: str, tmp_path: Path) -> None:
    await initialise(url, "second")
    await join(site(url, tmp_path / "a" / "out"))
    await join(site(url, tmp_path / "b" / "out", queue_name="second"))
    with pytest.raises(SettingError, match="output folder"):
        await join(site(url, tmp_path / "b" / "out"))


async def test_a_queue_is_taken_when_asked(url: str, tmp_path: Path) -> None:
    first, second = site(url, tmp_path / "a" / "out"), site(url, tmp_path / "b" / "out")
    await join(first)
    async with PostgresBackend(url) as backend:
        await take_queue(backend, second)
    await join(second)
    with pytest.raises(SettingError, match="output folder"):
        await join(first)


async def test_spawning_first_decides_nothing(url: str, tmp_path: Path) -> None:
    await join(site(url, tmp_path / "a" / "out"), joins=False)
    await join(site(url, tmp_path / "b" / "out"))


async def test_a_database_without_the_table_does(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As one that somebody else has initialised; it is told that nothing is checked."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("drop table absurd.contimg_sites")
    with caplog.at_level(logging.WARNING):
        await join(site(url, tmp_path / "a" / "out"))
        await join(site(url, tmp_path / "b" / "out"))
    assert caplog.text.count("it is not checked") == 2


async def test_a_role_that_may_not_write_the_table_does(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create role limited login password 'limited'")
        connection.execute("grant usage on schema absurd to limited")
        connection.execute("grant select on all tables in schema absurd to limited")
        connection.execute("grant execute on all functions in schema absurd to limited")
    try:
        limited = make_conninfo(url, user="limited", password="limited")
        with caplog.at_level(logging.WARNING):
            await join(site(limited, tmp_path / "a" / "out"))
        assert "may not record" in caplog.text
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("drop owned by limited")
            connection.execute("drop role limited")


async def test_a_dropped_queue_belongs_to_nobody(url: str, tmp_path: Path) -> None:
    await join(site(url, tmp_path / "a" / "out"))
    async with PostgresBackend(url) as backend:
        await backend.drop_queue("q")
        await backend.create_queue("q")
    await join(site(url, tmp_path / "b" / "out"))


async def test_a_registry_that_serves_another_site_at_the_same_place(
    url: str, tmp_path: Path
) -> None:
    """The files were exchanged."""
    settings = site(url, tmp_path / "out")
    await join(settings)
    with closing(Database(settings.registry_url)) as database:
        site_identity.enter_site(database, ["q"], "0" * 16)
    with pytest.raises(SettingError, match="registry"):
        await join(settings)


@pytest.mark.parametrize("shares_database", [True, False])
async def test_of_two_first_processes_with_different_registries_one_is_refused(
    new_database: Callable[[], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shares_database: bool,
) -> None:
    """Both had looked before either had entered anything; both went on."""
    urls = [new_database() for _ in range(2)]
    for url in urls:
        await initialise(url, "q")
    both = threading.Barrier(2)
    mark = site_identity.mark_site

    def mark_at_once(folder: Path, content: SiteFile) -> str:
        both.wait(10)
        return mark(folder, content)

    monkeypatch.setattr(site_identity, "mark_site", mark_at_once)
    second = urls[0] if shares_database else urls[1]
    outcomes = await asyncio.gather(
        join(site(urls[0], tmp_path / "out")),
        join(site(second, tmp_path / "out", tmp_path / "other", registry_url=second)),
        return_exceptions=True,
    )
    refusals = [outcome for outcome in outcomes if outcome is not None]
    assert len(refusals) == 1, refusals
    refused = refusals[0]
    assert isinstance(refused, SettingError), refused
    assert "registry" in str(refused)


def test_of_two_resets_from_two_hosts_one_is_refused(database_url: str, tmp_path: Path) -> None:
    """Each host has a state folder of its own."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with (
        only_reset(tmp_path / "a", database_url),
        pytest.raises(SettingError, match=r"Another contimg emergency reset of the database"),
        only_reset(tmp_path / "b", database_url),
    ):
        pass
    with only_reset(tmp_path / "b", database_url):
        pass
