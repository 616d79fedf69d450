"""One poll of the daemon: files, groups, tasks, windows, mosaics.

All that counts is in the registry and in Absurd. Each step does what the registry says is still to
be done, and a task is spawned before it is noted, under a key of its own: so a daemon may be killed
anywhere, started elsewhere, or run twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID

from pydantic import BaseModel

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.errors import BackendError
from absurd_contimg.core.records import LIVE_STATES, Json, SpawnOptions, TaskResult
from absurd_contimg.errors import AwayError, MissingInputError
from absurd_contimg.execution.context import GroupInputs
from absurd_contimg.ingest.arrivals import Arrivals
from absurd_contimg.ingest.lost_tasks import LostTasks
from absurd_contimg.ingest.ports import Clock, IngestStore
from absurd_contimg.ingest.window_mosaics import WindowMosaics
from absurd_contimg.ingest.windows import (
    Observation,
    Outcome,
    WindowRules,
    form_windows,
    is_enough,
    reconcile,
)
from absurd_contimg.products.subband_files import parse_group_id
from absurd_contimg.registry.ingestion_records import IngestGroup
from absurd_contimg.registry.models import FileState, GroupStatus, IngestState
from absurd_contimg.registry.windows import WindowState
from absurd_contimg.science.raw_pointing import mjd_of_name
from absurd_contimg.workflows import group as group_tasks
from absurd_contimg.workflows import photometry as photometry_tasks
from absurd_contimg.workflows.photometry import PhotometryInputs

_log = logging.getLogger(__name__)

_JUMP_SECONDS = 30.0
"""A difference of the two clocks from one poll to the next that is no drift."""
_LOOKUPS_MAX = 1000
"""Tasks asked for their state in one poll."""
_ACCEPTED = {FileState.WHOLE, FileState.CHANGED}
"""A file that changed later was accepted before."""
_ENDED_WELL = {GroupStatus.DONE, GroupStatus.DEGRADED}
_ENDED_BADLY = {GroupStatus.FAILED, GroupStatus.QUARANTINED}

Step = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Outage:
    """Something that a poll needed and that is away; `key` is the same while it is."""

    key: str
    problem: str


@dataclass(frozen=True, slots=True)
class PollReport:
    """What a poll could not do, and whether it left work that can be done at once."""

    outages: tuple[Outage, ...] = ()
    more: bool = False


@dataclass(slots=True)
class Daemon:
    """The daemon of a site. Its fields are ports and settings; it remembers its clocks, and when
    its queue was made."""

    backend: Backend
    store: IngestStore
    arrivals: Arrivals
    clock: Clock
    queue_name: str
    rules: WindowRules
    find_catalog: Callable[[], Path]
    calibrator: str = "auto"
    further_steps: Sequence[tuple[str, Step]] = ()
    """Run at the end of each poll: feeder and schedules."""
    begin_step: Callable[[str], None] | None = None
    """Called with the name of each step when it begins."""
    _clocks: tuple[float, float] | None = field(default=None)
    _more: bool = field(default=False)
    _lost: LostTasks = field(init=False)

    def __post_init__(self) -> None:
        self._lost = LostTasks(self.backend, self.store, self.clock, self.queue_name)

    async def poll(self) -> PollReport:
        """Do all that can be done now. What is away hinders only the steps that need it."""
        steps: list[tuple[str, Step]] = [
            ("files", self._look_at_files),
            ("groups", self._spawn_groups),
            ("windows", self._form_windows),
            ("mosaics", self._spawn_mosaics),
            ("photometry", self._spawn_photometry),
            *self.further_steps,
        ]
        self._more = False
        outages = []
        for name, step in steps:
            if self.begin_step is not None:
                self.begin_step(name)
            try:
                await step()
            except (AwayError, BackendError, MissingInputError) as error:
                outages.append(Outage(f"{name}: {type(error).__name__}", str(error)))
        return PollReport(tuple(outages), self._more)

    async def _look_at_files(self) -> None:
        now = self.clock.now()
        await self._note_clock_jump(now)
        self._more = await asyncio.to_thread(self.arrivals.look, now)

    async def _note_clock_jump(self, now: float) -> None:
        """Move the times of what is being collected with the clock, so that no wait is cut."""
        monotonic = self.clock.monotonic()
        if self._clocks is not None:
            before, monotonic_before = self._clocks
            jump = (now - before) - (monotonic - monotonic_before)
            if abs(jump) > _JUMP_SECONDS:
                _log.warning("the clock of this host was set by %+.0f s", jump)
                await asyncio.to_thread(self.store.shift_times, jump, before - 86_400.0)
        self._clocks = now, monotonic

    async def _spawn_groups(self) -> None:
        await self._lost.forget()
        groups = await asyncio.to_thread(self.store.groups_to_spawn)
        if not groups:
            return
        catalog = await asyncio.to_thread(self.find_catalog)
        for group in groups:
            inputs = GroupInputs(
                group_id=group.group_id,
                input_files=accepted_files(group),
                catalog_path=catalog,
                calibrator=self.calibrator,
            )
            options = of_version(group_tasks.spawn_options(group.group_id), group)
            task_id = await self._spawn(group_tasks.TASK_NAME, inputs, options)
            await asyncio.to_thread(
                self.store.note_task, group.group_id, group.files_version, task_id
            )
            _log.info("group %s: task %s", group.group_id, task_id)

    async def _spawn(self, name: str, inputs: BaseModel, options: SpawnOptions) -> str:
        params: Json = inputs.model_dump(mode="json")
        task = await self.backend.spawn_task(self.queue_name, name, params, options)
        return str(task.task_id)

    async def _form_windows(self) -> None:
        groups = await asyncio.to_thread(self.store.observations)
        stored = await asyncio.to_thread(self.store.windows)
        quiet_seconds = self._quiet_seconds(groups)
        closed = {window.window_id for window in stored if window.state is WindowState.CLOSED}
        outcomes = {group.group_id: outcome_by_status(group) for group in groups}
        formed = form_windows(_observe_all(groups, outcomes), self.rules, quiet_seconds)
        asked = {
            member.group_id
            for window in formed.windows
            if window.window_id not in closed
            for member in window.members
        }
        outcomes |= await self._ask_tasks([group for group in groups if group.group_id in asked])
        formed = form_windows(_observe_all(groups, outcomes), self.rules, quiet_seconds)
        mosaics = WindowMosaics(self.backend, self.queue_name)
        changes = [await mosaics.update_task(window) for window in reconcile(stored, formed)]
        await asyncio.to_thread(self.store.store_windows, changes)
        for window in changes:
            if window.members and window.state is not WindowState.OPEN:
                reason = window.closed_reason or ""
                if window.state is WindowState.SUPERSEDED:
                    reason = f"by {window.superseded_by}"
                _log.info("window %s is %s: %s", window.window_id, window.state, reason)

    async def _ask_tasks(self, groups: Sequence[IngestGroup]) -> dict[str, _Outcome]:
        """The outcomes by their tasks of groups whose status tells none; failed ones first."""
        asked = [
            group
            for group in sorted(groups, key=lambda group: group.status not in _ENDED_BADLY)
            if group.status not in _ENDED_WELL and group.task_id is not None
        ]
        outcomes = {}
        for group in asked[:_LOOKUPS_MAX]:
            task_id = UUID(group.task_id)
            result = await self.backend.get_task_result(self.queue_name, task_id)
            outcomes[group.group_id] = outcome_by_task(group, result)
        return outcomes

    def _quiet_seconds(self, groups: Sequence[IngestGroup]) -> float:
        """How long no group has been closed; 0 while one is collected."""
        if any(group.ingest_state is IngestState.COLLECTING for group in groups):
            return 0.0
        newest = max((group.closed_at or 0.0 for group in groups), default=0.0)
        return max(0.0, self.clock.now() - newest)

    async def _spawn_mosaics(self) -> None:
        mosaics = WindowMosaics(self.backend, self.queue_name)
        for window in await asyncio.to_thread(self.store.windows):
            if window.state is not WindowState.CLOSED or window.task_id is not None:
                continue
            if not is_enough(window):
                continue
            catalog = await asyncio.to_thread(self.find_catalog)
            task_id = await mosaics.spawn(window, catalog)
            await asyncio.to_thread(self.store.note_window_task, window.window_id, task_id)
            _log.info("window %s: task %s", window.window_id, task_id)

    async def _spawn_photometry(self) -> None:
        for group, image_key in await asyncio.to_thread(self.store.groups_for_photometry):
            catalog = await asyncio.to_thread(self.find_catalog)
            inputs = PhotometryInputs(group_id=group.group_id, catalog_path=catalog)
            options = photometry_tasks.spawn_options(group.group_id, image_key)
            options = of_version(options, group)
            task_id = await self._spawn(photometry_tasks.TASK_NAME, inputs, options)
            await asyncio.to_thread(
                self.store.note_photometry_task,
                *(group.group_id, group.files_version, image_key, task_id),
            )


def accepted_files(group: IngestGroup) -> tuple[Path, ...]:
    """The files with which a closed group is processed, in the order of sub-bands."""
    return tuple(file.path for file in group.files if file.state in _ACCEPTED)


def of_version(options: SpawnOptions, group: IngestGroup) -> SpawnOptions:
    """The options of a task for this version of a group's files: its own key."""
    if group.files_version == 1:
        return options
    return replace(options, idempotency_key=f"{options.idempotency_key}#{group.files_version}")


