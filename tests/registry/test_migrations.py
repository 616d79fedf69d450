"""Registries of earlier versions: migrated once, whole or not at all, and refused if newer."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from small_disk import mounted
from sqlalchemy import inspect, text, update
from sqlalchemy.exc import IntegrityError

from absurd_contimg.errors import RegistryAwayError, RegistryDamagedError, SettingError
from absurd_contimg.registry import GroupStatus, Registry, engines
from absurd_contimg.registry.database import HEAD, Database
from absurd_contimg.registry.migrations import FIRST, known_revisions, migrate
from absurd_contimg.registry.models import MeasurementSetRow, ObservationGroup, Product, SubbandFile
from absurd_contimg.registry.tables import ALL_TABLES, METADATA

SCHEMAS = Path(__file__).parent / "schemas"
ROWS = (SCHEMAS / "rows.sql").read_text()


@pytest.fixture(params=["sqlite", "postgres"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a registry may be made."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'registry.sqlite3'}"
    return str(request.getfixturevalue("database_url"))


@pytest.fixture
def old_url(new_url: str) -> str:
    """A registry as the first version left it, with rows in each table."""
    if new_url.startswith("sqlite"):
        build_first_version(Path(new_url.removeprefix("sqlite:///")))
    else:
        with psycopg.connect(new_url) as connection:
            connection.execute((SCHEMAS / "version_1_postgres.sql").read_text())
            connection.execute("set search_path to contimg")
            connection.execute(ROWS)
    return new_url


def build_first_version(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.executescript((SCHEMAS / "version_1_sqlite.sql").read_text())
        connection.executescript(ROWS)
    connection.close()


def tables(url: str) -> dict[str, Any]:
    """Each table with its columns, keys and indices, as the database reports them."""
    engine = Database(url)._engine
    with engine.connect() as connection:
        inspector = inspect(connection)
        schema = "contimg" if engine.dialect.name == "postgresql" else None
        return {
            name: [
                sorted(map(plain, columns), key=str)
                for columns in (
                    inspector.get_columns(name, schema),
                    inspector.get_foreign_keys(name, schema),
                    inspector.get_indexes(name, schema),
                    [inspector.get_pk_constraint(name, schema)],
                )
            ]
            for name in inspector.get_table_names(schema)
        }


def plain(column: Any) -> dict[str, str]:
    return {name: str(value) for name, value in column.items()}


def differences(url: str) -> list[Any]:
    """How the tables differ from the models, by Alembic."""
    with Database(url)._engine.connect() as connection:
        connection.execution_options(schema_translate_map=None)
        if connection.dialect.name == "postgresql":
            connection.execute(text("set search_path to contimg"))
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, METADATA))


def test_migrated_registry_has_the_tables_of_the_models(old_url: str) -> None:
    Registry(old_url)
    assert differences(old_url) == []


def test_new_registry_has_the_tables_of_a_migrated_one(
    old_url: str, new_database: Callable[[], str], tmp_path: Path
) -> None:
    """Columns, keys and indices, by the database's own word."""
    is_sqlite = old_url.startswith("sqlite")
    new_url = f"sqlite:///{tmp_path / 'new'}" if is_sqlite else new_database()
    assert tables(old_url) == tables(new_url)
    assert differences(new_url) == []


def test_scripts_make_the_tables_of_the_models(tmp_path: Path) -> None:
    """The first one makes what the first version made: nothing else runs it."""
    engine = engines.make_engine(path := tmp_path / "registry.sqlite3")
    with engine.begin() as connection:
        migrate(connection, stamp=None)
    assert differences(f"sqlite:///{path}") == []


def test_rows_survive_a_migration(old_url: str) -> None:
    """Earlier groups are closed and their files whole; all that was known still is."""
    registry = Registry(old_url, output_dir=Path("/out"))
    imaged, quarantined = registry.groups()
    assert imaged.status is GroupStatus.IMAGED
    assert quarantined.reason == "all data are flagged"
    assert len(imaged.files) == 1
    groups = registry.rows(ObservationGroup)
    assert [(row["ingest_state"], row["files_version"]) for row in groups] == [("closed", 1)] * 2
    assert [row["mid_mjd"] for row in groups] == [61065.901, None]
    assert [row["declination_deg"] for row in groups] == [16.0, None]
    assert {row["state"] for row in registry.rows(SubbandFile)} == {"whole"}
    assert [(row["key"], row["size_bytes"]) for row in registry.rows(Product)] == [
        ("k1", 5_000_000_000), ("k2", 10), ("k3", 10),
    ]  # fmt: skip
    assert [len(registry.rows(table)) for table in ALL_TABLES[-8:]] == [1, 1, 1, 1, 1, 0, 0, 3]
    with pytest.raises(IntegrityError), registry.database.writing() as session:
        session.execute(update(MeasurementSetRow).values(product_key="nothing"))


