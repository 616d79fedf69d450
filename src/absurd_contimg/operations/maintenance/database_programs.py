"""Runs pg_dump, pg_restore and psql on a database."""

from __future__ import annotations

import os
import re
import signal
import subprocess

import psycopg
from psycopg.conninfo import make_conninfo

from absurd_contimg.backends.postgres.server_programs import find_program
from absurd_contimg.backends.postgres.sessions import Session, program_parameters
from absurd_contimg.errors import SettingError
from absurd_contimg.operations.console import one_line
from absurd_contimg.secrets import mask, without_secrets

LOCAL_COMMITS = "synchronous_commit = local"
"""A COMMIT of a program would wait for a standby without a bound: see `_require_confirmed`."""
_NO_CONNECTION = re.compile(
    "connection to server|could not connect|closed the connection|terminating connection"
)
"""What libpq says of a server that is away, or went away while a program worked."""


def run_program(program: str, url: str | None, *arguments: str) -> None:
    """Run one of Postgres' programs, on a database; no password is in its command line."""
    environment = without_secrets(os.environ) | {"LC_ALL": "C"}
    command = [find_program(program), *arguments]
    if url is not None:
        parameters, password = _parameters(url)
        if password is not None:
            environment["PGPASSWORD"] = password
        command.insert(1, f"--dbname={make_conninfo('', **parameters)}")
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        close_fds=False,  # it holds the lock of the restoration, too, should this process be killed
    )
    if done.returncode < 0:
        ending = signal.strsignal(-done.returncode) or f"signal {-done.returncode}"
        raise SettingError(
            f"{program} was ended by a signal: {ending}.",
            "Raise a limit of this shell that it has reached (ulimit -a), or free memory.",
        )
    if done.returncode != 0:
        if url is not None and _NO_CONNECTION.search(done.stderr):
            place = f"{parameters['host']} port {parameters.get('port', 5432)}"
            raise psycopg.OperationalError(
                f"the server {place} is away, or went away while {program} worked with its database"
            )
        cause = one_line(" ".join(mask(done.stderr).split()), 500)
        raise SettingError(f"{program} failed: {cause}", _remedy(program, done.stderr))


def _remedy(program: str, words: str) -> str:
    if re.search("server version mismatch|unsupported version", words):
        return f"Put {program} of the server's version, or of a later one, first in PATH."
    if re.search("permission denied|must be owner", words):
        return "Grant the right to the database's user, or name the owner of the tables in the URL."
    return ""


def _parameters(url: str) -> tuple[dict[str, str], str | None]:
    with Session.connect(url, autocommit=True) as session:
        parameters, password = program_parameters(session)
        if not session.pooled:
            parameters["options"] += f" -c {LOCAL_COMMITS.replace(' ', '')}"
        return parameters, password
