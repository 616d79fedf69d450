"""The errors of Postgres and psycopg as those of `core.errors`, which say what to do."""

from __future__ import annotations

import os
import re
from typing import NoReturn

import psycopg

from absurd_contimg.backends.postgres.sessions import environment_variables
from absurd_contimg.backends.postgres.synchronous_standby import CommitUnconfirmed
from absurd_contimg.backends.postgres.transaction_ids import REMEDY, explain_lack, lacks_ids
from absurd_contimg.core.errors import (
    REFUSED_VALUE_CLASSES,
    BackendError,
    BackendUnavailable,
    InvalidRetryStrategy,
    QueueNotFound,
    RunAlreadyFailed,
    SchemaMissing,
    TaskCancelled,
    ValueRefused,
    missing_queue,
)
from absurd_contimg.core.evidence import reason_of

OF_TASKS = "ABSURD_DATABASE_URL"
"""The variable that names the database of the tasks."""
_UNREACHABLE_CLASSES = ("08", "57P")
"""Connection exceptions, and the server shutting down or starting up."""

_SCHEMA = "absurd"
"""In the message, in whatever language, if Absurd's own table or procedure is missing: a trigger of
somebody else's may miss its own."""


TAKES_NO_CHANGES = "25006"
"""The SQLSTATE of each error that says so, whatever the reason."""
READ_ONLY = (
    "The database takes no changes, as a standby does that was not promoted. Promote it, or name "
    "the primary in ABSURD_DATABASE_URL."
)
MAY_BE_MADE = "The change may be made all the same: see contimg status before you repeat it."
"""A commit that waits for a standby in vain is kept."""
_NOTIFICATIONS = "NOTIFY"
"""In the message, in whatever language, if the server's queue of notifications is full (54000)."""
_NO_CONNECTION_LEFT = re.compile(r"too many (clients|connections)|remaining connection slots")
_MEMORY_LOST = re.compile(r'could not open shared memory segment "[^"]*": No such file')
_CLOSED = re.compile(r'database (".*") is not currently accepting connections')

_MISSING = (
    (
        re.compile(r'database "(.+?)" does not exist'),
        "Correct its name, or make it: createdb --owner=ROLE --encoding=UTF8 "
        "--template=template0 {}",
    ),
    (
        re.compile(r'(?:authentication failed for user|role) "(.+?)"(?: does not exist|$)', re.M),
        "Correct the user or the password, or make the role: create role {} login",
    ),
    (
        re.compile(r'permission denied for database "?([^"\n.]+)'),
        "As the database's owner: grant connect, create on database {} to ROLE",
    ),
)
"""What a user needs of a server, by its words where it is missing, and what makes it."""


def remedy_of_refusal(text: str) -> str:
    """What to do about a connection that a running server has refused; empty if not known.

    By the server's words: a connection that is refused has no SQLSTATE.
    """
    if _NO_CONNECTION_LEFT.search(text):
        return (
            "End connections that are not needed, or raise the limit: max_connections of the "
            "server, or as a superuser: alter role NAME connection limit NUMBER"
        )
    if has_lost_memory(text):
        return (
            "Its shared memory was removed while it runs, as systemd-logind does when a user logs "
            "out (RemoveIPC). Start it again; a private server: contimg db stop; contimg db init"
        )
    if closed := _CLOSED.search(text):
        return (
            "Somebody has closed it, as for maintenance. As a superuser: alter database "
            f"{closed[1]} allow_connections true"
        )
    for pattern, remedy in _MISSING:
        if match := pattern.search(text):
            return remedy.format(match[1]) + " (docs/deployment.md)"
    return ""


def has_lost_memory(text: str) -> bool:
    """Whether a connection was refused because files of the server in /dev/shm were removed.

    It takes no other connection until it is started again. By its words, as above.
    """
    return _MEMORY_LOST.search(text) is not None


def one_line(text: str) -> str:
    """libpq's lines as one, for logs that have a line a message, without its question."""
    text = re.sub(r"\s*Is the server running [^\n?]*\?", "", text)
    text = re.sub(r"\.?\s*\n\s*", ". ", text)
    return text.removeprefix("connection failed: ").rstrip(".")


