"""Overviews of a site for tests of what shows them: a healthy one, its parts, and random ones."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from hypothesis import strategies as st

from absurd_contimg.operations.overview import (
    DataOverview,
    DiskOverview,
    ImageQuality,
    QueueOverview,
    RunningStep,
    ServiceOverview,
    Shortage,
    SiteOverview,
)
from absurd_contimg.registry.queue_pauses import QueuePause

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
TASK = UUID("01890000-0000-7000-8000-000000000001")

QUEUE = QueueOverview(
    queue_name="dsa110-pipeline",
    tasks_by_state={"pending": 1, "running": 2, "completed": 40},
    claimable=1,
    oldest_claimable_seconds=4.0,
    expired_leases=0,
    pause=None,
    recent_seconds=3600.0,
    completed_recently=11,
    failed_recently=0,
    latency_seconds_p50=400.0,
    latency_seconds_p95=900.0,
    failures_by_kind={},
    failures_by_rule={},
)
STEP = RunningStep(
    task_id=TASK,
    queue_name="dsa110-pipeline",
    group="2026-03-01T11:50:00",
    step="image",
    started_at=AT - timedelta(seconds=100),
    lease_seconds_left=50.0,
)
WORKER = ServiceOverview(
    kind="worker",
    name="h1:1",
    host="h1",
    state="running",
    health="ok",
    problem="",
    seen_seconds_ago=5.0,
    started_at=AT - timedelta(days=1),
    activity="image",
    running=(STEP,),
    memory_bytes=2e9,
    clock_offset_seconds=0.1,
    version="0.1.0",
)
DAEMON = replace(WORKER, kind="daemon", name="h1", running=(), activity="")
DISK = DiskOverview(
    host="h1",
    role="output",
    folder="/stage",
    health="ok",
    problem="",
    free_bytes=4e12,
    total_bytes=8e12,
    used_share=0.5,
    free_inodes_share=0.9,
    hours_to_full=None,
    measured_seconds_ago=20.0,
)
SHORTAGE = Shortage(
    task_id=TASK,
    queue_name="dsa110-pipeline",
    group="2026-03-01T11:50:00",
    step="image",
    worker="h1:1",
    at=AT - timedelta(minutes=3),
    message="No space left on device: 0 B free around /stage",
)
DATA = DataOverview(
    newest_file_seconds_ago=100.0,
    newest_group="2026-03-01T11:55:00",
    newest_image_seconds_ago=600.0,
    newest_mosaic_seconds_ago=4000.0,
    groups_by_state={"done": 40, "collecting": 1},
    subbands_missing=3,
)
IMAGE = ImageQuality(
    group="2026-03-01T11:50:00",
    observed_at=AT - timedelta(minutes=10),
    noise_jy=0.005,
    flux_ratio=1.01,
    flagged_share=0.2,
)
PAUSE = QueuePause("dsa110-pipeline", "new disks", "2026-03-01T11:00:00+00:00", "op@h1")


def healthy(**changes: Any) -> SiteOverview:
    """A site at which all is well, but for the changes."""
    site = SiteOverview(
        at=AT,
        source="production",
        queues=(QUEUE,),
        services=(WORKER, DAEMON),
        groups=(),
        waiting=(),
        disks=(DISK,),
        data=DATA,
        images=(IMAGE,) * 4,
        problems=(),
    )
    return replace(site, **changes)


_texts = st.text(max_size=8)
_numbers = st.floats(-1e3, 1e6) | st.just(float("nan"))
_known = st.none() | _numbers
_counts = st.integers(0, 1000)


def overviews() -> st.SearchStrategy[SiteOverview]:
    """Any overview: names of all characters, whatever measured or not."""
    queues = st.builds(
        replace,
        st.just(QUEUE),
        queue_name=_texts,
        tasks_by_state=st.dictionaries(st.sampled_from(["pending", "failed"]), _counts),
        claimable=_counts,
        oldest_claimable_seconds=_known,
        failed_recently=_counts,
        latency_seconds_p50=_known,
        failures_by_kind=st.dictionaries(_texts, _counts, max_size=4),
        pause=st.none() | st.just(PAUSE),
        problems=st.lists(_texts, max_size=2).map(tuple),
    )
    services = st.builds(
        replace,
        st.just(WORKER),
        kind=st.sampled_from(["worker", "daemon", "api", "dashboard"]),
        name=_texts,
        host=st.none() | _texts,
        state=st.sampled_from(["running", "silent", "stopped"]),
        seen_seconds_ago=_known,
        running=st.lists(
            st.builds(
                replace,
                st.just(STEP),
                step=st.none() | _texts,
                started_at=st.none() | st.just(STEP.started_at),
                lease_seconds_left=_known,
            ),
            max_size=2,
        ).map(tuple),
        memory_bytes=_known,
        clock_offset_seconds=_known,
    )
    disks = st.builds(
        replace,
        st.just(DISK),
        folder=_texts,
        free_bytes=_known,
        used_share=_known,
        free_inodes_share=_known,
        hours_to_full=_known,
        measured_seconds_ago=_known,
    )
    data = st.builds(replace, st.just(DATA), newest_file_seconds_ago=_known)
    images = st.builds(
        replace, st.just(IMAGE), noise_jy=_known, flux_ratio=_known, flagged_share=_known
    )
    return st.builds(
        healthy,
        queues=st.lists(queues, max_size=2).map(tuple),
        services=st.lists(services, max_size=3).map(tuple),
        disks=st.lists(disks, max_size=2).map(tuple),
        data=st.none() | data,
        images=st.lists(images, max_size=5).map(tuple),
    )
