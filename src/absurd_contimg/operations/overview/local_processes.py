"""Which processes of this host are gone, although their records do not say that they ended."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from absurd_contimg.execution.host_scratch import host_name, host_scratch
from absurd_contimg.execution.process_state import lives
from absurd_contimg.execution.scratch import OWNERS, visible_owners
from absurd_contimg.operations.services import given_worker_id
from absurd_contimg.registry.service_records import RENEWAL_SECONDS, ServiceKind, ServiceRecord
from absurd_contimg.settings import Settings

_LOCKS = Path("/proc/locks")
_FLOCK = re.compile(r"^\d+: FLOCK .*:(\d+) \d+ \w+$", re.MULTILINE)
"""A lock and the inode of its file (proc(5)); of this host and container only."""
_LATE_SECONDS = RENEWAL_SECONDS + 5.0
"""A process that renews its record is there, also where it cannot be seen (another container)."""


def gone_services(
    records: Sequence[ServiceRecord], settings: Settings | None, now: float
) -> frozenset[ServiceRecord]:
    """Those of this host that were killed. Blocks for a moment.

    A worker is known by its lock in scratch at once; other processes, and workers whose locks
    cannot be looked at, when a sign of them is late.
    """
    host = host_name()
    here = [
        each
        for each in records
        if each.host == host and each.stopped_at is None and not lives(each.pid)
    ]
    if not here:
        return frozenset()
    living: list[str] | None = []
    if settings is not None:
        living = visible_owners(host_scratch(settings.pipeline.paths.scratch_dir))
    return frozenset(
        each
        for each in here
        if now - each.seen_at > _LATE_SECONDS
        or (
            each.kind is ServiceKind.WORKER
            and living is not None
            and given_worker_id(each.name) not in living
        )
    )


def workers_of_earlier_names(scratch_dir: Path) -> dict[str, str]:
    """The living workers of this machine that started under another name of it, with that name.

    They keep their part of scratch when the host is renamed. Locks nothing there: it may be
    another host's.
    """
    names: dict[str, str] = {}
    try:
        locked = set(_FLOCK.findall(_LOCKS.read_text()))
        for path in scratch_dir.glob(f"*/{OWNERS}/*.lock"):
            host = path.parents[1].name
            if host != host_name() and str(path.stat().st_ino) in locked:
                names[path.stem] = host
    except OSError:
        return names  # its disk is away, or a worker has ended meanwhile
    return names
