"""Whether a process of this host lives; it may be anybody's child."""

from __future__ import annotations

import os
from pathlib import Path

_ENDED = (b"Z", b"X")
"""States in ``/proc/PID/stat`` (proc(5)) of a process that has ended and is still listed."""


def lives(pid: int) -> bool:
    """Whether there is such a process that has not ended; True where that cannot be seen."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    try:
        fields = Path("/proc", str(pid), "stat").read_bytes().rpartition(b")")[2].split()
    except FileNotFoundError:
        return False  # it has ended meanwhile
    except OSError:
        return True
    return fields[0] not in _ENDED
