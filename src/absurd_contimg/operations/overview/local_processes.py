"""Which processes of this host are gone, although their records do not say that they ended."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from absurd_contimg.execution.host_scratch import host_name, host_scratch
from absurd_contimg.execution.scratch import visible_owners
from absurd_contimg.operations.services import given_worker_id
from absurd_contimg.registry.service_records import RENEWAL_SECONDS, ServiceKind, ServiceRecord
from absurd_contimg.settings import Settings

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
        if each.host == host and each.stopped_at is None and not _is_process(each.pid)
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


def _is_process(pid: int) -> bool:
    """Whether there is such a process that has not ended; True where that cannot be seen."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    try:
        fields = Path("/proc", str(pid), "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return True
    return fields[:1] != [b"Z"]  # one that has ended and whose parent has not asked for its end
