"""Publication explored: a fault at every crash point of production's own worker."""

from __future__ import annotations

from absurd_contimg.simulation.exploration.explorer import explore
from absurd_contimg.simulation.exploration.mosaic_workflows import publication_spec
from absurd_contimg.simulation.model.faults import GRACEFUL, FaultKind

FAULTS = (*GRACEFUL, FaultKind.KILL, FaultKind.KILL_OTHER, FaultKind.PAUSE, FaultKind.OUTAGE)
"""Without those after which another process holds the lock for a day, which is waited for."""


def test_every_fault_at_every_crash_point() -> None:
    """Every future publishes once, whole, and keeps every invariant."""
    exploration = explore(publication_spec(), faults=FAULTS)
    assert not exploration.findings, str(exploration.findings[0])
    assert exploration.futures > 100
