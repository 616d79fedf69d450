"""What the rules measure: the value of each subject, with its fact and the command to run.

While an operator has paused a queue, its waits are no fact; while all queues are paused, silent
workers are none: that is maintenance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Literal

from absurd_contimg.config.alerts import AlertsConfig
from absurd_contimg.execution.disk_usage import size_text
from absurd_contimg.ingest.batches import reprocessing_queue
from absurd_contimg.operations.alerts.records import Dependency, Look, Measured
from absurd_contimg.operations.console import counted
from absurd_contimg.operations.overview import (
    DiskOverview,
    ImageQuality,
    QueueOverview,
    ServiceOverview,
    SiteOverview,
    WaitingTask,
)

_STALE_SECONDS = 3600.0
"""A disk that was measured longer ago is not measured."""
_SAME_SHARE = 1e-3
"""Of a file system's size: two folders whose free space differs by less are on one."""
_SAME_TASK_SECONDS = 2.0
"""The waits of the overview and of the queue are of the same task if they began so close."""


def away(look: Look, dependency: Dependency) -> Iterable[Measured]:
    """1 if the database or the registry does not answer."""
    problem = look.away.get(dependency)
    fact = f"The {dependency} answers." if problem is None else f"The {dependency}: {problem}"
    yield Measured(dependency, 0.0 if problem is None else 1.0, fact, "contimg doctor")


def failed_tasks(look: Look) -> Iterable[Measured]:
    """Tasks of a queue that failed recently and that no later task of their group replaces."""
    for queue in _queues(look):
        kinds = sorted(queue.failures_by_kind.items(), key=lambda item: -item[1])
        named = ", ".join(f"{kind} {count}" for kind, count in kinds[:3])
        minutes, number = queue.recent_seconds / 60, queue.superseded_recently
        yield Measured(
            queue.queue_name,
            queue.failed_recently,
            f"{counted(queue.failed_recently, 'task')} of queue {queue.queue_name} failed within "
            f"{minutes:.0f} min, {queue.completed_recently} completed"
            + (f", {number} failed and have a later task of their group" if number else "")
            + (f" (failed attempts: {named})." if named else "."),
            f"contimg --queue {queue.queue_name} status, then: contimg history "
            f"{queue.last_failed or 'TASK'}",
            queue.last_failed,
        )


def enqueued_seconds(look: Look) -> Iterable[Measured]:
    """How long the oldest task that could run has waited for a worker; not one of a batch.

    Batches are there to wait: a few of their tasks are always ahead.
    """
    names = {reprocessing_queue(queue.queue_name) for queue in _queues(look)}
    for queue in _queues(look):
        if queue.queue_name in names:
            continue
        waited = queue.oldest_claimable_seconds or 0.0
        task = _waits_since(look, queue.queue_name, waited) if waited else None
        workers = sum(
            service.kind == "worker" and service.state == "running"
            for service in _overview(look).services
        )
        yield Measured(
            queue.queue_name,
            None if queue.pause is not None else waited,
            f"A task of queue {queue.queue_name} has waited {_duration(waited)} for a worker; "
            f"{counted(queue.claimable, 'task')} could run, workers alive: {workers}.",
            "contimg status"
            if task is None
            else f"contimg history {task.task_id}; workers: contimg status",
            None if task is None else task.task_id,
        )


def behind_pause_seconds(look: Look) -> Iterable[Measured]:
    """How long the oldest task of a queue has waited because an operator has paused the queue."""
    for queue in _queues(look):
        waited = queue.seconds_behind_pause(_overview(look).at)
        yield Measured(
            queue.queue_name,
            waited,
            f"Queue {queue.queue_name} is not paused."
            if queue.pause is None
            else f"{counted(queue.claimable, 'task')} waiting for {_duration(waited)} behind a "
            f"pause: {queue.pause}.",
            f"contimg queue resume {queue.queue_name}",
        )


def blocked(look: Look) -> Iterable[Measured]:
    """Tasks of a queue that are stuck or block it."""
    for queue in _queues(look):
        first = queue.problems[0] if queue.problems else "no task is stuck"
        yield Measured(
            queue.queue_name,
            float(len(queue.problems)),
            f"Queue {queue.queue_name} has {counted(len(queue.problems), 'problem')}: {first}",
            "contimg doctor",
        )


def silent_seconds(look: Look, kind: Literal["worker", "daemon"]) -> Iterable[Measured]:
    """How long a process that did not stop in order has not been heard of."""
    queues = _queues(look)
    maintenance = bool(queues) and all(queue.pause is not None for queue in queues)
    for service in _overview(look).services:
        if service.kind == kind and service.host is not None:
            held = service.running[0].task_id if service.running else None
            yield Measured(
                service.name,
                None if maintenance else _silence(service),
                f"The {kind} {service.name} on {service.host} was heard of "
                f"{_duration(service.seen_seconds_ago or 0.0)} ago"
                + (" and is dead." if service.is_gone else _state(service)),
                f"systemctl status '{_unit(service)}' on {service.host}; without systemd look "
                "there whether its process lives",
                held,
            )


