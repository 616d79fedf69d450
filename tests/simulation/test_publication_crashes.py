"""Publication explored: a fault at every crash point of production's own worker."""

from __future__ import annotations

from dataclasses import replace

from absurd_contimg.registry.publications import PublicationState
from absurd_contimg.simulation.exploration.crash_run import CrashRun
from absurd_contimg.simulation.exploration.explorer import explore
from absurd_contimg.simulation.exploration.mosaic_workflows import QUEUE, publication_spec
from absurd_contimg.simulation.exploration.stream_workflows import StreamWorkers
from absurd_contimg.simulation.model.faults import GRACEFUL, FaultKind, InjectedFault
from absurd_contimg.simulation.model.simulated_daemon import DaemonSettings
from absurd_contimg.simulation.model.world import without_logs_and_gc

FAULTS = (*GRACEFUL, FaultKind.KILL, FaultKind.KILL_OTHER, FaultKind.PAUSE, FaultKind.OUTAGE)
"""Without those after which another process holds the lock for a day, which is waited for."""


def test_every_fault_at_every_crash_point() -> None:
    """Every future publishes once, whole, and keeps every invariant."""
    exploration = explore(publication_spec(), faults=FAULTS)
    assert not exploration.findings, str(exploration.findings[0])
    assert exploration.futures > 100


def test_a_cancelled_publication_ends_as_the_disk_says() -> None:
    """Cancelled at each crash point, with a daemon: published if the copy is there, else failed."""
    spec = replace(publication_spec(), worker_factory=StreamWorkers(DaemonSettings(QUEUE)))
    ends = []
    with without_logs_and_gc():
        base = CrashRun(spec)
        base.run()
        for point in range(1, base.crash_point + 1):
            run = CrashRun(spec, (InjectedFault(FaultKind.CANCEL, point),))
            names = {violation.invariant for violation in run.run().violations}
            # It cannot be prevented between a fence and its rename (`watch_publication`).
            assert names <= {"products_are_published_under_a_lease"}, f"cancel@{point}"
            for row in run.world.state.registry.publications.all():
                is_there = str(row.destination) in run.world.state.disk.folders
                state = PublicationState.PUBLISHED if is_there else PublicationState.FAILED
                assert row.state is state, f"cancel@{point}"
                ends.append(row.state)
    assert {*ends} == {PublicationState.PUBLISHED, PublicationState.FAILED}
