"""What goes wrong with the registry makes work wait, by a rule, with path and advice."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from other_user import NOBODY, as_user, open_for_others
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from small_disk import mounted
from sqlalchemy import update

from absurd_contimg.backends.postgres import EmbeddedPostgres, sessions
from absurd_contimg.core.evidence import Evidence
from absurd_contimg.core.failures import FailureKind
from absurd_contimg.errors import AwayError, RegistryAwayError
from absurd_contimg.registry import GroupStatus, Registry, database, engines
from absurd_contimg.registry.ingestion import IngestionTables
from absurd_contimg.registry.models import ObservationGroup
from absurd_contimg.registry.trouble import trouble_of_file
from absurd_contimg.workflows.failure_rules import CLASSIFIER


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work waits after the first refusal, and for no lock."""
    monkeypatch.setattr(database, "_PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(engines, "BUSY_SECONDS", 0.2)


def write(registry: Registry) -> None:
    registry.set_group_status("G", GroupStatus.DISCOVERED, "x" * 100_000)


def delete(path: Path) -> None:
    path.unlink()


def truncate_to_nothing(path: Path) -> None:
    os.truncate(path, 0)


def truncate(path: Path) -> None:
    os.truncate(path, 5000)


def overwrite(path: Path) -> None:
    path.write_bytes(b"no database at all" * 5000)


def drop_a_table(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("drop table observation_groups")


def move_the_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


DAMAGE: dict[str, Callable[[Path], None]] = {
    action.__name__: action
    for action in (delete, truncate_to_nothing, truncate, overwrite, drop_a_table, move_the_folder)
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_registry_makes_work_wait(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "state" / "registry.sqlite3"
    registry = Registry(path)
    write(registry)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    DAMAGE[damage](path)
    assert rule_of(registry, path) == "registry-damaged"


def rule_of(registry: Registry, path: Path) -> str:
    """The rule by which writing fails; it makes the work wait, and names the file."""
    with pytest.raises(AwayError) as caught:
        write(registry)
    verdict = CLASSIFIER.classify(Evidence.of(caught.value))
    assert verdict.kind is FailureKind.RESOURCE
    assert verdict.path == str(path)
    assert verdict.advice
    return verdict.rule_id


@pytest.mark.parametrize(
    ("column", "value"),
    [("status", "'later'"), ("ingest_state", "'later'"), ("closed_at", "'no time'")],
)
def test_row_of_another_version_is_told(tmp_path: Path, column: str, value: str) -> None:
    """A state that this version does not know ended the daemon and ``status`` with a traceback."""
    path = tmp_path / "registry.sqlite3"
    registry = Registry(path)
    write(registry)
    with sqlite3.connect(path) as connection:
        connection.execute(f"update observation_groups set {column} = {value}")
    with pytest.raises(
        RegistryAwayError, match=rf"cannot be read: .*row G, column {column}: .* Use the"
    ):
        IngestionTables(registry.database).groups_between("A", "Z")


@pytest.mark.parametrize("error", [
    sqlite3.OperationalError("database is locked"),
    sqlite3.OperationalError("disk I/O error"),
    OSError(errno.ENOLCK, "No locks available"),
])  # fmt: skip
def test_a_mount_without_locks_is_named_where_nobody_holds_one(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite says of it that the database is locked: there was nobody to wait for."""
    path = str(tmp_path / "registry.sqlite3")
    assert "has no file locks" not in str(trouble_of_file(path, sqlite3.OperationalError("locked")))
    monkeypatch.setattr("fcntl.lockf", raising(errno.ENOLCK))
    trouble = trouble_of_file(path, error)
    assert f"The mount of {tmp_path} has no file locks. Mount it with them (NFS:" in trouble.remedy
    assert "put the state folder on a local disk" in trouble.remedy
    assert "fuser" not in trouble.remedy
    assert list(tmp_path.iterdir()) == []


def raising(number: int) -> Callable[..., None]:
    def call(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def test_locked_registry_makes_work_wait(tmp_path: Path) -> None:
    """Another process holds it, as a backup does."""
    path = tmp_path / "registry.sqlite3"
    registry = Registry(path)
    code = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "connection.execute('begin exclusive')\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    assert rule_of(registry, path) == "registry-away"
    process.communicate("")
    write(registry)


def test_registry_is_opened_and_read_while_another_process_writes(registry: Registry) -> None:
    """A rebuild may take a minute; commands that look need not wait for it."""
    write(registry)
    url = str(registry.database._url)
    with registry.database.writing() as session:
        session.execute(update(ObservationGroup).values(reason="changing"))
        started = time.monotonic()
        (group,) = Registry(url).groups()
        assert group.reason == "x" * 100_000
        assert time.monotonic() - started < 5


def fill(path: Path) -> None:
    """Write to the last byte."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_full_disk_makes_work_wait(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk") as disk:
        path = disk / "registry.sqlite3"
        registry = Registry(path)
        fill(disk / "filler")
        assert rule_of(registry, path) == "registry-away"
        with pytest.raises(AwayError, match=r"Its disk is full. Free space on it."):
            write(registry)
        (disk / "filler").unlink()
        write(registry)


def test_read_only_registry_makes_work_wait(tmp_path: Path) -> None:
    """A file system that was remounted read-only after an error."""
    with mounted(tmp_path / "disk") as disk:
        path = disk / "registry.sqlite3"
        registry = Registry(path)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert rule_of(registry, path) == "registry-away"
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        write(registry)


def test_server_that_is_away_makes_work_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry in Postgres; it goes on when the server is back.

    Variables of libpq are named, as of the queue's database: one alone can keep it away.
    """
    server = EmbeddedPostgres(tmp_path / "pg", durable=False)
    with server:
        url = server.create_database("registry")
        registry = Registry(url)
        write(registry)
        server.stop()
        with pytest.raises(AwayError) as caught:
            write(registry)
        verdict = CLASSIFIER.classify(Evidence.of(caught.value))
        assert (verdict.kind, verdict.rule_id) == (FailureKind.RESOURCE, "registry-away")
        monkeypatch.setenv("PGAPPNAME", "other")
        with pytest.raises(AwayError, match=r"Unset .*PGAPPNAME"):
            write(registry)
        server.start()
        write(registry)


def test_session_that_ends_before_its_transaction_begins_makes_work_wait(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its error was psycopg's own: it ended workers, and cost tasks an attempt.

    SQLAlchemy logged a traceback of the rollback, too.
    """
    registry = Registry(database_url)
    connect = sessions.Session.connect

    def connect_and_end(url: str, **options: Any) -> sessions.Session:
        session = connect(url, **options)
        with psycopg.connect(database_url) as other:
            number = session.info.backend_pid
            assert other.execute("select pg_terminate_backend(%s, 5000)", (number,)).fetchone()
        return session

    monkeypatch.setattr(sessions.Session, "connect", connect_and_end)
    for use in (write, lambda registry: registry.groups()):
        with pytest.raises(RegistryAwayError, match="terminating connection") as caught:
            use(registry)
        verdict = CLASSIFIER.classify(Evidence.of(caught.value))
        assert (verdict.kind, verdict.rule_id) == (FailureKind.RESOURCE, "registry-away")
    assert caplog.records == []


@contextlib.contextmanager
def locked_tables(url: str, role: str) -> Iterator[None]:
    with psycopg.connect(url) as holder:
        holder.execute("lock table contimg.observation_groups in access exclusive mode")
        yield


@contextlib.contextmanager
def no_connection_left(url: str, role: str) -> Iterator[None]:
    with psycopg.connect(url) as session:
        session.execute(f"alter role {role} connection limit 0".encode())
    yield


@contextlib.contextmanager
def closed_database(url: str, role: str) -> Iterator[None]:
    name = conninfo_to_dict(url)["dbname"]
    with psycopg.connect(make_conninfo(url, dbname="postgres")) as session:
        session.execute(f"alter database {name} allow_connections false".encode())
    yield


@contextlib.contextmanager
def revoked_rights(url: str, role: str) -> Iterator[None]:
    with psycopg.connect(url) as session:
        session.execute(
            f"revoke insert, update on all tables in schema contimg from {role}".encode()
        )
    yield


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (locked_tables, "A lock on the tables is held by session"),
        (no_connection_left, "alter role NAME connection limit"),
        (closed_database, "allow_connections true"),
        (revoked_rights, "Grant the right"),
    ],
)
def test_trouble_of_the_server_is_named_with_what_to_do(
    database_url: str, trouble: Callable[[str, str], AbstractContextManager[None]], words: str
) -> None:
    """A lock was waited for without a bound; all else was told to look at disk, lock or server."""
    role = f"registry_{os.getpid()}_{trouble.__name__}"
    Registry(database_url).close()
    with psycopg.connect(database_url) as session:
        for statement in (
            f"create role {role} login password 'hidden-word'",
            f"grant usage on schema contimg to {role}",
            f"grant all on all tables in schema contimg to {role}",
            f"grant all on all sequences in schema contimg to {role}",
        ):
            session.execute(statement.encode())
    registry = Registry(database_url.replace("postgres@", f"{role}:hidden-word@", 1))
    with trouble(database_url, role), pytest.raises(AwayError) as caught:
        write(registry)
    text = str(caught.value)
    assert words in text
    assert "\n" not in text
    assert "hidden-word" not in text


def test_short_trouble_is_waited_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the patience nothing is noticed of it."""
    monkeypatch.setattr(database, "_PATIENCE_SECONDS", 5.0)
    registry = Registry(tmp_path / "registry.sqlite3")
    blocker = sqlite3.connect(
        tmp_path / "registry.sqlite3", isolation_level=None, check_same_thread=False
    )
    blocker.execute("begin exclusive")
    monkeypatch.setattr(database.time, "sleep", lambda _seconds: blocker.execute("rollback"))
    started = time.monotonic()
    write(registry)
    assert time.monotonic() - started < 3


def test_what_is_no_file_is_no_registry(tmp_path: Path) -> None:
    """A lock was left beside /dev/null."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(AwayError, match="no regular file"):
        database.Database(pipe)
    assert list(tmp_path.iterdir()) == [pipe]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
@pytest.mark.parametrize("lost", ["folder", "file", "log"])
def test_registry_without_permission_makes_work_wait(tmp_path: Path, lost: str) -> None:
    """A hurried ``chown``: tasks failed for good, and the worker ended."""
    path = tmp_path / "state" / "registry.sqlite3"
    open_for_others(tmp_path)
    os.chown(tmp_path, NOBODY, NOBODY)
    registry = Registry(path)
    write(registry)
    for each in (path.parent, *path.parent.iterdir()):
        os.chown(each, NOBODY, NOBODY)
    if lost == "log":
        path.with_name(f"{path.name}-wal").write_bytes(b"")
    place = {"folder": path.parent, "file": path, "log": path.with_name(f"{path.name}-wal")}[lost]
    os.chown(place, 1, 1)
    place.chmod(0o700 if lost == "folder" else 0o600)
    assert as_user(lambda: rule_of(registry, path)) == "registry-away"
    text = as_user(lambda: write(registry))
    assert text.startswith("RegistryAwayError")
    assert f"{place} belongs to the user daemon" in text
    opening = as_user(lambda: Registry(path))
    assert opening.startswith("RegistryAwayError") or lost == "log"
    os.chown(place, NOBODY, NOBODY)
    assert as_user(lambda: write(registry)) == ""
