"""The disks of a site: as its hosts sampled them, and those of this host as they are now."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from itertools import combinations, groupby
from pathlib import Path
from statistics import median

from absurd_contimg.config.alerts import AlertsConfig
from absurd_contimg.execution.disk_marks import Watermarks
from absurd_contimg.execution.disk_usage import MOUNT_FOR_WRITING, disk_usage, size_text
from absurd_contimg.execution.host_scratch import host_name
from absurd_contimg.operations.overview.records import DiskOverview, Health
from absurd_contimg.registry.disk_samples import DiskSample
from absurd_contimg.settings import Settings

TREND_SECONDS = 6 * 3600.0
"""The rate at which a disk fills is that of so long a time."""
_TREND_SECONDS_MIN = 1200.0
"""A shorter time says nothing: one stage fills and empties scratch in minutes."""
_TREND_SAMPLES_MIN = 4
_FILLING_SHARE_MIN = 0.001
"""A disk of which less than this share was taken in that time does not fill."""
_OLD_SECONDS = 900.0
"""A sample that is older says little of the disk now."""
_ANSWER_SECONDS = 2.0
_READ_ONLY = "can only be read"


def folders_of(settings: Settings) -> dict[str, str]:
    """The role of each folder of a site."""
    paths = settings.pipeline.paths
    roles = {
        "state": paths.state_dir,
        "scratch": paths.scratch_dir,
        "publish": paths.publish_dir,
        "input": paths.input_dir,
        "output": paths.output_dir,
    }
    return {str(path): role for role, path in roles.items() if path is not None}


def read_disks(
    samples: Sequence[DiskSample], settings: Settings | None, now: float
) -> list[DiskOverview]:
    """The disks of all hosts, each folder once; this host's are measured now. Blocks for 2 s at
    most for a disk that does not answer.

    `samples` are ordered by host, folder and time.
    """
    roles = {} if settings is None else folders_of(settings)
    marks = Watermarks() if settings is None else Watermarks(
        settings.disk_warn_gb, settings.disk_critical_gb
    )  # fmt: skip
    limits = AlertsConfig() if settings is None else settings.pipeline.alerts
    host = host_name()
    histories = {
        key: list(group)
        for key, group in groupby(samples, lambda sample: (sample.host, sample.folder))
    }
    disks = []
    measured, failures = measure(roles, host, now)
    for folder in roles:
        history = histories.pop((host, folder), [])
        if folder in failures:
            disks.append(_absent(host, roles[folder], folder, failures[folder]))
        else:
            disks.append(_disk([*history, measured[folder]], roles[folder], marks, limits, now))
    disks += [
        _disk(history, roles.get(folder, "other"), marks, limits, now)
        for (_, folder), history in histories.items()
    ]
    return sorted(disks, key=lambda disk: (disk.host, disk.role, disk.folder))


def measure(
    roles: Mapping[str, str], host: str, now: float
) -> tuple[Mapping[str, DiskSample], Mapping[str, str]]:
    """The file systems of folders of this host, and what is wrong with others.

    `roles` are those of the folders; only the input may be on one that can only be read.
    """
    samples: dict[str, DiskSample] = {}
    failures: dict[str, str] = {}

    def look(folder: str) -> None:
        try:
            usage = disk_usage(Path(folder))
        except OSError as error:
            failures[folder] = f"cannot be looked at: {error.strerror}. Mount or create it."
            return
        if usage.read_only and roles[folder] != "input":
            failures[folder] = f"{_READ_ONLY}: nothing goes on. {MOUNT_FOR_WRITING}"
            return
        samples[folder] = DiskSample(
            host=host,
            folder=folder,
            at=now,
            free_bytes=usage.free_bytes,
            total_bytes=usage.total_bytes,
            free_inodes=usage.free_inodes,
            total_inodes=usage.total_inodes,
        )

    # A file system that hangs keeps its thread: not one that the process waits for at its end.
    threads = [threading.Thread(target=look, args=(folder,), daemon=True) for folder in roles]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_ANSWER_SECONDS)
    for folder in roles:
        if folder not in samples:
            text = f"cannot be looked at: it does not answer within {_ANSWER_SECONDS:g} s. "
            failures.setdefault(folder, f"{text}Mount or create it.")
    return samples, failures


def _absent(host: str, role: str, folder: str, problem: str) -> DiskOverview:
    return DiskOverview(
        host=host,
        role=role,
        folder=folder,
        health="unknown",
        problem=f"{folder} on {host} {problem}",
        free_bytes=None,
        total_bytes=None,
        used_share=None,
        free_inodes_share=None,
        hours_to_full=None,
        measured_seconds_ago=None,
        read_only=problem.startswith(_READ_ONLY),
    )


def _disk(
    history: Sequence[DiskSample], role: str, marks: Watermarks, limits: AlertsConfig, now: float
) -> DiskOverview:
    last = history[-1]
    hours = hours_to_full(history)
    age = max(now - last.at, 0.0)
    health, problem = _judge(last, hours, marks, limits)
    if age > _OLD_SECONDS:
        health = "unknown"
        problem = (
            f"{last.folder} on {last.host} was last measured {age / 60:.0f} min ago: "
            "look whether a worker of that host lives."
        )
    total_inodes = last.total_inodes
    return DiskOverview(
        host=last.host,
        role=role,
        folder=last.folder,
        health=health,
        problem=problem,
        free_bytes=last.free_bytes,
        total_bytes=last.total_bytes,
        used_share=1.0 - last.free_bytes / last.total_bytes if last.total_bytes else None,
        free_inodes_share=last.free_inodes / total_inodes
        if last.free_inodes is not None and total_inodes
        else None,
        hours_to_full=hours,
        measured_seconds_ago=age,
    )


def _judge(  # noqa: PLR0911 - one return a threshold
    last: DiskSample, hours: float | None, marks: Watermarks, limits: AlertsConfig
) -> tuple[Health, str]:
    place = f"{last.folder} on {last.host}"
    free, total = last.free_bytes, int(last.total_bytes)
    remove = "Remove old products, or make the disk larger."
    if free < marks.critical_bytes(total):
        return "failure", f"{place} has {size_text(free)} left, workers claim nothing. {remove}"
    if hours is not None and hours < limits.disk_failure_hours:
        return "failure", f"{place} is full in {hours:.1f} h at its present rate. {remove}"
    inodes = None
    if last.free_inodes is not None and last.total_inodes:
        inodes = last.free_inodes / last.total_inodes
    if inodes is not None and inodes < marks.critical_inodes_share:
        return "failure", f"{place} has {inodes:.1%} of its inodes left. Remove small files."
    if free < marks.warn_bytes(total):
        return "warning", f"{place} has {size_text(free)} left. {remove}"
    if inodes is not None and inodes < marks.warn_inodes_share:
        return "warning", f"{place} has {inodes:.1%} of its inodes left. Remove small files."
    if hours is not None and hours < limits.disk_full_hours:
        return "warning", f"{place} is full in {hours:.1f} h at its present rate. {remove}"
    return "ok", ""


def hours_to_full(history: Sequence[DiskSample]) -> float | None:
    """At the median rate between all pairs of samples (Theil and Sen); None if it does not fill.

    A stage that fills scratch and empties it again moves no median.
    """
    if len(history) < _TREND_SAMPLES_MIN:
        return None
    first, last = history[0], history[-1]
    span = last.at - first.at
    if span < _TREND_SECONDS_MIN:
        return None
    slopes = [
        (later.free_bytes - earlier.free_bytes) / (later.at - earlier.at)
        for earlier, later in combinations(history, 2)
        if later.at > earlier.at
    ]
    rate = median(slopes)
    if -rate * span < _FILLING_SHARE_MIN * last.total_bytes:
        return None
    return last.free_bytes / -rate / 3600.0
