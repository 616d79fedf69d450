"""From sub-band files in the input folder to one task for each observation group."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.records import SpawnedTask, SpawnOptions, State, Task
from absurd_contimg.errors import InputError, MissingInputError
from absurd_contimg.execution.context import GroupInputs
from absurd_contimg.execution.stage import Resource, stage_queues
from absurd_contimg.history.stage_tasks import COORDINATOR
from absurd_contimg.ingest.closing import name_subbands
from absurd_contimg.ingest.past_tasks import Ended, PastTasks
from absurd_contimg.products.subband_files import is_subband_name, parse_subband_name
from absurd_contimg.registry import Group, Registry
from absurd_contimg.registry.grouping import GROUP_WAIT_SECONDS, TOLERANCE_SECONDS
from absurd_contimg.registry.ingestion import IngestionTables
from absurd_contimg.registry.ingestion_records import Closure, FileSighting
from absurd_contimg.registry.models import IngestState
from absurd_contimg.science.hdf5_files import is_finished
from absurd_contimg.science.raw_pointing import first_pointing
from absurd_contimg.settings import QUEUE_BYTES_MAX, Settings
from absurd_contimg.similar_names import did_you_mean
from absurd_contimg.workflows import group as group_workflow
from absurd_contimg.workflows import hybrid, stage_tasks

_log = logging.getLogger(__name__)

_ARRIVAL_SECONDS_MAX = 3600.0

STRATEGIES: Mapping[str, tuple[str, Callable[[str], SpawnOptions]]] = {
    "group": (group_workflow.TASK_NAME, group_workflow.spawn_options),
    "stages": (COORDINATOR, stage_tasks.spawn_options),
    "hybrid": (hybrid.TASK_NAME, hybrid.spawn_options),
}
"""The task of each way to process a group, and its options."""


@dataclass(frozen=True, slots=True)
class Spawned:
    """A group and its task; None while the group waits, or if it has ended without one."""

    group: Group
    task: SpawnedTask | None
    present: int
    """How many of its sub-bands are there now."""
    expected: int
    state: State | None = None
    """Of a task that existed."""
    waits_for: str = ""
    """What a group without a task waits for."""
    ended: Ended | None = None
    """How a group ended whose task is not in the queue any more, and that gets no other."""


async def spawn_groups(
    backend: Backend,
    settings: Settings,
    registry: Registry,
    *,
    calibrator: str = "auto",
    incomplete_now: bool = False,
    respawn: bool = False,
    strategy: str = "group",
    only: Collection[str] = (),
) -> list[Spawned]:
    """Form groups from the files in the input folder and spawn a task for each.

    `strategy` is one of `STRATEGIES`. A group keeps its task, of whatever strategy, unless it
    failed or was cancelled and `respawn` is set. So it does when the task is not in the queue any
    more: see `Ended`. One with too few sub-bands waits until its first file is
    `GROUP_WAIT_SECONDS` old, or not at all with `incomplete_now`. With `only` nothing is done
    about other groups than these. Raises `MissingInputError` for the folder, sub-bands, catalogue,
    or a group that is not there.
    """
    if strategy == "stages":
        await require_stage_queues(backend, settings.queue_name)
    seen_at = (await backend.current_time()).timestamp()
    groups = await asyncio.to_thread(_groups, settings, registry, seen_at)
    if only:
        groups = _only(only, groups, settings.pipeline.paths.input_dir)
    catalog = find_catalog(settings)
    expected = settings.pipeline.conversion.expected_subbands
    task_names = {name for name, _ in STRATEGIES.values()}
    past = PastTasks(backend, settings.queue_name, registry, task_names)
    await past.read()
    results = []
    for group in groups:
        changed = await asyncio.to_thread(_times_of_change, group.files)
        present = {parse_subband_name(path).subband for path in changed}
        waits = _waits_for(changed, expected, incomplete_now)
        if not waits and (arriving := await asyncio.to_thread(_arriving, changed)):
            names = ", ".join(path.name for path in arriving[:3])
            waits = f"{len(arriving)} files still arriving: {names}"
        if waits:
            results.append(Spawned(group, None, len(present), expected, waits_for=waits))
            continue
        inputs = GroupInputs(
            group_id=group.group_id,
            input_files=tuple(changed),
            catalog_path=catalog,
            calibrator=calibrator,
        )
        async with backend.operator_lock() if respawn else nullcontext():
            task, state = await _spawn(past, inputs, respawn, strategy)
        if isinstance(task, Ended):
            results.append(Spawned(group, None, len(present), expected, ended=task))
            continue
        now = (await backend.current_time()).timestamp()
        await asyncio.to_thread(_close, registry, inputs, str(task.task_id), now, task.created)
        results.append(Spawned(group, task, len(present), expected, state))
    return results


def _only(names: Collection[str], groups: Sequence[Group], folder: Path) -> list[Group]:
    known = [group.group_id for group in groups]
    for name in names:
        if name not in known:
            raise MissingInputError(
                f"There is no group {name!r} in {folder}.",
                did_you_mean(name, known, "contimg groups lists them."),
            )
    return [group for group in groups if group.group_id in names]


def _waits_for(changed: Mapping[Path, float], expected: int, incomplete_now: bool) -> str:
    """Which files a group waits for, and until when; empty if its task may begin."""
    if not changed:
        return "none of its files can be read: links without a file, or a disk that is away"
    missing = set(range(expected)) - {parse_subband_name(path).subband for path in changed}
    if not missing or incomplete_now or not _is_young(changed):
        return ""
    ends = datetime.fromtimestamp(min(changed.values()) + GROUP_WAIT_SECONDS, UTC)
    return f"{name_subbands(missing)} until {ends:%H:%M:%S} UTC (--now does not wait)"


def _close(registry: Registry, inputs: GroupInputs, task_id: str, now: float, is_new: bool) -> None:
    """Fix the files of a group that has a task now, so that a daemon gives it no others."""
    pointing = first_pointing(inputs.input_files)
    tables = IngestionTables(registry.database)
    closure = Closure(
        group_id=inputs.group_id,
        state=IngestState.CLOSED,
        reason=f"{len(inputs.input_files)} sub-bands, by command",
        accepted=inputs.input_files,
        others=(),
        mid_mjd=None if pointing is None else pointing.mid_mjd,
        declination_deg=None if pointing is None else pointing.declination_deg,
        closed_at=now,
    )
    is_closed = tables.close_group(closure)
    if is_new:  # maybe in the place of one that failed or was cancelled
        (group,) = tables.groups(group_id=inputs.group_id)
        tables.note_task(inputs.group_id, group.files_version, task_id)
    elif is_closed:
        tables.note_task(inputs.group_id, 1, task_id)


async def require_stage_queues(backend: Backend, queue_name: str) -> None:
    """Raise `MissingInputError` without the queues of stage tasks."""
    known = await backend.list_queues()
    missing = [queue for queue in stage_queues(queue_name).values() if queue not in known]
    if missing:
        raise MissingInputError(
            f"There is no queue {missing[0]!r}, which --strategy stages needs.",
            "Create it: contimg db init (the main queue's name may have "
            f"{QUEUE_BYTES_MAX - max(map(len, Resource)) - 1} bytes then).",
        )


async def _spawn(
    past: PastTasks, inputs: GroupInputs, respawn: bool, strategy: str
) -> tuple[SpawnedTask | Ended, State | None]:
    """A new task of the group, or its earlier one with its state, or how it ended.

    With `respawn` a new one too where all earlier ones, forks included, have failed or were
    cancelled.
    """
    known = await past.of_group(inputs.group_id, to_repeat=respawn)
    if isinstance(known, Ended) and (known.is_finished or not respawn):
        return known, None
    if isinstance(known, Task) and (not respawn or not _may_be_repeated(known)):
        return _existing(known)
    task_name, spawn_options = STRATEGIES[strategy]
    options, number = spawn_options(inputs.group_id), 1
    first_key = options.idempotency_key
    params = inputs.model_dump(mode="json")
    while True:
        task = await past.backend.spawn_task(past.queue_name, task_name, params, options)
        if task.created:
            return task, None
        if known is None:  # the registry has not noted it
            known = await past.task_in_queue(inputs.group_id)
            if known is None:  # of other parameters than a group's
                return task, None
            if not respawn or not _may_be_repeated(known):
                return _existing(known)
        number += 1
        options = replace(options, idempotency_key=f"{first_key}#{number}")


def _may_be_repeated(task: Task) -> bool:
    return task.state in ("failed", "cancelled")


def _existing(task: Task) -> tuple[SpawnedTask, State]:
    run_id = task.last_attempt_run or task.task_id  # Absurd gives each task a run
    return SpawnedTask(task.task_id, run_id, task.attempts, created=False), task.state


def find_catalog(settings: Settings) -> Path:
    """The sky catalogue: as set, or ``catalog.csv`` in the input folder."""
    path = settings.catalog or settings.pipeline.paths.input_dir / "catalog.csv"
    if not path.is_file():
        problem = f"The sky catalogue {path} is no regular file."
        raise MissingInputError(
            problem if path.exists() else f"There is no sky catalogue at {path}.",
            "Set --catalog or PIPELINE_CATALOG (contimg synth writes a catalogue).",
        )
    return path


def check_inputs(settings: Settings) -> None:
    """Raise `MissingInputError` where `spawn_groups` would, before a database is made."""
    _subband_files(settings)
    find_catalog(settings)


def _groups(settings: Settings, registry: Registry, now: float) -> list[Group]:
    """The groups of the files, which are entered as the daemon enters them."""
    paths = _subband_files(settings)
    sightings = [
        FileSighting(path, status.st_size, status.st_mtime_ns)
        for path, status in _statuses(paths).items()
    ]
    for file in IngestionTables(registry.database).enter_files(sightings, now, TOLERANCE_SECONDS):
        _log.warning("group %s: %s %s", file.group_id, file.path.name, file.reason)
    group_ids = set(registry.register_files(paths).values())  # of those that are away, too
    return [registry.group(group_id) for group_id in sorted(group_ids)]


def _subband_files(settings: Settings) -> list[Path]:
    folder = settings.pipeline.paths.input_dir
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise MissingInputError(
            f"The input folder {folder} cannot be read: {error.strerror}.",
            "Set --input-dir or PIPELINE_INPUT_DIR.",
        ) from error
    expected = settings.pipeline.conversion.expected_subbands
    files = [path for path in paths if _is_subband(path, expected)]
    if not files and not any(path.name.endswith("_incomplete.hdf5") for path in paths):
        raise MissingInputError(
            f"There is no sub-band file in {folder}.",
            "Their names are like 2025-01-02T03:04:05_sb00.hdf5; contimg synth makes test data.",
        )
    return files


def _is_subband(path: Path, expected: int) -> bool:
    """Whether a name is a sub-band's; an impossible date or number is logged and left alone."""
    if not is_subband_name(path.name):
        return False
    try:
        subband = parse_subband_name(path).subband
    except InputError as error:
        _log.warning("%s", error)
        return False
    if subband >= expected:
        _log.warning("%s is ignored: there are %d sub-bands.", path, expected)
    return subband < expected


def _statuses(paths: Iterable[Path]) -> dict[Path, os.stat_result]:
    """Of the regular files; what cannot be looked at is not there yet."""
    statuses = {}
    for path in paths:
        with suppress(OSError):
            status = path.stat()
            if stat.S_ISREG(status.st_mode):
                statuses[path] = status
    return statuses


def _times_of_change(paths: Iterable[Path]) -> dict[Path, float]:
    return {path: status.st_mtime for path, status in _statuses(paths).items()}


def _arriving(changed: Mapping[Path, float]) -> list[Path]:
    """Files that are still being written or copied; only files of the last hour are opened."""
    now = time.time()
    young = [path for path, at in changed.items() if now - at < _ARRIVAL_SECONDS_MAX]
    return [path for path in young if not is_finished(path)]


def _is_young(changed: Mapping[Path, float]) -> bool:
    return (
        abs(time.time() - min(changed.values())) < GROUP_WAIT_SECONDS
    )  # a wrong clock may be ahead
