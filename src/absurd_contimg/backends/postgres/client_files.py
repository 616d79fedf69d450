"""Files that libpq reads when it connects: those that would never end are refused before.

It opens them itself, in the thread that connects: a pipe in the place of a password file blocked
every command, and the event loop of a worker, for ever.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg

_FILES = {
    "passfile": ("PGPASSFILE", "~/.pgpass"),
    "servicefile": ("PGSERVICEFILE", "~/.pg_service.conf"),
    "sslcert": ("PGSSLCERT", "~/.postgresql/postgresql.crt"),
    "sslkey": ("PGSSLKEY", "~/.postgresql/postgresql.key"),
    "sslrootcert": ("PGSSLROOTCERT", "~/.postgresql/root.crt"),
    "sslcrl": ("PGSSLCRL", "~/.postgresql/root.crl"),
}
"""Of a parameter the environment variable, which counts without it, and libpq's default."""


def require_client_files(parameters: Mapping[str, Any]) -> None:
    """Raise `psycopg.OperationalError` if a file of these parameters is a pipe or a device.

    ``/dev/null`` is a usual way to say that there is none.
    """
    for setting, path in _client_files(parameters):
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            continue  # libpq says so where it matters
        is_device = stat.S_ISCHR(status.st_mode) and not os.path.samefile(path, os.devnull)
        if is_device or stat.S_ISFIFO(status.st_mode):
            raise psycopg.OperationalError(
                f"{setting} names {path!r}, which is a pipe or a device and no file: "
                "reading it would not end."
            )


def _client_files(parameters: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, (variable, default) in _FILES.items():
        if given := parameters.get(name):
            yield name, str(given)
        elif given := os.environ.get(variable):
            yield variable, given
        else:
            yield name, os.path.expanduser(default)