def raise_translated(error: psycopg.Error, variable: str = OF_TASKS) -> NoReturn:
    """Raise what `core.errors` has for an error of psycopg; `variable` has the database's URL."""
    state = error.sqlstate
    message = error.diag.message_primary or str(error).strip() or reason_of(error)
    match state:
        case "AB001":
            raise TaskCancelled(message) from error
        case "AB002":
            raise RunAlreadyFailed(message) from error
        case "AB003":
            raise InvalidRetryStrategy(message, state) from error
        case "3F000" | "42883" if _SCHEMA in message:
            raise SchemaMissing(
                f"Absurd's schema is not there, or not whole ({message}). While a backup is "
                "restored, wait for its end; else run: contimg db init",
                state,
            ) from error
        case "42P01" if _SCHEMA in message:
            raise QueueNotFound(missing_queue(message), state) from error
        case "42501" | "25006":
            raise BackendError(_of_rights(state, message, variable), state) from error
        case _ if _is_unreachable(error):
            raise unavailable(error, variable) from error
        case "54000" if _NOTIFICATIONS in message or lacks_ids(error):
            raise _used_up(error, message) from error
        case "42703" | "42725" | "42804":
            raise BackendError(
                f"Absurd's tables or procedures are not as its schema makes them: {message}. Put "
                "them back from a backup: contimg restore.",
                state,
            ) from error
        case None if isinstance(error, psycopg.DataError):  # psycopg itself: NUL in a text
            raise ValueRefused(message) from error
        case str() if state.startswith(REFUSED_VALUE_CLASSES):
            raise ValueRefused(message, state) from error
        case _:
            raise BackendError(message, state) from error


def _used_up(error: psycopg.Error, message: str) -> BackendError:
    """Of a server without space for notifications or, as of a standby, without an ID."""
    if lacks_ids(error):
        return BackendError(f"{explain_lack(error)} {REMEDY}", TAKES_NO_CHANGES)
    return BackendUnavailable(
        f"The database cannot do this now: {message}. A session that has listened and "
        "stays in a transaction keeps them. End it (pg_stat_activity shows it as idle in "
        "transaction; pg_terminate_backend), then free what it kept: "
        "select pg_notification_queue_usage()",
        error.sqlstate,
    )


def _is_unreachable(error: psycopg.Error) -> bool:
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return error.sqlstate.startswith(_UNREACHABLE_CLASSES)


def _of_rights(state: str, message: str, variable: str) -> str:
    """Of a standby, or of a user without a right, with the server's words."""
    if state == "25006":
        return f"{READ_ONLY} ({message})"
    remedy = f"Grant it, or name another user in {variable}."
    return f"The database's user lacks a right: {message}. {remedy_of_refusal(message) or remedy}"


def unset_variables() -> str:
    """What to do about libpq's variables that are set: all connections read them; or nothing."""
    names = ", ".join(environment_variables())
    return (
        f"Unset {names} unless meant for this database (they count where its URL says nothing)"
        if names
        else ""
    )


def unavailable(error: psycopg.Error, variable: str = OF_TASKS) -> BackendUnavailable:
    """The error to raise when the database cannot be reached, with what to look at."""
    if isinstance(error, CommitUnconfirmed):
        text = f"The database cannot be used: {error}. {MAY_BE_MADE} {error.remedy}"
        return BackendUnavailable(text)
    setting = f"{variable} and " if variable in os.environ else ""
    unset = unset_variables()
    text = one_line(str(error).strip() or reason_of(error))
    refusal = remedy_of_refusal(text)
    if refusal:
        remedy = f"{unset}. {refusal}" if unset else refusal
    else:
        check = f"{unset}, and check" if unset else "Check"
        remedy = f"{check} {setting}that the server runs (contimg doctor)."
    return BackendUnavailable(
        f"The database cannot be reached: {text}. {remedy}", sqlstate=error.sqlstate
    )
