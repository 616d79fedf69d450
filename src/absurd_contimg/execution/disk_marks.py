"""The free space below which workers warn, and below which they claim nothing."""

from __future__ import annotations

from dataclasses import dataclass

_GB = 1e9


@dataclass(frozen=True, slots=True)
class Watermarks:
    """Free space, in GB (1e9 bytes), below which to warn and below which to claim nothing.

    A mark of None is the hardening guide's (warn 100 GB, critical 20 GB), but at most 5 % and
    2 % of the file system: a laptop with a 250 GB disk works down to 5 GB. The marks are a last
    protection; each stage also reserves its own space before it starts.
    """

    warn_gb: float | None = None
    critical_gb: float | None = None
    warn_inodes_share: float = 0.05
    """Free inodes, of all that the file system has: as the space of a small disk."""
    critical_inodes_share: float = 0.02

    def warn_bytes(self, total: int) -> float:
        """The warning mark on a file system of `total` bytes."""
        return min(100 * _GB, 0.05 * total) if self.warn_gb is None else self.warn_gb * _GB

    def critical_bytes(self, total: int) -> float:
        """The critical mark on a file system of `total` bytes."""
        return min(20 * _GB, 0.02 * total) if self.critical_gb is None else self.critical_gb * _GB
