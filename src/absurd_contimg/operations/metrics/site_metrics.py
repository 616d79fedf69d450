"""All metrics of a site, each with its meaning; `docs/alerts.md` lists them."""

from __future__ import annotations

from collections.abc import Callable

from absurd_contimg.operations.metrics.metric import Metric, Samples, Source
from absurd_contimg.operations.overview import DataOverview, ImageQuality

DURATION_BUCKETS_SECONDS = (1, 3, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)
"""Upper bounds: stages take from a second (tiny data) to the deadline of 3600 s and beyond it."""

WAIT_BUCKETS_SECONDS = (1, 3, 10, 30, 60, 300, 600, 1800, 3600, 14_400, 86_400)
"""Upper bounds: a poll takes 1 s, a wait for calibration a day."""


def _data(value: Callable[[DataOverview], float | None]) -> Callable[[Source], Samples]:
    def samples(source: Source) -> Samples:
        data = source.overview.data
        return [] if data is None else [((), value(data))]

    return samples


def _image(value: Callable[[ImageQuality], float | None]) -> Callable[[Source], Samples]:
    def samples(source: Source) -> Samples:
        return [((), value(image)) for image in source.overview.images[:1]]

    return samples


METRICS: tuple[Metric, ...] = (
    Metric(
        "contimg_tasks",
        "Tasks in each state.",
        ("queue", "state"),
        lambda s: [
            ((queue.queue_name, state), count)
            for queue in s.overview.queues
            for state, count in queue.tasks_by_state.items()
        ],
    ),
    Metric(
        "contimg_claimable_tasks",
        "Tasks that a worker could take up now.",
        ("queue",),
        lambda s: [((queue.queue_name,), queue.claimable) for queue in s.overview.queues],
    ),
    Metric(
        "contimg_oldest_claimable_seconds",
        "How long the oldest task that could run has waited for a worker; 0: none waits.",
        ("queue",),
        lambda s: [
            ((queue.queue_name,), queue.oldest_claimable_seconds or 0.0)
            for queue in s.overview.queues
        ],
    ),
    Metric(
        "contimg_expired_leases",
        "Runs whose lease is over and that nobody has taken up yet.",
        ("queue",),
        lambda s: [((queue.queue_name,), queue.expired_leases) for queue in s.overview.queues],
    ),
    Metric(
        "contimg_queue_paused",
        "1 while an operator has paused the queue.",
        ("queue",),
        lambda s: [((queue.queue_name,), queue.pause is not None) for queue in s.overview.queues],
    ),
    Metric(
        "contimg_queue_problems",
        "Tasks that are stuck, or that block the queue: contimg doctor names them.",
        ("queue",),
        lambda s: [((queue.queue_name,), len(queue.problems)) for queue in s.overview.queues],
    ),
    Metric(
        "contimg_recent_window_seconds",
        "The time that the metrics with recent in their name look back.",
        ("queue",),
        lambda s: [((queue.queue_name,), queue.recent_seconds) for queue in s.overview.queues],
    ),
    Metric(
        "contimg_recent_ended_tasks",
        "Tasks that completed or failed recently; superseded: failed, and their group has a later "
        "task.",
        ("queue", "state"),
        lambda s: [
            ((queue.queue_name, state), count)
            for queue in s.overview.queues
            for state, count in (
                ("completed", queue.completed_recently),
                ("failed", queue.failed_recently),
                ("superseded", queue.superseded_recently),
            )
        ],
    ),
    Metric(
        "contimg_recent_failed_attempts",
        "Attempts that failed recently, by failure kind; an error of no kind by its name.",
        ("queue", "kind"),
        lambda s: [
            ((queue.queue_name, kind), count)
            for queue in s.overview.queues
            for kind, count in queue.failures_by_kind.items()
        ],
        adds_up=True,
    ),
    Metric(
        "contimg_recent_latency_seconds",
        "From spawn to completion, of the tasks that completed recently: median and 95th "
        "percentile.",
        ("queue", "quantile"),
        lambda s: [
            ((queue.queue_name, quantile), value)
            for queue in s.overview.queues
            for quantile, value in (
                ("0.5", queue.latency_seconds_p50),
                ("0.95", queue.latency_seconds_p95),
            )
        ],
    ),
    Metric(
        "contimg_start_wait_seconds",
        "From the moment when a run could be claimed until it was, of the newest tasks.",
        ("queue",),
        durations=lambda s: {(queue,): each for queue, each in s.figures.start_waits.items()},
        buckets=WAIT_BUCKETS_SECONDS,
    ),
    Metric(
        "contimg_stage_duration_seconds",
        "Duration of a stage by the outcome of its start, of the newest tasks.",
        ("stage", "outcome"),
        durations=lambda s: {(*key,): each for key, each in s.figures.step_seconds.items()},
        buckets=DURATION_BUCKETS_SECONDS,
    ),
    Metric(
        "contimg_stage_starts",
        "Starts of a stage that ended, by outcome and failure kind, of the newest tasks.",
        ("stage", "outcome", "kind"),
        lambda s: s.figures.ended_starts.items(),
        adds_up=True,
    ),
    Metric(
        "contimg_service_silent",
        "1 if a worker, daemon or API process does not renew its record; 0 if it runs.",
        ("kind", "name", "host"),
        lambda s: [
            ((each.kind, each.name, each.host or ""), each.state == "silent")
            for each in s.overview.services
            if each.state != "stopped"
        ],
    ),
    Metric(
        "contimg_service_seen_seconds",
        "Time since a process that has not stopped in order was last heard of.",
        ("kind", "name", "host"),
        lambda s: [
            ((each.kind, each.name, each.host or ""), each.seen_seconds_ago)
            for each in s.overview.services
            if each.state != "stopped"
        ],
    ),
    Metric(
        "contimg_service_memory_bytes",
        "Resident memory of a process and its children.",
        ("kind", "name", "host"),
        lambda s: [
            ((each.kind, each.name, each.host or ""), each.memory_bytes)
            for each in s.overview.services
            if each.state == "running"
        ],
    ),
    Metric(
        "contimg_service_clock_offset_seconds",
        "Clock of a process's host minus that of the database.",
        ("kind", "name", "host"),
        lambda s: [
            ((each.kind, each.name, each.host or ""), each.clock_offset_seconds)
            for each in s.overview.services
            if each.state == "running"
        ],
    ),
    Metric(
        "contimg_worker_lease_seconds",
        "Time that is left of the shortest lease of a worker; negative: it is over.",
        ("name",),
        lambda s: [
            ((each.name,), min(lefts))
            for each in s.overview.services
            if (
                lefts := [
                    run.lease_seconds_left
                    for run in each.running
                    if run.lease_seconds_left is not None
                ]
            )
        ],
    ),
    Metric(
        "contimg_worker_utilisation_ratio",
        "Workers that run a task over living workers.",
        (),
        lambda s: [((), s.overview.worker_utilisation)],
    ),
    Metric(
        "contimg_disk_free_bytes",
        "Free space on the file system of a folder, seen from a host.",
        ("host", "role", "folder"),
        lambda s: [((d.host, d.role, d.folder), d.free_bytes) for d in s.overview.disks],
    ),
    Metric(
        "contimg_disk_used_ratio",
        "Used part of the file system of a folder.",
        ("host", "role", "folder"),
        lambda s: [((d.host, d.role, d.folder), d.used_share) for d in s.overview.disks],
    ),
    Metric(
        "contimg_disk_free_inodes_ratio",
        "Free part of the inodes of the file system of a folder.",
        ("host", "role", "folder"),
        lambda s: [((d.host, d.role, d.folder), d.free_inodes_share) for d in s.overview.disks],
    ),
    Metric(
        "contimg_disk_full_in_seconds",
        "When the disk is full at the rate of the last hours; no sample while it does not fill.",
        ("host", "role", "folder"),
        lambda s: [
            (
                (d.host, d.role, d.folder),
                None if d.hours_to_full is None else d.hours_to_full * 3600.0,
            )
            for d in s.overview.disks
        ],
    ),
    Metric(
        "contimg_newest_file_age_seconds",
        "Time since the newest sub-band file was seen.",
        (),
        _data(lambda data: data.newest_file_seconds_ago),
    ),
    Metric(
        "contimg_newest_image_age_seconds",
        "Time since the newest image was made.",
        (),
        _data(lambda data: data.newest_image_seconds_ago),
    ),
    Metric(
        "contimg_newest_mosaic_age_seconds",
        "Time since the newest mosaic was made.",
        (),
        _data(lambda data: data.newest_mosaic_seconds_ago),
    ),
    Metric(
        "contimg_groups",
        "Observation groups in each state.",
        ("state",),
        lambda s: (
            []
            if s.overview.data is None
            else [((state,), count) for state, count in s.overview.data.groups_by_state.items()]
        ),
    ),
    Metric(
        "contimg_missing_subbands",
        "Sub-bands that are missing in the groups closed within 24 h.",
        (),
        _data(lambda data: data.subbands_missing),
    ),
    Metric(
        "contimg_image_noise_janskys",
        "Noise of the newest image, per beam.",
        (),
        _image(lambda image: image.noise_jy),
    ),
    Metric(
        "contimg_image_flux_ratio",
        "Median of measured over catalogue flux in the newest image.",
        (),
        _image(lambda image: image.flux_ratio),
    ),
    Metric(
        "contimg_image_flagged_ratio",
        "Flagged part of the data of the newest image.",
        (),
        _image(lambda image: image.flagged_share),
    ),
    Metric(
        "contimg_stage_shortages",
        "Stages that a full disk ended in the last hour, in tasks that have not ended.",
        (),
        lambda s: [((), len(s.overview.shortages))],
    ),
    Metric(
        "contimg_maintenance_failed",
        "1 if the last maintenance has failed or skipped something: contimg status says what.",
        (),
        lambda s: [((), bool(s.overview.maintenance_problem))],
    ),
    Metric(
        "contimg_site_problems",
        "What could not be read, or is wrong with the site as a whole: contimg doctor looks.",
        (),
        lambda s: [((), len(s.overview.problems))],
    ),
    Metric(
        "contimg_alerts_raised",
        "Alerts of the site that are raised: contimg alerts shows them.",
        ("rule", "severity"),
        lambda s: s.alerts.items(),
    ),
    Metric(
        "contimg_read_timestamp_seconds",
        "When this was read, by the clock of the database (Unix time).",
        (),
        lambda s: [((), s.overview.at.timestamp())],
    ),
)
"""All metrics, in the order of the text and of `docs/alerts.md`."""
