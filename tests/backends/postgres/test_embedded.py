"""The embedded server: nobody else reaches it, whatever the folder and the environment."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import re
import resource
import select
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from other_user import NOBODY, as_user, open_for_others
from small_disk import mounted, read_only_view

from absurd_contimg.backends.postgres import (
    EmbeddedPostgres,
    PostgresBackend,
    server_lock,
    server_process,
    server_programs,
)
from absurd_contimg.backends.postgres.schema import install_schema
from absurd_contimg.backends.postgres.server_programs import EmbeddedPostgresError
from absurd_contimg.backends.postgres.sessions import Session
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a server that all tests of this module use, stop and kill."""
    folder = tmp_path_factory.mktemp("site") / "pg"
    yield folder
    EmbeddedPostgres(folder, durable=False).stop("immediate")


@pytest.fixture
def server(site: Path) -> Iterator[EmbeddedPostgres]:
    started = EmbeddedPostgres(site, durable=False).start()
    yield started
    started.release()


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

    def guess() -> None:
        os.environ["PGPASSWORD"] = "guess"
        psycopg.connect(server.url("postgres"))

    assert as_user(guess).startswith("OperationalError: ")


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
        Session.connect(server.url("postgres")).close()


@pytest.mark.parametrize("name", ["~a b", "$a`b`&|!", "a(b[c]{*?}", "-a;b<c>#%41", "é☃ = @:"])
def test_folders_with_unusual_names_work(name: str) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="e-") as folder,  # a short path, as a socket needs
        EmbeddedPostgres(Path(folder, name), durable=False) as server,
    ):
        psycopg.connect(server.url("postgres")).close()


@pytest.mark.parametrize(
    "name",
    ["x" * 100, "a'b", 'a"b', "a,b", "a\\b", "a\nb", "a\tb", "a\x1bb", os.fsdecode(b"a\xffb")],
)
def test_folders_that_postgres_cannot_take_are_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(EmbeddedPostgresError, match="PIPELINE_STATE_DIR"):
        EmbeddedPostgres(tmp_path / name).start()
    assert not (tmp_path / name).exists()


def kill(server: EmbeddedPostgres) -> int:
    """Kill the postmaster; its number, once that process has ended.

    Not once no server runs: a worker may have started another one by then.
    """
    number = int((server.folder / "data" / "postmaster.pid").read_text().split()[0])
    process = os.pidfd_open(number)
    signal.pidfd_send_signal(process, signal.SIGKILL)
    ended, _, _ = select.select([process], [], [], 10)
    os.close(process)
    assert ended
    return number


def put_number(server: EmbeddedPostgres, number: int) -> None:
    """Let the file of the ended server name another process."""
    path = server.folder / "data" / "postmaster.pid"
    path.write_text(f"{number}\n{path.read_text().partition(chr(10))[2]}")


def test_a_stranger_with_the_servers_number_is_left_alone(server: EmbeddedPostgres) -> None:
    """Neither signalled by a stop nor taken for the server by a start."""
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute("set synchronous_commit = on")
        connection.execute("create table kept (x int)")
    kill(server)
    stranger = subprocess.Popen(["sleep", "60"], cwd=server.folder)
    try:
        put_number(server, stranger.pid)
        assert not server.is_running()
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 10, "it waited for the stranger"
        server.start()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
    with psycopg.connect(server.url("postgres")) as connection:
        assert connection.execute("select count(*) from kept").fetchone() == (0,)


@pytest.mark.parametrize("content", ["", "x", "0\n", "-1\n", "99999999\n", "1\n/nowhere\n"])
def test_an_unreadable_process_file_names_nobody(server: EmbeddedPostgres, content: str) -> None:
    server.stop()
    (server.folder / "data" / "postmaster.pid").write_text(content)
    assert not server.is_running()
    server.stop()
    server.start()
    assert server.is_running()


