"""The versions of the registry's tables, and the way from one to the next: Alembic's scripts."""

from __future__ import annotations

import logging
import threading

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

_log = logging.getLogger(__name__)

_ONE_AT_A_TIME = threading.Lock()
"""Alembic keeps the context of a migration in global variables."""


FIRST = "0001"
"""The version of the tables before there was Alembic."""


def migrate(connection: Connection, *, stamp: str | None) -> None:
    """Bring the tables to the newest version, in the transaction of the connection.

    `stamp` is the version of tables that Alembic does not know yet; None: it knows them.
    """
    config = _config()
    config.attributes["connection"] = connection
    with _ONE_AT_A_TIME:
        if stamp is not None:
            command.stamp(config, stamp)
        command.upgrade(config, "head")
    _log.info("the tables of the registry are brought to version %s", known_revisions()[0])


def known_revisions() -> list[str]:
    """The versions that there are, the newest first."""
    scripts = ScriptDirectory.from_config(_config())
    return [script.revision for script in scripts.walk_revisions()]


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "absurd_contimg.registry:migrations")
    return config
