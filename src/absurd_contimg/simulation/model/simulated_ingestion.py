"""The simulated registry of ingestion: files, groups and windows, with the real one's meaning.

Each call is one transaction. `tests/simulation/test_stream.py` holds it against `IngestionTables`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from absurd_contimg.core.records import Json
from absurd_contimg.ingest.ports import IngestStore
from absurd_contimg.products.subband_files import parse_subband_name
from absurd_contimg.registry.grouping import group_name
from absurd_contimg.registry.ingestion_records import (
    Closure,
    FileChange,
    FileSighting,
    IngestFile,
    IngestGroup,
)
from absurd_contimg.registry.models import FileState, GroupStatus, IngestState
from absurd_contimg.registry.windows import Window, WindowState

_NEXT_GROUP_SECONDS_MAX = 900
_WAIT = re.compile(r" [0-9.]+ s after (its first file|the next group began)")
_ENDED = (GroupStatus.DONE, GroupStatus.DEGRADED)

Status = tuple[GroupStatus, str]
"""How far the work on a group is, and why it has failed."""


class SimulatedIngestion:
    """An `ingest.ports.IngestStore`."""

    def __init__(self, status_of: Callable[[str], Status]) -> None:
        """`status_of` gives what workers have noted of a group."""
        self._status_of = status_of
        self._files: dict[str, IngestFile] = {}
        self._groups: dict[str, IngestGroup] = {}
        """Without status and files."""
        self._photometry_tasks: dict[str, str] = {}
        self._images: dict[str, str] = {}
        """The key of each group's newest image."""
        self._windows: dict[str, Window] = {}

    def fork(self, status_of: Callable[[str], Status]) -> SimulatedIngestion:
        """An independent copy."""
        twin = SimulatedIngestion(status_of)
        twin._files = dict(self._files)
        twin._groups = dict(self._groups)
        twin._photometry_tasks = dict(self._photometry_tasks)
        twin._images = dict(self._images)
        twin._windows = dict(self._windows)
        return twin

    def contents(self) -> str:
        """Everything that it knows."""
        tasks, images = self._photometry_tasks, self._images
        return repr((self._files, self._groups, tasks, images, self._windows))

    # -- files ----------------------------------------------------------------------------

    def known_paths(self) -> set[str]:
        """The paths of all files that were ever seen."""
        return set(self._files)

    def enter_files(
        self, sightings: Sequence[FileSighting], now: float, tolerance_seconds: int
    ) -> list[IngestFile]:
        """Enter new files, each into its group; the late ones."""
        new = {str(each.path): each for each in sightings if str(each.path) not in self._files}
        names = {path: parse_subband_name(sighting.path) for path, sighting in new.items()}
        times = sorted({name.timestamp_seconds for name in names.values()})
        groups: dict[int, str] = {}
        for time in times:
            self._assign(time, groups, tolerance_seconds)
        late = []
        for path, name in sorted(names.items()):
            group_id = groups[name.timestamp_seconds]
            state = self._groups[group_id].ingest_state
            is_late = state is not IngestState.COLLECTING
            file = IngestFile(
                path=new[path].path,
                group_id=group_id,
                subband=name.subband,
                timestamp_seconds=name.timestamp_seconds,
                size=new[path].size,
                mtime_ns=new[path].mtime_ns,
                state=FileState.LATE if is_late else FileState.ARRIVING,
                reason=f"came after the group was {state}" if is_late else "",
                first_seen=now,
                unchanged_since=now,
            )
            self._files[path] = file
            if is_late:
                late.append(file)
        return late

    def _assign(self, time: int, groups: dict[int, str], tolerance_seconds: int) -> None:
        """The group of a file of this time: the nearest file's, or a new one."""
        known = {file.timestamp_seconds: file.group_id for file in self._files.values()}
        known |= groups
        near = [(abs(t - time), group) for t, group in known.items()]
        near = [each for each in near if each[0] <= tolerance_seconds]
        name = group_name(time)
        if not near:
            groups[time] = name
            self._groups.setdefault(name, _new_group(name))
            return
        group_id = min(near)[1]
        if name < group_id and self._may_be_renamed(group_id):
            self._groups[name] = replace(self._groups.pop(group_id), group_id=name)
            for path, file in self._files.items():
                if file.group_id == group_id:
                    self._files[path] = replace(file, group_id=name)
            groups.update({t: name for t, group in groups.items() if group == group_id})
            group_id = name
        groups[time] = group_id

    def _may_be_renamed(self, group_id: str) -> bool:
        group = self._groups[group_id]
        return group.closed_at is None and self._status_of(group_id)[0] is GroupStatus.DISCOVERED

    def note_files(self, changes: Sequence[FileChange]) -> None:
        """Note what became of files; accepted ones of a closed group can only be `CHANGED`."""
        for change in changes:
            file = self._files.get(str(change.path))
            if file is None or file.state is not change.before:
                continue
            collecting = self._groups[file.group_id].ingest_state is IngestState.COLLECTING
            if collecting == (change.state is FileState.CHANGED):
                continue
            self._files[str(change.path)] = replace(
                file,
                size=change.size,
                mtime_ns=change.mtime_ns,
                state=change.state,
                reason=change.reason,
                unchanged_since=change.unchanged_since,
                first_seen=change.first_seen,
            )

    def next_seen(self, group_id: str, timestamp_seconds: int) -> float | None:
        """When the first file of the group after this one was seen."""
        last = timestamp_seconds + _NEXT_GROUP_SECONDS_MAX
        return min(
            (
                file.first_seen
                for file in self._files.values()
                if timestamp_seconds < file.timestamp_seconds <= last and file.group_id != group_id
            ),
            default=None,
        )

    def shift_times(self, seconds: float, recent_after: float) -> None:
        """After the clock was set: the times of what is collected or recent move with it."""
        for path, file in self._files.items():
            if self._groups[file.group_id].ingest_state is IngestState.COLLECTING:
                first_seen, since = file.first_seen + seconds, file.unchanged_since + seconds
                self._files[path] = replace(file, first_seen=first_seen, unchanged_since=since)
        for group_id, group in self._groups.items():
            if group.closed_at is not None and group.closed_at >= recent_after:
                self._groups[group_id] = replace(group, closed_at=group.closed_at + seconds)

    # -- groups ---------------------------------------------------------------------------

    def groups(
        self, states: Sequence[IngestState] = tuple(IngestState), group_id: str | None = None
    ) -> list[IngestGroup]:
        """Groups with their files, in the order of their names."""
        return self._with_files(
            group
            for group in self._groups.values()
            if group.ingest_state in states and group_id in (None, group.group_id)
        )

    def watched_groups(self, closed_after: float) -> list[IngestGroup]:
        """The accepted groups that were closed after a time."""
        closed = self._closed()
        return self._with_files(each for each in closed if (each.closed_at or 0.0) >= closed_after)

    def note_wait_over(self, group_id: str, reason: str) -> None:
        """Note why a group that is still collecting will be closed."""
        group = self._groups.get(group_id)
        if group is not None and group.ingest_state is IngestState.COLLECTING:
            self._groups[group_id] = replace(group, closed_reason=reason)

    def close_group(self, closure: Closure) -> bool:
        """Fix the files of a collecting group; False if it is not collecting any more."""
        group = self._groups.get(closure.group_id)
        if group is None or group.ingest_state is not IngestState.COLLECTING:
            return False
        self._groups[closure.group_id] = replace(
            group,
            ingest_state=closure.state,
            closed_reason=closure.reason,
            n_subbands=len(closure.accepted),
            closed_at=closure.closed_at,
            mid_mjd=closure.mid_mjd,
            declination_deg=closure.declination_deg,
        )
        accepted = set(closure.accepted)
        others = {path: (state, reason) for path, state, reason in closure.others}
        for path, file in self._files.items():
            if file.group_id != closure.group_id:
                continue
            state, reason = file.state, file.reason
            if file.path in accepted:
                state, reason = FileState.WHOLE, ""
            elif file.path in others:
                state, reason = others[file.path]
            elif state in (FileState.ARRIVING, FileState.WHOLE):  # seen meanwhile
                state, reason = FileState.LATE, "came while the group was closed"
            self._files[path] = replace(file, state=state, reason=reason)
        return True

    def groups_to_spawn(self) -> list[IngestGroup]:
        """The accepted groups without a task."""
        return self._with_files(group for group in self._closed() if group.task_id is None)

    def note_image(self, group_id: str, key: str) -> None:
        """A new image of a group, which has no photometry task yet."""
        if self._images.get(group_id) != key:
            self._images[group_id] = key
            self._photometry_tasks.pop(group_id, None)

    def groups_for_photometry(self) -> list[tuple[IngestGroup, str | None]]:
        """The groups that ended well and whose newest image has no task of photometry."""
        return [
            (group, self._images.get(group.group_id))
            for group in self.observations()
            if group.status in _ENDED
            and group.task_id is not None
            and group.group_id not in self._photometry_tasks
        ]

    def note_task(self, group_id: str, files_version: int, task_id: str) -> None:
        """Note the pipeline task of a group's files."""
        if self._groups[group_id].files_version == files_version:
            self._groups[group_id] = replace(self._groups[group_id], task_id=task_id)

    def forget_task(self, group_id: str, files_version: int) -> None:
        """Let a group have no pipeline task."""
        if self._groups[group_id].files_version == files_version:
            self._groups[group_id] = replace(self._groups[group_id], task_id=None)

    def note_photometry_task(
        self, group_id: str, files_version: int, image_key: str | None, task_id: str
    ) -> None:
        """Note the photometry task of a group, unless a newer image has come meanwhile."""
        is_newest = self._images.get(group_id) == image_key
        if is_newest and self._groups[group_id].files_version == files_version:
            self._photometry_tasks[group_id] = task_id

    def observations(self) -> list[IngestGroup]:
        """All groups of ingestion without their files, in the order of their names."""
        return [self._with_status(group) for _, group in sorted(self._groups.items())]

    def _closed(self) -> Iterable[IngestGroup]:
        groups = self._groups.values()
        return (each for each in groups if each.ingest_state is IngestState.CLOSED)

    def _with_files(self, groups: Iterable[IngestGroup]) -> list[IngestGroup]:
        chosen = {group.group_id: group for group in groups}
        if not chosen:
            return []
        files: dict[str, list[IngestFile]] = {group_id: [] for group_id in chosen}
        for file in self._files.values():
            if file.group_id in files:
                files[file.group_id].append(file)
        for of_group in files.values():
            of_group.sort(key=lambda file: (file.subband, str(file.path)))
        return [
            replace(self._with_status(group), files=tuple(files[group_id]))
            for group_id, group in sorted(chosen.items())
        ]

    def _with_status(self, group: IngestGroup) -> IngestGroup:
        status, reason = self._status_of(group.group_id)
        return replace(group, status=status, reason=reason)

    # -- windows --------------------------------------------------------------------------

    def windows(self) -> list[Window]:
        """All windows in the order of time."""
        return sorted(self._windows.values(), key=lambda each: (each.start_mjd, each.window_id))

    def windows_without_mosaic(self) -> list[Window]:
        """The closed windows with a task: the mosaics are nobody's business here."""
        windows = self.windows()
        return [each for each in windows if each.state is WindowState.CLOSED and each.task_id]

    def forget_window_task(self, window_id: str) -> None:
        """Let a window have no mosaic task."""
        self._windows[window_id] = replace(self._windows[window_id], task_id=None)

    def store_windows(self, changes: Sequence[Window]) -> None:
        """See `registry.windows.store_windows`."""
        for window in changes:
            key, known = window.window_id, self._windows.get(window.window_id)
            if known is None and window.members:
                self._windows[key] = window
            elif known is None:
                continue
            elif known.state is WindowState.OPEN and not window.members:
                del self._windows[key]
            elif known.state is WindowState.OPEN:
                self._windows[key] = replace(window, task_id=known.task_id)
            elif window.state is not WindowState.OPEN:
                was_superseded = known.state is WindowState.SUPERSEDED
                is_back = was_superseded and window.state is WindowState.CLOSED
                self._windows[key] = replace(
                    known,
                    state=window.state,
                    superseded_by=window.superseded_by,
                    task_id=window.task_id if is_back else known.task_id,
                )

    def note_window_task(self, window_id: str, task_id: str) -> None:
        """Note the mosaic task of a window."""
        if window_id in self._windows:
            self._windows[window_id] = replace(self._windows[window_id], task_id=task_id)


def _new_group(group_id: str) -> IngestGroup:
    return IngestGroup(
        group_id=group_id,
        status=GroupStatus.DISCOVERED,
        reason="",
        mid_mjd=None,
        declination_deg=None,
        ingest_state=IngestState.COLLECTING,
        closed_reason="",
        n_subbands=None,
        closed_at=None,
        files_version=1,
        task_id=None,
    )


def describe_ingestion(store: IngestStore, left_out: Collection[str] = ()) -> Iterator[Json]:
    """What is left of a night, without times, the ids of tasks and the windows `left_out`.

    Nor which wait was over first: a daemon that was dead for a while saw the files later.
    """
    for group in store.groups():
        reason = _WAIT.sub("", group.closed_reason)
        yield ["group", group.group_id, group.ingest_state.value, reason]
        for file in group.files:
            yield ["file", file.path.name, file.group_id, file.state.value]
    for window in store.windows():
        if window.window_id in left_out:
            continue
        members = [[member.group_id, member.used, member.reason] for member in window.members]
        place = [window.window_id, window.state.value, window.superseded_by]
        yield ["window", *place, window.closed_reason, members]
