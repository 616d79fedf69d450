"""What is known of a site at one moment: the one source of monitor, metrics, alerts, API and pages.

Every figure is counted from histories, registry and disks by `overview.read`; what shows it
counts nothing again, so that all show the same. Times are UTC; durations are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from absurd_contimg.core.records import State
from absurd_contimg.registry.queue_pauses import QueuePause

Health = Literal["ok", "warning", "failure", "unknown"]
"""``unknown``: it could not be measured, which is never ok."""


@dataclass(frozen=True, slots=True)
class QueueOverview:
    """One queue, with what ended in the last `recent_seconds`."""

    queue_name: str
    tasks_by_state: Mapping[State, int]
    claimable: int
    oldest_claimable_seconds: float | None
    """How long the oldest task that could run has waited for a worker; None: none waits."""
    expired_leases: int
    pause: QueuePause | None
    recent_seconds: float
    completed_recently: int
    failed_recently: int
    """Without those whose group or window has a later task, which are `superseded_recently`."""
    latency_seconds_p50: float | None
    """From spawn to completion, of the tasks that completed recently."""
    latency_seconds_p95: float | None
    failures_by_kind: Mapping[str, int]
    """Failed attempts, recently; a kind that is not known has the name of the error."""
    failures_by_rule: Mapping[str, int]
    problems: tuple[str, ...] = ()
    """Tasks that are stuck or block the queue, each with what to do."""
    last_failed: UUID | None = None
    """Of the tasks that failed recently the last one."""
    superseded_recently: int = 0
    """Tasks that failed, and for whose group or window a later one was spawned."""

    def seconds_behind_pause(self, now: datetime) -> float:
        """How long its oldest task has waited because of a pause; 0: none has."""
        if self.pause is None:
            return 0.0
        paused = now.timestamp() - datetime.fromisoformat(self.pause.since).timestamp()
        return max(min(paused, self.oldest_claimable_seconds or 0.0), 0.0)

    @property
    def depth(self) -> int:
        """Tasks that have not ended and do not run: the guide's queue depth."""
        return self.tasks_by_state.get("pending", 0) + self.tasks_by_state.get("sleeping", 0)

    @property
    def success_share(self) -> float | None:
        """Completed over completed and failed, recently: the guide's task success rate."""
        ended = self.completed_recently + self.failed_recently
        return self.completed_recently / ended if ended else None


@dataclass(frozen=True, slots=True)
class RunningStep:
    """What a worker does for one task now."""

    task_id: UUID
    queue_name: str
    group: str | None
    step: str | None
    started_at: datetime | None
    lease_seconds_left: float | None
    """Negative: the lease is over and nobody has taken the task up yet."""


@dataclass(frozen=True, slots=True)
class ServiceOverview:
    """A worker, daemon or API process of the site, on whichever host."""

    kind: Literal["worker", "daemon", "api", "dashboard"]
    name: str
    host: str | None
    """None: known only from a lease that it holds."""
    state: Literal["running", "silent", "stopped"]
    health: Health
    problem: str
    """Why its health is not ok, with what to do; empty if it is."""
    seen_seconds_ago: float | None
    started_at: datetime | None
    activity: str
    running: tuple[RunningStep, ...]
    memory_bytes: float | None
    clock_offset_seconds: float | None
    version: str | None
    is_gone: bool = False
    """Of this host, and its process is no more: it was killed."""


@dataclass(frozen=True, slots=True)
class GroupOverview:
    """An observation group or window that has not ended, or ended with a remark."""

    name: str
    kind: Literal["group", "window"]
    state: str
    present: int
    expected: int
    """Sub-bands of a group, groups of a window."""
    waits_for: str
    """One sentence: what for, and until when; empty if it waits for nothing."""
    task_id: UUID | None


@dataclass(frozen=True, slots=True)
class WaitingTask:
    """A task that does nothing now."""

    task_id: UUID
    queue_name: str
    task_name: str
    group: str | None
    since: datetime | None
    until: datetime | None
    why: str
    """One sentence for people."""
    advice: str | None


@dataclass(frozen=True, slots=True)
class Shortage:
    """A stage of a task that has not ended was ended by a full disk, which looks well again."""

    task_id: UUID
    queue_name: str
    group: str | None
    step: str
    worker: str
    at: datetime
    message: str
    """With the free space at that time, what the stage was to write and what it has written."""


@dataclass(frozen=True, slots=True)
class DiskOverview:
    """The file system of one folder, seen from one host."""

    host: str
    role: str
    """``input``, ``output``, ``scratch``, ``state`` or ``publish``."""
    folder: str
    health: Health
    problem: str
    free_bytes: float | None
    total_bytes: float | None
    used_share: float | None
    free_inodes_share: float | None
    hours_to_full: float | None
    """At the rate of the last hours; None where it does not fill, or nobody knows yet."""
    measured_seconds_ago: float | None
    read_only: bool = False
    """Though the site writes there."""


@dataclass(frozen=True, slots=True)
class DataOverview:
    """How new the data are."""

    newest_file_seconds_ago: float | None
    newest_group: str | None
    newest_image_seconds_ago: float | None
    newest_mosaic_seconds_ago: float | None
    groups_by_state: Mapping[str, int]
    subbands_missing: int
    """Of closed groups of the last 24 h."""


@dataclass(frozen=True, slots=True)
class ImageQuality:
    """What the newest image of the pipeline measured; the gates of alerts look at it."""

    group: str
    observed_at: datetime
    noise_jy: float | None
    flux_ratio: float | None
    """Median of measured over catalogue."""
    flagged_share: float | None


@dataclass(frozen=True, slots=True)
class SiteOverview:
    """A site at one moment."""

    at: datetime
    """The database's clock."""
    source: str
    """``production``, ``emulator``, ``simulation`` or ``history file``, and which."""
    queues: tuple[QueueOverview, ...]
    services: tuple[ServiceOverview, ...]
    groups: tuple[GroupOverview, ...]
    """Not ended, the oldest first; at most 100."""
    waiting: tuple[WaitingTask, ...]
    """The longest waiting first; at most 100."""
    disks: tuple[DiskOverview, ...]
    data: DataOverview | None
    """None where there is no registry."""
    images: tuple[ImageQuality, ...]
    """The newest first; at most 20."""
    problems: tuple[str, ...]
    """What could not be read, and what is wrong with the site as a whole, each with what to do."""
    shortages: tuple[Shortage, ...] = ()
    """Of the last hour, the newest first."""
    maintenance_problem: str = ""
    """What the last maintenance has skipped, or why it failed; one of `problems` too."""

    @property
    def worker_utilisation(self) -> float | None:
        """Workers that run a task over living workers: the guide's worker utilisation."""
        workers = [item for item in self.services if item.kind == "worker"]
        living = [item for item in workers if item.state == "running"]
        return sum(bool(item.running) for item in living) / len(living) if living else None
