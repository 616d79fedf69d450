"""Why the registry cannot be used, and what to do: errors of SQLite and Postgres as `AwayError`."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

from absurd_contimg.errors import (
    AwayError,
    RegistryAwayError,
    RegistryDamagedError,
    RegistryUnconfirmedError,
)
from absurd_contimg.file_locks import advice_without_locks, has_no_locks, missing_locks
from absurd_contimg.file_owners import can_use, explain_refusal
from absurd_contimg.products.filesystem import LOCAL

if TYPE_CHECKING:
    import psycopg

REBUILD = "Move away what is left of it, restart the workers, then: contimg registry rebuild"

_FULL_BYTES = 1_000_000
"""With less free space a disk counts as full where the registry cannot be used."""

_OF_LOCKS = re.compile(r"locked|disk I/O error")
"""What SQLite says, too, where the mount has no locks, though nobody holds one."""
_DAMAGED_FILE = re.compile(r"not a database|malformed|no such (table|column)")
_DAMAGED_TABLES = ("3F000", "42P01", "42703")
"""SQLSTATEs: no schema, no table, no column."""
_LOCKED = "55P03"
_TOO_LONG = ("54000", "54001", "54011", "54023")

_OF_SERVER = {
    "42501": "Grant the right to its user, or name another user in PIPELINE_PRODUCTS_DB.",
    "25006": "Promote the server, or name the primary in PIPELINE_PRODUCTS_DB.",
    "53100": "Free space on the disk of its server.",
}
"""What to do, by SQLSTATE."""


def is_too_long(error: BaseException | None) -> bool:
    """Whether a text exceeds a limit of Postgres, as for a row of an index.

    No outage, though psycopg's class is one; 54000 is one where transaction IDs are used up.
    """
    if getattr(error, "sqlstate", None) not in _TOO_LONG:
        return False
    from absurd_contimg.backends.postgres.transaction_ids import lacks_ids  # noqa: PLC0415 - slow

    return not lacks_ids(cast("psycopg.Error", error))


def trouble_of_file(path: str, error: BaseException | None) -> AwayError:
    """Of a registry in SQLite."""
    reason = str(error)
    text = f"The registry {path} cannot be used: {reason}."
    if _DAMAGED_FILE.search(reason):
        return RegistryDamagedError(path, text, REBUILD)
    if _is_disk_full(path):
        return RegistryAwayError(path, f"{text} Its disk is full.", "Free space on it.")
    if has_no_locks(error) or (_OF_LOCKS.search(reason) and _lacks_locks(path)):
        remedy = advice_without_locks(Path(path).parent)
    elif "locked" in reason:
        remedy = f"Wait for the process that holds its lock, or name it: fuser -v {path}"
    elif (refused := _refused_path(path, error)) is not None:
        number = error.errno if isinstance(error, OSError) else errno.EACCES
        remedy = explain_refusal(refused, number)
    elif "readonly" in reason or "unable to open" in reason:
        remedy = "Mount its disk for writing, and make its folder and files writable for this user."
    else:
        remedy = "Look at its disk."
    return RegistryAwayError(path, text, remedy)


def trouble_of_server(place: str, url: str, schema: str, error: psycopg.Error) -> AwayError:
    """Of a registry in Postgres; asks the server for the holders of a lock that was waited for."""
    from absurd_contimg.backends.postgres.database_errors import (  # noqa: PLC0415 - slow
        MAY_BE_MADE,
        one_line,
        remedy_of_refusal,
        unset_variables,
    )
    from absurd_contimg.backends.postgres.lock_holders import (  # noqa: PLC0415 - slow
        explain_wait_now,
    )
    from absurd_contimg.backends.postgres.synchronous_standby import (  # noqa: PLC0415 - slow
        CommitUnconfirmed,
    )
    from absurd_contimg.backends.postgres.transaction_ids import (  # noqa: PLC0415 - slow
        REMEDY,
        explain_lack,
        lacks_ids,
    )

    words = one_line(error.diag.message_primary or str(error).strip() or type(error).__name__)
    text = f"The registry {place} cannot be used: {words}."
    if lacks_ids(error):
        text = f"The registry {place} cannot be used. {explain_lack(error)}"
        return RegistryAwayError(place, text, REMEDY)
    if isinstance(error, CommitUnconfirmed):
        return RegistryUnconfirmedError(place, f"{text} {MAY_BE_MADE}", error.remedy)
    if error.sqlstate in _DAMAGED_TABLES:
        return RegistryDamagedError(place, text, REBUILD)
    remedy = remedy_of_refusal(words) or _OF_SERVER.get(error.sqlstate or "", "")
    if error.sqlstate == _LOCKED:
        remedy = explain_wait_now(url, schema) or (
            "End the transaction that holds a lock on its tables: a superuser sees it in pg_locks."
        )
    remedy = remedy or "Check PIPELINE_PRODUCTS_DB and that its server runs (contimg doctor)."
    if error.sqlstate is None and (unset := unset_variables()):  # while connecting
        remedy = f"{unset}. {remedy}"
    return RegistryAwayError(place, text, remedy)


def _refused_path(path: str, error: BaseException | None) -> Path | None:
    """The folder or file of the registry that this process may not use; None: it may use all.

    SQLite does not name it: its log and its index may be of another user, too.
    """
    if isinstance(error, OSError):
        return Path(error.filename or path) if isinstance(error, PermissionError) else None
    file = Path(path).absolute()
    names = (file.name, f"{file.name}-wal", f"{file.name}-shm")
    places = (file.parent, *(file.with_name(name) for name in names))
    return next((place for place in places if not can_use(place)), None)


def _lacks_locks(path: str) -> bool:
    try:
        return bool(missing_locks(Path(path).parent))
    except OSError:  # nothing can be tried there
        return False


def _is_disk_full(path: str) -> bool:
    """SQLite says of a full disk also that it has an input or output error."""
    try:
        return LOCAL.free_bytes(Path(path).parent) < _FULL_BYTES
    except OSError:
        return False