TOGETHER = """
import os, sys, time
from pathlib import Path
from sqlalchemy import Engine, event
from absurd_contimg.registry import Registry, migrations, tables

marks = Path(sys.argv[2])

def statement(_connection, _cursor, text, *_rest):
    if text.startswith("ALTER TABLE") and not (marks / "altering").exists():
        (marks / "altering").touch()
        while len(list(marks.glob("open-*"))) < 2:
            time.sleep(0.01)
        time.sleep(0.5)

event.listen(Engine, "before_cursor_execute", statement)
children = []
for number in range(2):
    children.append(os.fork())
    if children[-1] == 0:
        (marks / f"open-{number}").touch()
        Registry(sys.argv[1])
        os._exit(0)
print([os.waitpid(child, 0)[1] for child in children])
"""


def test_two_processes_may_migrate_at_once(old_url: str, tmp_path: Path) -> None:
    """One stops in the middle until the other has begun too."""
    (marks := tmp_path / "marks").mkdir()
    assert run_program(TOGETHER, old_url, str(marks)) == "[0, 0]\n"
    assert (marks / "altering").exists()
    assert differences(old_url) == []


def run_program(*arguments: str) -> str:
    program = [sys.executable, "-c", *arguments]
    return subprocess.run(program, capture_output=True, text=True, check=True).stdout


KILLING = """
import os, signal, sys
from sqlalchemy import Engine, event
from absurd_contimg.registry import Registry, migrations, tables

count = int(sys.argv[2])

def statement(*arguments):
    global count
    count -= 1
    if count == 0:
        os.kill(os.getpid(), signal.SIGKILL)

kills = 0
while True:
    child = os.fork()
    if child == 0:
        event.listen(Engine, "before_cursor_execute", statement)
        Registry(sys.argv[1])
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
    kills += 1
    count += int(sys.argv[3])
print(kills)
"""


def test_kill_in_the_middle_leaves_a_migration_that_can_be_repeated(old_url: str) -> None:
    """A process is killed before one statement after the other, until none is left."""
    assert int(run_program(KILLING, old_url, "3", "9")) > 5
    assert differences(old_url) == []
    assert len(Registry(old_url).rows(Product)) == 3


def test_newer_version_is_refused(new_url: str) -> None:
    Registry(new_url).close()
    with Database(new_url).writing() as session:
        table = "alembic_version" if new_url.startswith("sqlite") else "contimg.alembic_version"
        session.execute(text(f"update {table} set version_num = '0099'"))
    with pytest.raises(SettingError, match="version 0099.*up to " + HEAD):
        Registry(new_url)


def test_tables_of_another_program_are_refused(tmp_path: Path) -> None:
    """And left as they are."""
    path = tmp_path / "other.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table products (id integer)")
    with pytest.raises(SettingError, match=r"is no registry: .* \(products\).*PRODUCTS_DB"):
        Registry(path)
    with closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("select name from sqlite_master").fetchall()
    assert tables == [("products",)]


def test_first_version_refuses_a_migrated_registry(old_url: str) -> None:
    """Workers of the first version compare this number with 1."""
    registry = Registry(old_url)
    assert [row["version"] for row in registry.rows(ALL_TABLES[0])] == [2]


def test_head_is_the_newest_script() -> None:
    assert known_revisions()[0] == HEAD
    assert known_revisions()[-1] == FIRST


def test_rows_without_their_parents_are_damage(tmp_path: Path) -> None:
    """They are refused at migration, and the registry is left as it was."""
    path = tmp_path / "registry.sqlite3"
    build_first_version(path)
    with sqlite3.connect(path) as connection:
        connection.execute("update images set product_key = 'nothing'")
    connection.close()
    with pytest.raises(RegistryDamagedError, match="without the rows"):
        Registry(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("select version from registry_schema").fetchall() == [(1,)]


def test_truncated_registry_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "registry.sqlite3"
    build_first_version(path)
    os.truncate(path, 9000)
    with pytest.raises(RegistryDamagedError, match=r"registry\.sqlite3"):
        Registry(path)


def test_full_disk_leaves_a_migration_that_can_be_repeated(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk") as disk:
        path = disk / "registry.sqlite3"
        build_first_version(path)
        with (disk / "filler").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        with pytest.raises(RegistryAwayError, match=r"registry\.sqlite3"):
            Registry(path)
        (disk / "filler").unlink()
        Registry(path)
        assert differences(f"sqlite:///{path}") == []


def test_read_only_registry_is_away(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk") as disk:
        path = disk / "registry.sqlite3"
        build_first_version(path)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(RegistryAwayError, match=r"registry\.sqlite3"):
            Registry(path)
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


def test_wheel_holds_the_scripts(tmp_path: Path) -> None:
    """Alembic loads them by path, so nothing imports them; nor the units of systemd."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    build_first_version(path := tmp_path / "registry.sqlite3")
    code = (
        "import sys; import absurd_contimg.registry as registry; registry.Registry(sys.argv[1]); "
        "print(registry.__file__)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        check=True,
        capture_output=True,
        text=True,
    )
    assert ran.stdout.startswith(str(tmp_path))
    assert list(tmp_path.glob("site/absurd_contimg/operations/deploy/units/*.service"))
    assert differences(f"sqlite:///{path}") == []