def test_a_start_waits_for_the_last_process_of_a_killed_server(server: EmbeddedPostgres) -> None:
    """A process that still holds the server's lock might write into the cluster."""
    kill(server)
    lock = os.open(server.folder / "server.lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    threading.Timer(0.5, os.close, [lock]).start()
    began = time.monotonic()
    server.start()
    assert time.monotonic() - began >= 0.4


def test_a_server_of_another_host_is_not_started_twice(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process cannot be seen here, but it holds the lock in the shared folder."""
    monkeypatch.setattr(server_process, "_LAST_PROCESS_SECONDS", 0.2)
    monkeypatch.setattr(server_process.ServerProcess, "lives", lambda _self: False)
    with pytest.raises(EmbeddedPostgresError, match="another host"):
        EmbeddedPostgres(server.folder, durable=False).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_server_whose_folder_was_given_away_runs_on_no_other_host(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number cannot be read for lack of a right, and it holds its lock."""
    monkeypatch.setattr(server_process, "_LAST_PROCESS_SECONDS", 0.2)
    for path in (server.folder, *server.folder.parents):
        path.chmod(path.stat().st_mode | 0o755)
    lock = server.folder / "server.lock"
    os.chown(lock, NOBODY, NOBODY)
    text = as_user(server.require_not_elsewhere)
    os.chown(lock, 0, 0)
    assert "postmaster.pid cannot be read. " in text
    assert "data belongs to the user root, and this process runs as nobody. Run as root" in text


async def test_a_killed_server_is_started_again_by_its_workers(server: EmbeddedPostgres) -> None:
    """Work goes on, and a worker that is to run until the queue is empty does."""
    url = server.create_database("work")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("alter database work set synchronous_commit = on")  # as in production
    install_schema(url)

    async def handler(params: Any, ctx: Any) -> str:
        async def step() -> str:
            await asyncio.to_thread(kill, server)
            return "done"

        return str(await ctx.step("s", step))

    registry = TaskRegistry()
    registry.add("task", handler)
    async with PostgresBackend(url, recover=server.restart_if_ended) as backend:
        await backend.create_queue("q")
        spawned = await backend.spawn_task("q", "task", {})
        workers = [
            Worker(backend, registry, WorkerSettings("q", f"w{number}")) for number in range(2)
        ]
        await asyncio.gather(*(worker.run(until_idle=True) for worker in workers))
        result = await backend.get_task_result("q", spawned.task_id)
    assert result is not None
    assert (result.state, result.result) == ("completed", "done")


@pytest.mark.parametrize("damage", ["socket removed", "password removed", "password readable"])
def test_a_server_whose_files_were_touched_is_reached_again(
    server: EmbeddedPostgres, damage: str
) -> None:
    """By those who clean /tmp, say; at the next start of any command."""
    if damage == "socket removed":
        (server.folder / "socket" / ".s.PGSQL.5432").unlink()
    elif damage == "password removed":
        (server.folder / "pgpass").unlink()
    else:
        (server.folder / "pgpass").chmod(0o644)
    server.start()
    Session.connect(server.url("postgres")).close()


async def test_a_server_that_was_stopped_stays_stopped(server: EmbeddedPostgres) -> None:
    server.stop()
    server.restart_if_ended()
    assert not server.is_running()


def test_a_server_that_could_not_start_on_a_full_disk_starts_when_there_is_space(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Killed, or ended by itself: its workers go on to try until it runs, unless it is stopped."""
    with mounted(tmp_path_factory.mktemp("d"), megabytes=120) as disk:
        server = EmbeddedPostgres(disk / "pg", durable=False).start()
        try:
            kill(server)
            fill(disk / "filler")
            for _ in range(2):
                with pytest.raises(EmbeddedPostgresError, match=r"Free space|No space left"):
                    server.restart_if_ended()
            (disk / "filler").unlink()
            server.restart_if_ended()
            assert server.is_running()
            kill(server)
            fill(disk / "filler")
            with pytest.raises(EmbeddedPostgresError):
                server.restart_if_ended()
            server.stop()
            (disk / "filler").unlink()
            server.restart_if_ended()
            assert not server.is_running()
        finally:
            server.stop("immediate")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount over a folder")
def test_a_server_that_runs_is_reached_in_a_folder_that_can_only_be_read(
    server: EmbeddedPostgres,
) -> None:
    """One that does not run cannot be started there, and the error says what helps."""
    server.create_database("work")
    other = EmbeddedPostgres(server.folder, durable=False)
    with read_only_view(server.folder):
        url = other.start().create_database("work")
        Session.connect(url).close()
        other.stop_if_unused()
        other.restart_if_ended()
        assert server.is_running()
        kill(server)
        with pytest.raises(EmbeddedPostgresError, match=r"Read-only file system\. Mount .*dmesg"):
            other.start()


def fill(path: Path) -> None:
    """Leave not a byte free on the disk of this file."""
    with path.open("wb", 0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 12))


def test_only_an_unused_server_is_stopped(server: EmbeddedPostgres) -> None:
    """However the start of another and the end of this one interleave."""
    other = EmbeddedPostgres(server.folder, durable=False).start()
    server.stop_if_unused()
    assert server.is_running()
    other.stop_if_unused()
    assert not server.is_running()


def test_starts_and_ends_of_many_users_at_once(tmp_path: Path) -> None:
    """Four on a fresh folder, each stopping what it thinks nobody uses: none is cut off."""
    program = (
        "import sys, pathlib, psycopg\n"
        "from absurd_contimg.backends.postgres import EmbeddedPostgres\n"
        "for _ in range(3):\n"
        "    server = EmbeddedPostgres(pathlib.Path(sys.argv[1]), durable=False).start()\n"
        "    url = server.create_database('shared')\n"
        "    with psycopg.connect(url) as connection:\n"
        "        connection.execute('select pg_sleep(0.05)')\n"
        "    server.stop_if_unused()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "pg")]
    users = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    errors = [user.communicate()[1] for user in users]
    EmbeddedPostgres(tmp_path / "pg").stop()
    assert [user.returncode for user in users] == [0] * 4, errors


def test_a_full_disk_is_named(small_disk: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match="No space left"):
        EmbeddedPostgres(small_disk / "pg", durable=False).start()


def test_user_without_a_name_is_told_why_there_is_no_server(tmp_path: Path) -> None:
    """As in a container that runs under any number."""
    for path in (tmp_path, *tmp_path.parents):
        path.chmod(path.stat().st_mode | 0o755)
    tmp_path.chmod(0o777)
    text = as_user(EmbeddedPostgres(tmp_path / "pg", durable=False).start, 54321)
    assert text.startswith("EmbeddedPostgresError: This process runs as the user number 54321")
    assert "user number 54321" in as_user(EmbeddedPostgres(tmp_path / "x").require_startable, 54321)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without a name")
def test_user_without_a_name_stops_and_starts_the_cluster_that_is_there(tmp_path: Path) -> None:
    """The directory of users is away: only the making of a cluster needs a name."""
    for path in (tmp_path, *tmp_path.parents):
        path.chmod(path.stat().st_mode | 0o755)
    folder = tmp_path / "pg"
    with EmbeddedPostgres(folder, durable=False):
        pass
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 54321, 54321, follow_symlinks=False)

    def start_and_stop() -> None:
        server = EmbeddedPostgres(folder, durable=False).start()
        assert server.is_running()
        server.stop()
        assert not server.is_running()
        raise LookupError("done")

    assert as_user(start_and_stop, 54321) == "LookupError: done"


@pytest.mark.parametrize("named", [65534, 1, 1000])
def test_root_takes_a_user_that_has_a_name(named: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Postgres looks it up: the number 1000 is not there on every machine."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(server_programs, "_has_name", named.__eq__)
    assert f"--map-user={named}" in server_programs._unprivileged()


@pytest.mark.parametrize("action", ["start", "stop", "is_running"])
def test_files_of_another_user_are_named(tmp_path: Path, action: str) -> None:
    """Root has used the site; an ordinary user comes after."""
    folder = tmp_path / "pg"
    with EmbeddedPostgres(folder, durable=False):
        pass
    open_for_others(tmp_path)
    folder.chmod(0o777)
    text = as_user(getattr(EmbeddedPostgres(folder, durable=False), action))
    if action == "is_running":
        assert text == ""
    else:
        assert re.match(rf"EmbeddedPostgresError: {folder}/\w+ belongs to the user \w+", text)
        assert text.endswith("Run as root.")
        os.chown(folder, NOBODY, NOBODY)
        text = as_user(getattr(EmbeddedPostgres(folder, durable=False), action))
        assert f"sudo chown -R nobody {folder}/" in text


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        ("n 40", "Raise the limit of open files to 1024 or more: ulimit -n"),
        ("s 100", "Raise the limit of the stack to 8 MB: ulimit -s"),
    ],
)
def test_limit_that_stops_the_server_is_named(tmp_path: Path, limit: str, says: str) -> None:
    """With the server's own sentence, and without the advice for a damaged cluster."""
    code = (
        "import sys; from pathlib import Path;"
        "from absurd_contimg.backends.postgres import EmbeddedPostgres;"
        "EmbeddedPostgres(Path(sys.argv[1])).start()"
    )
    ran = subprocess.run(
        [
            "sh",
            "-c",
            f'ulimit -{limit}; exec "$@"',
            "sh",
            sys.executable,
            "-c",
            code,
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    last = ran.stderr.strip().splitlines()[-1]
    assert "EmbeddedPostgresError: initdb of the embedded server in" in last
    assert says in last
    assert "damaged" not in ran.stderr.rpartition("EmbeddedPostgresError")[2]


def limit_file_size(soft: int, hard: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


_START = (
    "import sys; from pathlib import Path;"
    "from absurd_contimg.backends.postgres import EmbeddedPostgres;"
    "EmbeddedPostgres(Path(sys.argv[1]), durable=False).start()"
)


def test_server_may_write_large_files_where_only_the_soft_limit_of_its_starter_is_low(
    tmp_path: Path,
) -> None:
    server = EmbeddedPostgres(tmp_path / "pg", durable=False)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        subprocess.run(
            [sys.executable, "-c", _START, str(server.folder)],
            check=True,
            timeout=60,
            preexec_fn=limit_file_size(1_024_000, hard),
        )
        with Session.connect(server.url("postgres"), autocommit=True) as connection:
            connection.execute(
                "create table public.large as"
                " select repeat('x', 100) from generate_series(1, 40000)"
            )
    finally:
        server.stop("immediate")


def test_server_is_not_started_where_it_could_not_write_its_log(tmp_path: Path) -> None:
    """Postgres panics at the first full segment, and every command would wait for it."""
    ran = subprocess.run(
        [sys.executable, "-c", _START, str(tmp_path / "pg")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=limit_file_size(2_048_000, 2_048_000),
    )
    last = ran.stderr.strip().splitlines()[-1]
    assert "the limit of file sizes (ulimit -f) of this shell is 2048000 bytes" in last
    assert "1073741824" in last
    assert not (tmp_path / "pg" / "data").exists()


def test_running_server_is_used_and_stopped_by_a_shell_with_a_limit_of_file_sizes(
    tmp_path: Path,
) -> None:
    server = EmbeddedPostgres(tmp_path / "pg", durable=False).start()
    try:
        subprocess.run(
            [sys.executable, "-c", f"{_START}.stop()", str(server.folder)],
            check=True,
            timeout=60,
            preexec_fn=limit_file_size(2_048_000, 2_048_000),
        )
        assert not server.is_running()
    finally:
        server.stop("immediate")


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("FATAL:  could not fork process: Resource temporarily unavailable", "ulimit -u"),
        ("FATAL:  could not map memory: Cannot allocate memory", "ulimit -v"),
        ("PANIC: could not write: No space left on device", "Free space"),
        (
            "unshare: cannot open /proc/self/uid_map: No such file or directory",
            "mount -t proc proc /proc",
        ),
        ("FATAL:  database files are incompatible with server", None),
    ],
)
def test_words_of_the_machine_are_known(output: str, says: str | None) -> None:
    """Those of limits that root does not have are not met here."""
    refusal = server_programs.refusal_of_machine(f"starting\n{output}\n")
    assert refusal is None if says is None else says in str(refusal)


def test_a_mount_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was ``No locks available`` and nothing to do; also where no server is to start."""

    def flock(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    for name in ("users.lock", "server.lock"):
        (tmp_path / name).touch(mode=0o600)
    server = EmbeddedPostgres(tmp_path, durable=False)
    monkeypatch.setattr(fcntl, "flock", flock)
    for use in (server.start, server.is_used, server.require_not_elsewhere):
        with pytest.raises(EmbeddedPostgresError, match=f"mount of {tmp_path} has no .*local disk"):
            use()


def test_a_lock_that_somebody_keeps_is_named_within_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may read a file may lock it: another user's would wait, and every command with it."""
    with EmbeddedPostgres(tmp_path, durable=False):
        lock = tmp_path / "lock"
        assert lock.stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr(server_lock, "LOCK_SECONDS", 0.3)
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(EmbeddedPostgresError, match=rf"has held {lock} for .*fuser -v"):
            EmbeddedPostgres(tmp_path, durable=False).start()