_Outcome = tuple[Outcome, str]


def outcome_by_status(group: IngestGroup) -> _Outcome:
    """How a group ended, as far as its status tells: one that failed may run again."""
    if group.status in _ENDED_WELL:
        return Outcome.USABLE, "degraded" if group.status is GroupStatus.DEGRADED else ""
    return Outcome.PENDING, ""


def outcome_by_task(group: IngestGroup, result: TaskResult | None) -> _Outcome:
    """How a group ended of which no good end is known; a task that runs again is pending."""
    if result is not None and result.state in LIVE_STATES:
        return Outcome.PENDING, ""
    if group.status in _ENDED_BADLY and group.reason:
        return Outcome.UNUSABLE, f"{group.status}: {group.reason}"
    state = "gone" if result is None else result.state
    return Outcome.UNUSABLE, f"{group.status}; its task is {state}"


def _observe_all(
    groups: Sequence[IngestGroup], outcomes: Mapping[str, _Outcome]
) -> list[Observation]:
    return [observe(group, *outcomes[group.group_id]) for group in groups]


def observe(group: IngestGroup, outcome: Outcome, reason: str) -> Observation:
    """A group as the windows see it. One that was opened again keeps its place."""
    state = group.ingest_state
    if state is IngestState.COLLECTING and group.mid_mjd is not None:
        state = IngestState.CLOSED
    named = parse_group_id(group.group_id)
    return Observation(
        group_id=group.group_id,
        mid_mjd=mjd_of_name(named) if group.mid_mjd is None else group.mid_mjd,
        declination_deg=group.declination_deg,
        ingest_state=state,
        outcome=outcome,
        reason=group.closed_reason if state is IngestState.REJECTED else reason,
    )
