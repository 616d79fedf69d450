"""A server that gives out no transaction ID: how it is seen, what to do.

Shortly before its transaction IDs, or its MultiXactIds, would wrap around, Postgres refuses all
that needs a new one. It answers reads all the same and calls itself writable.
"""

from __future__ import annotations

from typing import LiteralString

import psycopg

TAKE_ID: LiteralString = "select pg_catalog.txid_current()"
"""Fails where no ID is left; for a transaction that is rolled back. It costs an ID, no more."""

REMEDY = (
    "As a superuser, end what keeps old IDs (see pg_prepared_xacts, pg_replication_slots, "
    "pg_stat_activity), then run: vacuumdb --all --no-truncate"
)
"""Without its full stop, which a command has not."""

_FUNCTIONS = ("GetNewTransactionId", "GetNewMultiXactId")
_WORDS = "is not accepting commands"


def lacks_ids(error: psycopg.Error) -> bool:
    """Whether the server has refused a new ID: by its function, as its language may be any.

    By its words where an error was raised again by somebody's procedure.
    """
    diagnostic = error.diag
    return error.sqlstate == "54000" and (
        diagnostic.source_function in _FUNCTIONS or _WORDS in (diagnostic.message_primary or "")
    )


def explain_lack(error: psycopg.Error) -> str:
    """The server's message and hint, as sentences."""
    hint = (error.diag.message_hint or "").splitlines()
    message = error.diag.message_primary or str(error)
    sentences = [f"The database takes no changes: {message}", *hint]
    return " ".join(f"{each.strip().rstrip('.')}." for each in sentences if each.strip())
