"""What in the folder of a cluster keeps Postgres from starting, and how it is mended."""

from __future__ import annotations

import stat
from pathlib import Path
from shlex import quote

_EMPTY_FOLDERS = (
    *("pg_commit_ts", "pg_dynshmem", "pg_logical/mappings", "pg_logical/snapshots", "pg_notify"),
    *("pg_replslot", "pg_serial", "pg_snapshots", "pg_stat", "pg_stat_tmp", "pg_tblspc"),
    "pg_twophase",
)
"""Those that initdb makes and that hold nothing between two runs: they can be made again."""
_FOLDERS_WITH_DATA = ("base", "global", "pg_multixact", "pg_subtrans", "pg_wal", "pg_xact")


def refusal_of_cluster(data: Path) -> str | None:
    """A sentence that says why Postgres does not start in its folder, and one that says what to do.

    None if the folder is as initdb made it, or is not there.
    """
    if not data.is_dir():
        return None
    mode = stat.S_IMODE(data.stat().st_mode)
    if mode & stat.S_IRWXU != stat.S_IRWXU or mode & (stat.S_IWGRP | stat.S_IRWXO):
        return (
            f"The mode of {data} is {mode:04o}, and Postgres takes 0700 or 0750 only. "
            f"Correct it: chmod 700 {quote(str(data))}"
        )
    if lost := [name for name in _FOLDERS_WITH_DATA if not (data / name).is_dir()]:
        return (
            f"{data} lacks {', '.join(lost)}, which held data. Put them back, or move {data} away "
            "and restore a backup: contimg restore"
        )
    if missing := [name for name in _EMPTY_FOLDERS if not (data / name).is_dir()]:
        return (
            f"{data} lacks {', '.join(missing)}, without which Postgres does not start. Make them "
            f"again, empty: cd {quote(str(data))} && mkdir -p -m 700 {' '.join(missing)}"
        )
    return None
