"""Settings of role, database and environment change no backup and no restoration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from connection_forms import connection_forms
from psycopg.conninfo import conninfo_to_dict

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.errors import SettingError
from absurd_contimg.operations.maintenance import backup, database_programs
from absurd_contimg.operations.maintenance.backup import make_backup, restore_backup

NOW = datetime(2026, 1, 1, tzinfo=UTC)
QUEUE = "q"
PARAMS = {"name": "Zürich ☃ 'quoted' \\ back"}
SETTINGS = (
    ("default_transaction_read_only = on",),
    ("statement_timeout = '20ms'", "debug_parallel_query = regress"),
    ("transaction_timeout = '30ms'",),
    ("client_encoding = 'LATIN1'", "standard_conforming_strings = off"),
    ("default_transaction_isolation = 'serializable'", "default_transaction_deferrable = on"),
    ("search_path = 'nowhere'", "datestyle = 'German'", "bytea_output = 'escape'"),
)
ENVIRONMENT = {
    "PGHOSTADDR": "192.0.2.1",
    "PGPORT": "6000",
    "PGPASSWORD": "other",
    "PGCLIENTENCODING": "LATIN1",
    "PGOPTIONS": "-c default_transaction_read_only=on -c statement_timeout=1",
}


@contextmanager
def settings_of_database(url: str, settings: tuple[str, ...]) -> Iterator[None]:
    with psycopg.connect(url, autocommit=True) as session:
        for setting in settings:
            session.execute(f'alter database "{session.info.dbname}" set {setting}'.encode())
        yield


async def spawn(url: str) -> None:
    async with PostgresBackend(url) as backend:
        await backend.create_queue(QUEUE)
        await backend.spawn_task(QUEUE, "task", PARAMS)


async def require_restored(url: str, folder: Path) -> None:
    """A backup is made, its task is removed, and is there again with its text."""
    registry_url = f"sqlite:///{folder / 'registry.sqlite3'}"
    make_backup(url, registry_url, folder / "backup", NOW)
    async with PostgresBackend(url) as client:
        await client.drop_queue(QUEUE)
    restore_backup(url, registry_url, folder / "backup", force=True)
    async with PostgresBackend(url) as client:
        (task,) = await client.list_tasks(QUEUE)
        history = await client.history(QUEUE, task.task_id)
    assert history.task.params == PARAMS


@pytest.mark.parametrize("program", ["pg_restore", "psql"])
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings[0])
async def test_settings_of_the_database(
    database_url: str,
    tmp_path: Path,
    settings: tuple[str, ...],
    program: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """psql refused to write, and pg_dump ended with a timeout."""
    if program == "psql":
        monkeypatch.setattr(backup, "_TRANSACTION_TIMEOUT_SINCE", 10**9)
    await spawn(database_url)
    with settings_of_database(database_url, settings):
        await require_restored(database_url, tmp_path)


async def test_environment_of_another_database(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await spawn(database_url)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    await require_restored(database_url, tmp_path)


@pytest.mark.parametrize("form", ["service", "several hosts"])
async def test_each_form_of_a_connection_is_passed_on(
    database_url: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The programs got the name of a service, and not the file that defines it."""
    await spawn(database_url)
    environment, forms = connection_forms(database_url, tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    await require_restored(forms[form], tmp_path)


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("aborting because of server version mismatch", "Put pg_dump of"),
        ("unsupported version (1.16) in file header", "Put pg_dump of"),
        ("permission denied for table t", "Grant"),
        ("could not write to file: No space left on device", ""),
    ],
)
def test_a_remedy_is_that_of_its_cause(
    database_url: str, words: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a program said, it was asked for its version and for the user's rights."""
    program = tmp_path / "pg_dump"
    program.write_text(f"#!/bin/sh\necho 'pg_dump: error: {words}' >&2\nexit 1\n")
    program.chmod(0o700)
    monkeypatch.setattr(database_programs, "find_program", lambda _name: str(program))
    with pytest.raises(SettingError) as failed:
        make_backup(database_url, f"sqlite:///{tmp_path / 'r'}", tmp_path / "backup", NOW)
    assert words in failed.value.problem
    assert failed.value.remedy.startswith(remedy)
    assert bool(failed.value.remedy) == bool(remedy)


async def test_environment_that_names_the_database(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The programs went to another server than the commands."""
    await spawn(database_url)
    given = conninfo_to_dict(database_url)
    for name in ("host", "port", "user", "passfile"):
        monkeypatch.setenv(f"PG{name.upper()}", str(given[name]))
    await require_restored(f"postgresql:///{given['dbname']}", tmp_path)
