"""The embedded server: nobody else reaches it, whatever the folder and the environment."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from absurd_contimg.backends.postgres import EmbeddedPostgres
from absurd_contimg.backends.postgres.embedded import EmbeddedPostgresError

_NOBODY = 65534


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(tmp_path / "pg", durable=False) as started:
        yield started


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_socket_and_password_belong_to_one_user(server: EmbeddedPostgres) -> None:
    assert mode(server.folder / "socket") == 0o700
    assert mode(server.folder / "pgpass") == 0o600
    password = (server.folder / "pgpass").read_text().strip().rpartition(":")[2]
    assert len(password) >= 32
    assert password not in server.url()
    assert not [
        line for line in Path("/proc/net/unix").read_text().splitlines() if "@absurd" in line
    ]


def test_without_the_password_nobody_gets_in(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even who can reach the socket."""
    monkeypatch.delenv("PGPASSWORD", raising=False)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(server.url("postgres").partition("&passfile=")[0] + "&passfile=/dev/null")


def test_another_user_of_this_machine_gets_nowhere(server: EmbeddedPostgres) -> None:
    """Root can become another user; for anybody else the password has to be guessed."""
    process = os.fork()
    if process == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(_NOBODY)
                os.setuid(_NOBODY)
            os.environ["PGPASSWORD"] = "guess"
            psycopg.connect(server.url("postgres"))
        except psycopg.OperationalError:
            os._exit(7)
        finally:
            os._exit(8)
    _pid, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 7


def test_a_cluster_that_trusted_everybody_gets_a_password(server: EmbeddedPostgres) -> None:
    """As earlier versions made it; what it holds stays."""
    server.create_database("kept")
    server.stop()
    (server.folder / "data" / "pg_hba.conf").write_text("local all all trust\n")
    (server.folder / "pgpass").unlink()
    server.start()
    with psycopg.connect(server.url("kept")) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(server.url("kept").partition("&passfile=")[0] + "&passfile=/dev/null")


def test_variables_of_another_database_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PGPORT": "6000", "PGHOST": "db", "PGPASSWORD": "other"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PGUSER", "somebody")
    with EmbeddedPostgres(tmp_path / "pg", durable=False) as server:
        psycopg.connect(server.url("postgres")).close()


@pytest.mark.parametrize("name", ["a b", "a$b", "a(b[c", "a;b", "é"])
def test_folders_with_unusual_names_work(tmp_path: Path, name: str) -> None:
    with EmbeddedPostgres(tmp_path / name, durable=False) as server:
        psycopg.connect(server.url("postgres")).close()


@pytest.mark.parametrize("name", ["x" * 100, "a'b", 'a"b', "a,b", "a\\b"])
def test_folders_that_postgres_cannot_take_are_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(EmbeddedPostgresError, match="PIPELINE_STATE_DIR"):
        EmbeddedPostgres(tmp_path / name).start()
    shutil.rmtree(tmp_path / name)
