"""What a connection tells of itself: `psycopg.ConnectionInfo`."""

from __future__ import annotations

from datetime import tzinfo
from typing import TYPE_CHECKING

from psycopg import pq

from absurd_contimg.backends.memory.dbapi.results import zone_of
from absurd_contimg.backends.memory.session import TransactionStatus

if TYPE_CHECKING:
    from absurd_contimg.backends.memory.dbapi.connection import BaseConnection

_STATUS = {
    TransactionStatus.IDLE: pq.TransactionStatus.IDLE,
    TransactionStatus.OPEN: pq.TransactionStatus.INTRANS,
    TransactionStatus.FAILED: pq.TransactionStatus.INERROR,
}


_REPORTED = frozenset(
    (
        "application_name",
        "client_encoding",
        "DateStyle",
        "default_transaction_read_only",
        "in_hot_standby",
        "integer_datetimes",
        "IntervalStyle",
        "is_superuser",
        "scram_iterations",
        "search_path",
        "server_encoding",
        "server_version",
        "session_authorization",
        "standard_conforming_strings",
        "TimeZone",
    )
)
"""The settings of which Postgres 18 sends every change, spelled as it does."""


class MemoryInfo:
    """`psycopg.ConnectionInfo` of a connection to memory."""

    vendor = "PostgreSQL"
    host = "memory"
    hostaddr = ""
    port = 0
    dbname = "memory"
    user = "postgres"
    password = ""
    options = ""
    dsn = "host=memory dbname=memory user=postgres"
    server_version = 180006
    error_message = ""
    encoding = "utf-8"

    def __init__(self, connection: BaseConnection) -> None:
        self._conn = connection

    @property
    def status(self) -> pq.ConnStatus:
        """OK until the connection is closed."""
        return pq.ConnStatus.BAD if self._conn.closed else pq.ConnStatus.OK

    @property
    def transaction_status(self) -> pq.TransactionStatus:
        """Idle, in a transaction, or in a failed one."""
        if self._conn.closed:
            return pq.TransactionStatus.UNKNOWN
        return _STATUS[self._conn.session.status]

    @property
    def pipeline_status(self) -> pq.PipelineStatus:
        """Always off."""
        return pq.PipelineStatus.OFF

    @property
    def backend_pid(self) -> int:
        """The session's number."""
        return self._conn.session.session_id

    @property
    def timezone(self) -> tzinfo:
        """The session's time zone."""
        return zone_of(self._conn.session)

    def parameter_status(self, param_name: str) -> str | None:
        """One of the settings that a server tells its clients of; None for any other."""
        return self._conn.session.setting(param_name) if param_name in _REPORTED else None

    def get_parameters(self) -> dict[str, str]:
        """Connection parameters that are not defaults."""
        return {"dbname": self.dbname, "user": self.user}
