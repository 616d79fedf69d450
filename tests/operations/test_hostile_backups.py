"""A backup that is not one destroys nothing: a refused restoration leaves all as it was."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from typer.testing import CliRunner

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.backends.postgres.schema import check_schema, install_schema
from absurd_contimg.core.errors import SchemaMissing
from absurd_contimg.errors import MissingInputError, RegistryAwayError, SettingError, UserError
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.maintenance import backup, restoration_guard
from absurd_contimg.operations.maintenance.backup import make_backup, restore_backup
from absurd_contimg.operations.maintenance.schema_replacement import what_would_go
from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.registry.database import HEAD, Database

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def sign(folder: Path) -> None:
    """Note the digests as they are now: an attacker who changes a file can do so."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    files = {
        name: hashlib.blake2b((folder / name).read_bytes(), digest_size=20).hexdigest()
        for name in names
        if name != "backup.json"
    }
    (folder / "backup.json").write_text(
        json.dumps({"format": 1, "created_at": "2026-01-01", "files": files})
    )


def name_no_file(folder: Path) -> None:
    (folder / "backup.json").write_text('{"format": 1, "created_at": "", "files": {}}')


def nest_the_note(folder: Path) -> None:
    (folder / "backup.json").write_text("[" * 100_000)


def pipe_for_the_note(folder: Path) -> None:
    (folder / "backup.json").unlink()
    os.mkfifo(folder / "backup.json")


def digests_that_are_no_text(folder: Path) -> None:
    (folder / "backup.json").write_text(
        '{"format": 1, "created_at": "x", "files": {"queue.dump": [1], "a\\u0000b": null}}'
    )


def truncate_the_queue(folder: Path) -> None:
    path = folder / "queue.dump"
    os.truncate(path, path.stat().st_size // 2)
    sign(folder)


def garbage_for_the_queue(folder: Path) -> None:
    (folder / "queue.dump").write_bytes(b"PGDMP" + bytes(range(256)) * 50)
    sign(folder)


def dump_of_another_schema(folder: Path) -> None:
    """pg_restore takes it, and makes no table of Absurd's."""
    (folder / "other" / "queue.dump").replace(folder / "queue.dump")
    sign(folder)


def garbage_for_the_registry(folder: Path) -> None:
    (folder / "registry.sqlite3").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    sign(folder)


def registry_without_tables(folder: Path) -> None:
    (folder / "registry.sqlite3").unlink()
    with closing(sqlite3.connect(folder / "registry.sqlite3")) as connection:
        connection.execute("create table other (x)")
    sign(folder)


def damage_the_registry(folder: Path) -> None:
    """In the middle, so that its header is right."""
    path = folder / "registry.sqlite3"
    data = bytearray(path.read_bytes())
    data[4096:8192] = b"\xff" * 4096
    path.write_bytes(data)
    sign(folder)


def change_the_registry(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / "registry.sqlite3")) as connection:
        connection.executescript(statement)
    sign(folder)


def registry_of_a_newer_version(folder: Path) -> None:
    """It was restored, and then every command refused it."""
    change_the_registry(folder, "update alembic_version set version_num = '9999'")


def view_in_the_place_of_a_table(folder: Path) -> None:
    change_the_registry(folder, "drop table windows; create view windows as select 1 as x")


ATTACKS = (
    *(name_no_file, nest_the_note, pipe_for_the_note, digests_that_are_no_text),
    *(truncate_the_queue, garbage_for_the_queue, dump_of_another_schema),
    *(garbage_for_the_registry, registry_without_tables, damage_the_registry),
    *(registry_of_a_newer_version, view_in_the_place_of_a_table),
)