def _state(service: ServiceOverview) -> str:
    return "." if service.state == "running" else f" and is {service.state}."


def _silence(service: ServiceOverview) -> float | None:
    return 0.0 if service.state == "stopped" else service.seen_seconds_ago


def _unit(service: ServiceOverview) -> str:
    return "dsa110-absurd-worker@*" if service.kind == "worker" else "dsa110-mosaic-daemon"


def file_age_cadences(look: Look, config: AlertsConfig) -> Iterable[Measured]:
    """Cadences since the newest file, where a daemon waits for files; 0 in hours without."""
    site = _overview(look)
    expects = any(each.kind == "daemon" and each.state != "stopped" for each in site.services)
    if site.data is None or not expects:
        return
    age = site.data.newest_file_seconds_ago
    value = None if age is None else age / config.cadence_seconds
    if value is not None and not _observes(site.at, config.observing_hours_utc):
        value = 0.0
    newest = "" if site.data.newest_group is None else f", of group {site.data.newest_group}"
    yield Measured(
        "incoming",
        value,
        f"The newest file came {_duration(age or 0.0)} ago{newest}.",
        "contimg groups; the telescope's writer and the incoming folder",
    )


def _observes(at: datetime, hours: tuple[float, float]) -> bool:
    hour = at.hour + at.minute / 60 + at.second / 3600
    first, last = hours
    return first <= hour < last if first <= last else hour >= first or hour < last


def hours_to_full(look: Look) -> Iterable[Measured]:
    """Hours until a disk is full at the rate of the last hours; a great number if it never is."""
    for disk in file_systems(_overview(look).disks):
        never = 1e6 if disk.free_bytes is not None else None
        hours = never if disk.hours_to_full is None else disk.hours_to_full
        yield _disk(disk, hours, f"is full in {disk.hours_to_full or 0.0:.1f} h at this rate")


def shortages(look: Look) -> Iterable[Measured]:
    """Stages that a full disk has ended in the last hour, in tasks that have not ended."""
    lacking = _overview(look).shortages
    last = lacking[0] if lacking else None
    yield Measured(
        "space",
        float(len(lacking)),
        "No stage has lacked space."
        if last is None
        else f"{last.step} of {last.group or 'a task'} was ended for lack of space on "
        f"{last.worker}: {last.message}",
        "contimg doctor" if last is None else f"contimg history {last.task_id}",
        None if last is None else last.task_id,
    )


def failed_maintenance(look: Look) -> Iterable[Measured]:
    """1 if the last maintenance has failed or skipped something."""
    problem = _overview(look).maintenance_problem
    fact = problem or "The last maintenance has skipped nothing."
    yield Measured("maintenance", float(bool(problem)), fact, "contimg maintenance run")


def used_share(look: Look) -> Iterable[Measured]:
    """Used part of a disk."""
    for disk in file_systems(look.disks):
        used = disk.used_share
        yield _disk(disk, used, f"is {100 * (used or 0.0):.1f} % full")


def read_only_disks(look: Look) -> Iterable[Measured]:
    """1 for a folder whose disk can only be read."""
    for disk in look.disks:
        yield Measured(
            f"{disk.host}:{disk.folder}",
            1.0 if disk.read_only else 0.0,
            disk.problem if disk.read_only else f"{disk.folder} on {disk.host} can be written.",
            "contimg doctor",
        )


def used_inodes_share(look: Look) -> Iterable[Measured]:
    """Used part of the inodes; not measured where a file system has no fixed number of them."""
    for disk in file_systems(look.disks):
        used = None if disk.free_inodes_share is None else 1.0 - disk.free_inodes_share
        yield _disk(disk, used, f"has used {100 * (used or 0.0):.1f} % of its inodes")


def file_systems(disks: Sequence[DiskOverview]) -> list[DiskOverview]:
    """Each file system of a host once, with the roles of all its folders.

    Folders are on one if it has the same size, and nearly the same free space: it may change
    between two measurements.
    """
    merged: list[DiskOverview] = []
    for disk in disks:
        for number, other in enumerate(merged):
            if _is_same(disk, other):
                role = f"{other.role}, {disk.role} {disk.folder}"
                merged[number] = replace(other, role=role)
                break
        else:
            merged.append(disk)
    return merged


def _is_same(disk: DiskOverview, other: DiskOverview) -> bool:
    free, total = disk.free_bytes, disk.total_bytes
    if free is None or other.free_bytes is None or not total or other.total_bytes != total:
        return False
    return disk.host == other.host and abs(free - other.free_bytes) < _SAME_SHARE * total


def _disk(disk: DiskOverview, value: float | None, fact: str) -> Measured:
    age = disk.measured_seconds_ago
    fresh = age is not None and age <= _STALE_SECONDS
    return Measured(
        f"{disk.host}:{disk.folder}",
        value if fresh else None,
        f"The disk of {disk.folder} ({disk.role}) on {disk.host} {fact}, "
        f"{size_text(disk.free_bytes or 0.0)} are free.",
        "contimg doctor",
    )


def noisy_images(look: Look, config: AlertsConfig) -> Iterable[Measured]:
    """Newest images in a row whose noise is above the limit."""
    limit = config.noise_max_mjy
    bands = [
        (image, None if image.noise_jy is None else 1e3 * image.noise_jy)
        for image in _overview(look).images
    ]
    yield from _in_a_row(
        bands, (0.0, limit), "noise", f"the noise is above {limit:g} mJy/beam", "mJy/beam"
    )


def wrong_fluxes(look: Look, config: AlertsConfig) -> Iterable[Measured]:
    """Newest images in a row whose flux ratio is out of its band."""
    band = (config.flux_ratio_min, config.flux_ratio_max)
    ratios = [(image, image.flux_ratio) for image in _overview(look).images]
    text = f"measured over catalogue flux is not within {band[0]:g} to {band[1]:g}"
    yield from _in_a_row(ratios, band, "flux ratio", text, "")


def unflagged_images(look: Look) -> Iterable[Measured]:
    """Newest images in a row of whose data exactly nothing is flagged."""
    shares = [
        (image, None if image.flagged_share is None else float(image.flagged_share == 0.0))
        for image in _overview(look).images
    ]
    yield from _in_a_row(
        shares, (0.0, 0.5), "flags", "exactly nothing is flagged: flagging did not happen", None
    )


def _in_a_row(
    values: Sequence[tuple[ImageQuality, float | None]],
    band: tuple[float, float],
    subject: str,
    problem: str,
    unit: str | None,
) -> Iterator[Measured]:
    """How many of the newest measured images are out of the band; None: none was measured."""
    measured = [(image, value) for image, value in values if value is not None]
    if not measured:
        return
    bad: list[tuple[ImageQuality, float]] = []
    for image, value in measured:
        if band[0] <= value <= band[1]:
            break
        bad.append((image, value))
    image, value = measured[0]
    newest = f"newest: {image.group}" + ("" if unit is None else f" with {value:.3g} {unit}")
    fact = f"{counted(len(bad), 'image')} in a row, {problem}"
    if not bad:  # an alert that is raised stays for its hold time
        fact = f"The newest image has good {subject}"
    command = f"contimg history {image.group}"
    yield Measured(subject, float(len(bad)), f"{fact} ({newest.strip()}).", command)


def slow_factor(look: Look, seconds_min: float) -> Iterable[Measured]:
    """How many times the usual (95th percentile) duration of its stage the slowest start takes."""
    site = _overview(look)
    worst: dict[str, Measured] = {}
    for service in site.services:
        for running in service.running:
            if running.step is None or running.started_at is None:
                continue
            usual = look.figures.usual_seconds(running.step)
            seconds = (site.at - running.started_at).total_seconds()
            factor = None if not usual else seconds / usual if seconds >= seconds_min else 0.0
            subject = f"{running.queue_name}/{running.step}"
            known = worst.get(subject)
            if known is not None and (known.value or 0.0) >= (factor or 0.0):
                continue
            worst[subject] = Measured(
                subject,
                factor,
                f"Stage {running.step} of {running.group or 'a task'} has run for "
                f"{_duration(seconds)} on {service.name}; 95 % of its starts took at most "
                f"{_duration(usual or 0.0)}.",
                f"contimg logs {running.task_id}; to end it: contimg cancel {running.task_id}",
                running.task_id,
            )
    yield from worst.values()


def _overview(look: Look) -> SiteOverview:
    assert look.overview is not None, "the evaluator asks only rules whose needs are met"
    return look.overview


def _queues(look: Look) -> Sequence[QueueOverview]:
    return _overview(look).queues


def _waits_since(look: Look, queue_name: str, seconds: float) -> WaitingTask | None:
    """The waiting task that is the oldest claimable one of its queue."""
    at = _overview(look).at
    candidates: Mapping[float, WaitingTask] = {
        abs((at - task.since).total_seconds() - seconds): task
        for task in _overview(look).waiting
        if task.queue_name == queue_name and task.since is not None
    }
    nearest = min(candidates, default=None)
    return candidates[nearest] if nearest is not None and nearest < _SAME_TASK_SECONDS else None


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