def tasks(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("select count(*) from absurd.t_q").fetchone()
        return int(row[0]) if row else 0


@pytest.fixture
def spawned_url(database_url: str) -> str:
    """A database with three tasks."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("select absurd.create_queue('q')")
        for _ in range(3):
            connection.execute("select absurd.spawn_task('q', 'task', '{}')")
    return database_url


def test_what_is_no_backup_destroys_nothing(spawned_url: str, tmp_path: Path) -> None:
    """With ``--force``; the error is a sentence."""
    registry_url = f"sqlite:///{tmp_path / 'registry.sqlite3'}"
    registry = Registry(registry_url)
    registry.set_group_status("G", GroupStatus.DISCOVERED)
    for attack in ATTACKS:
        folder = tmp_path / attack.__name__
        make_backup(spawned_url, registry_url, folder, NOW)
        (folder / "other").mkdir()
        if attack is dump_of_another_schema:
            backup.run_program("pg_dump", spawned_url, "--format=custom", "--schema=public",
                        f"--file={folder / 'other' / 'queue.dump'}")  # fmt: skip
        attack(folder)
        with pytest.raises(UserError):
            restore_backup(spawned_url, registry_url, folder, force=True)
        assert tasks(spawned_url) == 3, attack.__name__
        assert [group.group_id for group in registry.groups()] == ["G"], attack.__name__
    registry.close()


def test_a_restoration_that_fails_in_between_changes_nothing(
    spawned_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program is missing, or the disk of the server is full, when the second part is loaded."""
    Registry(spawned_url).close()
    folder = tmp_path / "b"
    make_backup(spawned_url, spawned_url, folder, NOW)
    with psycopg.connect(spawned_url, autocommit=True) as connection:
        connection.execute("select absurd.spawn_task('q', 'task', '{}')")
    run: Callable[..., None] = backup.run_program

    def fail(program: str, url: str | None, *arguments: str) -> None:
        if arguments[-1].endswith("queue.dump"):
            raise KeyboardInterrupt
        run(program, url, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(backup, "run_program", fail)
        with pytest.raises(KeyboardInterrupt):
            restore_backup(spawned_url, spawned_url, folder, force=True)
    assert tasks(spawned_url) == 4
    restore_backup(spawned_url, spawned_url, folder, force=True)
    assert tasks(spawned_url) == 3
    with psycopg.connect(spawned_url) as connection:
        left = connection.execute("select nspname from pg_namespace where nspname like '%before%'")
        assert left.fetchall() == []


def test_a_site_that_was_never_used_gets_no_database(tmp_path: Path) -> None:
    """An empty one was left, and running, before it was refused for its missing schema."""
    clean = {key: None for key in os.environ if key.startswith(("ABSURD_", "PIPELINE_"))}
    options = [f"--output-dir={tmp_path}", f"--state-dir={tmp_path / 'state'}"]
    for command in (["backup"], ["maintenance", "vacuum"]):
        refused = CliRunner(env=clean).invoke(app, [*options, *command])
        assert isinstance(refused.exception, MissingInputError), (command, refused.output)
        assert "There is no database in" in str(refused.exception)
        assert not (tmp_path / "state").exists()


def test_a_misspelt_backup_makes_no_database(tmp_path: Path) -> None:
    clean = {key: None for key in os.environ if key.startswith(("ABSURD_", "PIPELINE_"))}
    options = [f"--output-dir={tmp_path}", f"--state-dir={tmp_path / 'state'}"]
    refused = CliRunner(env=clean).invoke(app, [*options, "restore", str(tmp_path / "none")])
    assert isinstance(refused.exception, UserError), refused.output
    assert not (tmp_path / "state").exists()


def test_a_restoration_is_alone(
    spawned_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at once ended in tracebacks, or the second put the old queue back after the first."""
    registry = f"sqlite:///{tmp_path / 'registry.sqlite3'}"
    folder = tmp_path / "b"
    make_backup(spawned_url, registry, folder, NOW)
    with psycopg.connect(spawned_url, autocommit=True) as connection:
        connection.execute("select absurd.spawn_task('q', 'task', '{}')")
    restore, dump = backup._restore, backup._dump
    monkeypatch.setattr(restoration_guard, "_PATIENCE_MS", 1)

    def restore_beside_others(url: str, version: int, source: Path, left_out: Any) -> None:
        with pytest.raises(SettingError, match=r"Another restoration of .* is under way"):
            restore_backup(spawned_url, registry, folder, force=True)
        with psycopg.connect(spawned_url) as connection:  # what a backup looks for is there
            connection.execute("create schema absurd")
        with pytest.raises(SettingError, match="Another restoration"):
            make_backup(spawned_url, registry, tmp_path / "c", NOW)
        with psycopg.connect(spawned_url) as connection:
            connection.execute("drop schema absurd")
        restore(url, version, source, left_out)

    def dump_beside_others(url: str, target: Path) -> None:
        with pytest.raises(SettingError, match=r"Another backup of the database .* is under way"):
            restore_backup(spawned_url, registry, folder, force=True)
        dump(url, target)

    with monkeypatch.context() as patch:
        patch.setattr(backup, "_restore", restore_beside_others)
        restore_backup(spawned_url, registry, folder, force=True)
    assert tasks(spawned_url) == 3
    monkeypatch.setattr(backup, "_dump", dump_beside_others)
    make_backup(spawned_url, registry, tmp_path / "d", NOW)


def test_what_a_killed_restoration_has_started_holds_its_lock(
    spawned_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pg_restore goes on for a while without it."""
    registry = f"sqlite:///{tmp_path / 'registry.sqlite3'}"
    folder = tmp_path / "b"
    make_backup(spawned_url, registry, folder, NOW)
    program = tmp_path / "pg_restore"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nkill -9 $PPID\nexec sleep 60\n")
    program.chmod(0o700)
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from absurd_contimg.operations.maintenance import backup, database_programs\n"
        "database_programs.find_program = lambda _: sys.argv[4]\n"
        "backup.restore_backup(sys.argv[1], sys.argv[2], Path(sys.argv[3]), force=True)\n"
    )
    command = [sys.executable, "-c", code, spawned_url, registry, str(folder), str(program)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # what it leaves goes with the test
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    with monkeypatch.context() as patch:
        patch.setattr(restoration_guard, "_PATIENCE_MS", 1)
        with pytest.raises(SettingError, match="is under way"):
            restore_backup(spawned_url, registry, folder, force=True)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    restore_backup(spawned_url, registry, folder, force=True)
    assert tasks(spawned_url) == 3


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_restoration_that_was_killed_is_told_and_no_empty_queue_is_made(
    spawned_url: str, tmp_path: Path, moment: str
) -> None:
    """Its process group is killed, as by a power cut, before or after the queue of the backup is
    loaded. The schema is aside then, and the registry the one from before."""
    registry = f"sqlite:///{tmp_path / 'registry.sqlite3'}"
    Registry(registry).close()
    folder = tmp_path / "b"
    make_backup(spawned_url, registry, folder, NOW)
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from absurd_contimg.operations.maintenance import backup\n"
        "load = backup._restore if sys.argv[4] == 'after' else lambda *_: None\n"
        "backup._restore = lambda *a: (load(*a), os.kill(os.getpid(), signal.SIGKILL))\n"
        "backup.restore_backup(sys.argv[1], sys.argv[2], Path(sys.argv[3]), force=True)\n"
    )
    command = [sys.executable, "-c", code, spawned_url, registry, str(folder), moment]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # what it leaves goes with the test
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    with pytest.raises(
        SchemaMissing, match=r"restoration of a backup is under way or was interrupted"
    ):
        asyncio.run(PostgresBackend(spawned_url).open())
    for look in (install_schema, check_schema):
        with pytest.raises(
            SchemaMissing, match=r"restoration of a backup is under way or was interrupted"
        ):
            look(spawned_url)
    restore_backup(spawned_url, registry, folder, force=True)
    check_schema(spawned_url)
    assert tasks(spawned_url) == 3


def test_a_registry_of_a_newer_version_in_postgres_is_refused(
    spawned_url: str, tmp_path: Path
) -> None:
    Registry(spawned_url).close()
    with psycopg.connect(spawned_url, autocommit=True) as connection:
        connection.execute("update contimg.alembic_version set version_num = '9999'")
        make_backup(spawned_url, spawned_url, tmp_path / "b", NOW)
        connection.execute("update contimg.alembic_version set version_num = %s", (HEAD,))
    with pytest.raises(UserError, match="has tables of version 9999"):
        restore_backup(spawned_url, spawned_url, tmp_path / "b", force=True)
    assert tasks(spawned_url) == 3
    Registry(spawned_url).close()


def test_a_backup_of_an_older_server_is_restored(
    spawned_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server does not know ``transaction_timeout``, which every pg_restore since 17 sets.

    Text of the same letters in a row stays.
    """
    monkeypatch.setattr(backup, "_TRANSACTION_TIMEOUT_SINCE", 10**9)
    text = "SET transaction_timeout = 0;"
    with psycopg.connect(spawned_url, autocommit=True) as connection:
        connection.execute("select absurd.spawn_task('q', %s, '{}')", (text,))
    registry_url = f"sqlite:///{tmp_path / 'registry.sqlite3'}"
    folder = tmp_path / "b"
    make_backup(spawned_url, registry_url, folder, NOW)
    ran: list[tuple[str, ...]] = []
    run: Callable[..., None] = backup.run_program

    def look(program: str, url: str | None, *arguments: str) -> None:
        if program == "psql":
            script = Path(arguments[-1].removeprefix("--file="))
            lines = script.read_text().splitlines()
            ran.append(tuple(line for line in lines if "transaction_timeout" in line))
        run(program, url, *arguments)

    monkeypatch.setattr(backup, "run_program", look)
    restore_backup(spawned_url, registry_url, folder, force=True)
    assert tasks(spawned_url) == 4
    ((header, row, *_),) = ran
    assert header == "--  transaction_timeout = 0;"
    assert text in row


@pytest.mark.parametrize("program", ["pg_restore", "psql"])
def test_a_trigger_with_a_function_of_another_schema_keeps_nothing_from_a_new_database(
    program: str,
    spawned_url: str,
    new_database: Callable[[], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was in the backup, and the restoration ended at it: the schema dba does not exist."""
    if program == "psql":
        monkeypatch.setattr(backup, "_TRANSACTION_TIMEOUT_SINCE", 10**9)
    with psycopg.connect(spawned_url, autocommit=True) as connection:
        for statement in (
            "create schema dba",
            "create function dba.note() returns trigger language plpgsql as $$begin return new; "
            "end$$",
            'create trigger "its %% (name)" after insert on absurd.t_q for each row '
            "execute function dba.note()",
            """comment on trigger "its %% (name)" on absurd.t_q is 'TRIGGER of dba'""",
        ):
            connection.execute(statement.replace("%%", "%").encode())
    folder, registry = tmp_path / "b", f"sqlite:///{tmp_path / 'registry.sqlite3'}"
    (statement,) = make_backup(spawned_url, registry, folder, NOW).left_out_statements
    assert re.match(r'CREATE TRIGGER "its % \(name\)" .* dba\.note\(\);', statement)
    other = new_database()
    restored = restore_backup(other, registry, folder, force=True)
    assert restored.backup.left_out_statements == [statement]
    assert tasks(other) == 3
    restore_backup(spawned_url, registry, folder, force=True)
    with psycopg.connect(spawned_url, autocommit=True) as connection:
        connection.execute(statement.encode())
    note = json.loads((folder / "backup.json").read_text())
    note.pop("left_out")  # as an earlier version made it
    (folder / "backup.json").write_text(json.dumps(note))
    with pytest.raises(SettingError, match='"dba" does not exist') as refused:
        restore_backup(other, registry, folder, force=True)
    assert refused.value.remedy.startswith("The backup needs what was made by hand")
    assert refused.value.remedy.endswith("contimg restore again, and no contimg db init.")
    assert tasks(other) == 3


DEPENDENTS = {
    "create view reports.v as select * from absurd.t_q": "view reports.v",
    "create materialized view reports.m as select * from absurd.t_q": "materialized view reports.m",
    "create table reports.notes (task uuid references absurd.t_q)": "on table reports.notes",
    "create table reports.of_tasks (task absurd.t_q)": "table reports.of_tasks",
    "create publication copies for table absurd.t_q": "in publication copies",
}


@pytest.mark.parametrize("statement", DEPENDENTS)
def test_what_others_built_on_the_tables_is_not_dropped(
    spawned_url: str, tmp_path: Path, statement: str
) -> None:
    """Removing the old tables removed it too, without a word."""
    registry = f"sqlite:///{tmp_path / 'registry.sqlite3'}"
    make_backup(spawned_url, registry, tmp_path / "b", NOW)
    with psycopg.connect(spawned_url, autocommit=True) as connection:
        connection.execute("select absurd.spawn_task('q', 'task', '{}')")
        connection.execute("create schema reports")
        connection.execute(statement.encode())
        for force in (False, True):
            with pytest.raises(SettingError, match=DEPENDENTS[statement]) as refused:
                restore_backup(spawned_url, registry, tmp_path / "b", force=force)
            assert "make them again" in str(refused.value)
        assert tasks(spawned_url) == 4
        if "publication" in statement:
            connection.execute("drop publication copies")
        connection.execute("drop schema reports cascade")
    restore_backup(spawned_url, registry, tmp_path / "b", force=True)
    assert tasks(spawned_url) == 3


@pytest.fixture
def role(spawned_url: str) -> Iterator[str]:
    """A role that can log in, and has no right."""
    with psycopg.connect(spawned_url, autocommit=True) as connection:
        connection.execute("create role grafana login password 'grafana'")
        yield "grafana"
        connection.execute("drop owned by grafana cascade")
        connection.execute("drop role grafana")


def test_rights_that_go_are_named_before_and_after(
    spawned_url: str, tmp_path: Path, role: str
) -> None:
    """On schema, tables and columns; the statements give them back."""
    Registry(spawned_url).close()
    make_backup(spawned_url, spawned_url, tmp_path / "b", NOW)
    rights = (
        f"grant usage on schema absurd to {role};",
        f"grant insert, select on table absurd.t_q to {role};",
        f"grant select (task_id) on table absurd.r_q to {role};",
        f"grant select on table contimg.products to {role} with grant option;",
    )
    with psycopg.connect(spawned_url, autocommit=True) as connection:
        for right in rights:
            connection.execute(right.encode())
    with pytest.raises(SettingError, match="absurd: rights of grafana on r_q, t_q, the schema"):
        restore_backup(spawned_url, spawned_url, tmp_path / "b")
    for _ in range(2):
        restored = restore_backup(spawned_url, spawned_url, tmp_path / "b", force=True)
        assert sorted(restored.lost_grants) == sorted(rights)
        with psycopg.connect(spawned_url, autocommit=True) as connection:
            for grant in restored.lost_grants:
                connection.execute(grant.encode())
    restore_backup(spawned_url, spawned_url, tmp_path / "b", force=True)
    assert restore_backup(spawned_url, spawned_url, tmp_path / "b", force=True).lost_grants == ()


def test_the_command_shows_how_lost_rights_and_triggers_are_made_again(
    spawned_url: str, tmp_path: Path, role: str
) -> None:
    clean = {key: None for key in os.environ if key.startswith(("ABSURD_", "PIPELINE_"))}
    options = [f"--output-dir={tmp_path / 'products'}", f"--database-url={spawned_url}"]
    folder = str(tmp_path / "b")
    right = f"grant select on table absurd.t_q to {role};"
    with psycopg.connect(spawned_url, autocommit=True) as connection:
        connection.execute(right.encode())
        connection.execute(
            "create function public.note() returns trigger language plpgsql as "
            "$$begin return new; end$$"
        )
        trigger = "TRIGGER note AFTER INSERT ON absurd.t_q FOR EACH ROW EXECUTE FUNCTION note();"
        connection.execute(f"create {trigger}".encode())
    runner = CliRunner(env=clean)
    saved = runner.invoke(app, [*options, "backup", folder])
    assert saved.exit_code == 0, saved.exception
    restored = runner.invoke(app, [*options, "restore", folder, "--force", "--all-queues"])
    assert restored.exit_code == 0, restored.exception
    assert right in restored.output.splitlines()
    again = f"CREATE {trigger}".replace(" note()", " public.note()")
    for output in (saved.output, restored.output):
        assert again in output.splitlines(), output


def test_a_table_of_another_role_is_named_with_the_missing_right(
    spawned_url: str, tmp_path: Path, role: str
) -> None:
    """The restoration ended in a traceback, and the backup said that tables are locked."""
    registry = f"sqlite:///{tmp_path / 'registry.sqlite3'}"
    make_backup(spawned_url, registry, tmp_path / "b", NOW)
    with psycopg.connect(spawned_url, autocommit=True) as connection:
        connection.execute(f"grant all on schema absurd to {role}".encode())
        for kind in ("tables", "functions", "sequences"):
            connection.execute(f"grant all on all {kind} in schema absurd to {role}".encode())
        connection.execute("create table absurd.dba_notes (x int)")
    limited = make_conninfo(spawned_url, user=role, password=role)
    with pytest.raises(SettingError, match=r"select on absurd\.dba_notes of role") as refused:
        make_backup(limited, registry, tmp_path / "c", NOW)
    assert "locked" not in str(refused.value)
    with pytest.raises(SettingError, match=r"delete on absurd\.dba_notes of role"):
        restore_backup(limited, registry, tmp_path / "b", force=True)
    with psycopg.connect(spawned_url, autocommit=True) as connection:
        connection.execute("drop table absurd.dba_notes")
    make_backup(limited, registry, tmp_path / "c", NOW)
    with pytest.raises(SettingError, match="must be owner of schema absurd"):
        restore_backup(limited, registry, tmp_path / "b", force=True)
    assert tasks(spawned_url) == 3


def test_only_a_lock_is_called_a_lock(spawned_url: str, tmp_path: Path, role: str) -> None:
    """pg_dump may not use the schema: it says so at its first lock."""
    registry = f"sqlite:///{tmp_path / 'registry.sqlite3'}"
    with psycopg.connect(spawned_url, autocommit=True) as connection:
        connection.execute(f"grant select on all tables in schema absurd to {role}".encode())
    limited = make_conninfo(spawned_url, user=role, password=role)
    with pytest.raises(UserError, match="permission denied for schema absurd"):
        make_backup(limited, registry, tmp_path / "b", NOW)


def test_a_table_that_is_not_of_absurd_is_named_before_it_goes(
    spawned_url: str, tmp_path: Path
) -> None:
    registry = f"sqlite:///{tmp_path / 'registry.sqlite3'}"
    with psycopg.connect(spawned_url, autocommit=True) as connection:
        connection.execute("create table absurd.dba_notes as select 1 as x")
        assert what_would_go(spawned_url, registry) == [
            "absurd: 1 row of dba_notes",
            "absurd: 3 rows of t_q",
        ]


def test_what_is_no_table_is_named_before_it_goes(database_url: str, tmp_path: Path) -> None:
    """Also where nothing else is: a foreign table went without a word, and without --force."""
    registry = f"sqlite:///{tmp_path / 'registry.sqlite3'}"
    make_backup(database_url, registry, tmp_path / "b", NOW)
    with psycopg.connect(database_url, autocommit=True) as connection:
        assert what_would_go(database_url, registry) == []
        for statement in (
            "create extension file_fdw",
            "create server files foreign data wrapper file_fdw",
            "create foreign table absurd.weather (a text) server files"
            " options (filename '/dev/null')",
            "create view absurd.tonight as select 1",
            "create materialized view absurd.week as select 1",
            "create sequence absurd.numbers",
            "create type absurd.verdict as enum ('good')",
            "create table absurd.counted (a serial)",
            "create function absurd.night() returns int language sql as 'select 1'",
        ):
            connection.execute(statement)
    with pytest.raises(SettingError, match="the foreign table weather; absurd: the function night"):
        restore_backup(database_url, registry, tmp_path / "b")
    assert what_would_go(database_url, registry) == [
        "absurd: the foreign table weather",
        "absurd: the function night",
        "absurd: the materialized view week",
        "absurd: the sequence numbers",
        "absurd: the type verdict",
        "absurd: the view tonight",
    ]


def test_no_registry_is_made_beside_a_restoration(spawned_url: str) -> None:
    """An empty one was in the way of that of the backup, or took the place of the one before."""
    Database(spawned_url).close()
    with psycopg.connect(spawned_url, autocommit=True) as session:
        session.execute("alter schema contimg rename to contimg_before_restoration")
        with pytest.raises(RegistryAwayError, match=r"restoration of a backup is under way"):
            Database(spawned_url)
        made = session.execute("select to_regnamespace('contimg') is not null").fetchone()
        assert made == (False,)
