"""From names in the incoming folder to files and closed groups in the registry."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from absurd_contimg.errors import InputError, UnfinishedInputError
from absurd_contimg.ingest.closing import (
    ArrivalRules,
    ClosingRules,
    CollectingGroup,
    Decision,
    decide,
    is_quiet,
    name_subbands,
)
from absurd_contimg.ingest.incoming_folder import FileLook, Incoming, IncomingAwayError
from absurd_contimg.ingest.ports import IngestStore
from absurd_contimg.products.subband_files import is_subband_name, parse_subband_name
from absurd_contimg.registry.grouping import TOLERANCE_SECONDS
from absurd_contimg.registry.ingestion_records import (
    Closure,
    FileChange,
    FileSighting,
    IngestFile,
    IngestGroup,
)
from absurd_contimg.registry.models import FileState, IngestState
from absurd_contimg.science.raw_pointing import Pointing

_log = logging.getLogger(__name__)

_LOOKS_MAX = 2000
"""New files, and files that turn out to be whole or damaged, in one poll: a first poll of a full
folder goes on at once in the next."""
_LATE_NAMED_MAX = 16
"""Files that came too late at once and are named one by one: those of a group."""
_ABSENT_SECONDS_MAX = 86_400.0
"""After a day without any file of a group its disk is not away: the files were removed."""


@dataclass(slots=True)
class Arrivals:
    """Looks into the incoming folder. It remembers only what it has logged.

    The first look of a daemon, or after the folder was away, ends no wait: what came meanwhile is
    seen first. Of daemons that poll once each look is the first: there a wait is ended by the
    second of them that finds it over for the same reason, and the first one is stored.
    """

    incoming: Incoming
    store: IngestStore
    arrival: ArrivalRules
    closing: ClosingRules
    watch_seconds: float
    polls_once: bool = False
    """The process ends after its first complete look."""
    _logged: set[str] = field(default_factory=set)
    _late: list[IngestFile] = field(default_factory=list)
    """What came too late, until all that is new has been entered."""
    _looked_before: bool = False
    _over: set[str] = field(default_factory=set)
    """Groups whose waits this process has found over first."""

    def look(self, now: float) -> bool:
        """Enter new files, look at those that may change, close groups; whether more is left.

        The newest groups come first, so that a backlog keeps nothing waiting that comes now.
        """
        looked_before, self._looked_before = self._looked_before, False
        names = self.incoming.names()
        if self._enter_new(names, now):
            return True  # nothing is judged before all is entered
        collecting = self.store.groups([IngestState.COLLECTING])
        self._check_presence(collecting, names, now)
        opened_max = _LOOKS_MAX
        changes: list[FileChange] = []
        left: set[str] = set()
        """Groups with files that were not looked at, which may be whole."""
        for group in reversed(collecting):
            for file in group.files:
                if opened_max == 0:
                    left.add(group.group_id)
                    break
                change, was_opened = self._look_again(file, names, now)
                if change is not None:
                    changes.append(change)
                    opened_max -= was_opened
        self.store.note_files(changes)
        self._watch(names, now)
        self._close_groups(names, now, left, may_end_waits=looked_before)
        self._looked_before = not left
        return bool(left)

    def _log_once(self, key: str, text: str) -> None:
        if key not in self._logged:
            self._logged.add(key)
            _log.warning("%s", text)

    def _enter_new(self, names: set[str], now: float) -> bool:
        """Enter the new files, whether more are left."""
        known = self.store.known_paths()
        prefix = f"{self.incoming.folder}/"
        new = sorted(name for name in names if prefix + name not in known and is_subband_name(name))
        sightings = list(self._sightings(new[:_LOOKS_MAX]))
        if sightings:
            self._late += self.store.enter_files(sightings, now, TOLERANCE_SECONDS)
        is_more_left = len(new) > _LOOKS_MAX
        if not is_more_left:
            self._report_late()
        return is_more_left

    def _report_late(self) -> None:
        """Say which files came too late: many at once, as of a folder that moved, in one line."""
        late, self._late = self._late, []
        if len(late) > _LATE_NAMED_MAX:
            groups = {file.group_id for file in late}
            _log.warning(
                "%d files of %d groups came after their groups were closed, %s the first; "
                "contimg registry files --state late lists them, contimg reopen GROUP would "
                "process them",
                len(late), len(groups), late[0].path,
            )  # fmt: skip
            return
        for file in late:
            _log.warning(
                "group %s: %s %s; contimg reopen %s would process it",
                file.group_id, file.path.name, file.reason, file.group_id,
            )  # fmt: skip

    def _sightings(self, names: Iterable[str]) -> Iterator[FileSighting]:
        for name in names:
            path = self.incoming.folder / name
            try:
                subband = parse_subband_name(path).subband
            except InputError as error:
                self._log_once(name, str(error))
                continue
            if subband >= self.closing.expected_subbands:
                expected = self.closing.expected_subbands
                self._log_once(name, f"{path} is ignored: there are {expected} sub-bands.")
                continue
            look = self.incoming.look(path)
            if look is None or not look.is_regular:
                self._log_once(name, f"{path} is ignored: no regular file can be read there.")
                continue
            yield FileSighting(path, look.size, look.mtime_ns)

    def _check_presence(
        self, collecting: Sequence[IngestGroup], names: set[str], now: float
    ) -> None:
        """Raise `IncomingAwayError` while all files that are waited for are absent at once."""
        files = [file for group in collecting for file in group.files]
        if not files or any(file.path.name in names for file in files):
            return
        if now - max(file.first_seen for file in files) < _ABSENT_SECONDS_MAX:
            folder = self.incoming.folder
            raise IncomingAwayError(
                str(folder),
                f"The incoming folder {folder} has none of the {len(files)} files that were there.",
                "Mount its disk. Files that were removed are given up after a day.",
            )

    def _look_again(
        self, file: IngestFile, names: set[str], now: float
    ) -> tuple[FileChange | None, bool]:
        """What became of a file of a collecting group, and whether it was opened."""
        look = self.incoming.look(file.path) if file.path.name in names else None
        if look is None or not look.is_regular:
            return None, False  # it may come back until the group is closed
        if (look.size, look.mtime_ns) != (file.size, file.mtime_ns):
            first_seen = file.first_seen if file.was_looked_at else now
            return _changed(file, look, FileState.ARRIVING, "changes", now, first_seen), False
        if file.state is not FileState.ARRIVING:
            return None, False
        is_marked = f"{file.path.name}.done" in names
        if not is_quiet(
            self.arrival, now, file.unchanged_since, look.modified, is_marked=is_marked
        ):
            return None, False
        state, reason = self._read(file.path)
        if (state, reason) == (file.state, file.reason):
            return None, True
        since, first_seen = file.unchanged_since, file.first_seen
        return _changed(file, look, state, reason, since, first_seen), True

    def _read(self, path: Path) -> tuple[FileState, str]:
        """Whether a file is whole: its header is read and compared with the shape of the data."""
        try:
            self.incoming.pointing(path)
        except UnfinishedInputError as error:
            return FileState.ARRIVING, str(error)
        except InputError as error:
            _log.warning("%s", error)
            return FileState.REFUSED, str(error)
        except OSError as error:
            self._log_once(str(path), f"{path} cannot be read now: {error.strerror}.")
            return FileState.ARRIVING, f"cannot be read: {error.strerror}"
        return FileState.WHOLE, ""

    def _watch(self, names: set[str], now: float) -> None:
        """Report files that change after they were accepted."""
        changes = []
        for group in self.store.watched_groups(now - self.watch_seconds):
            for file in group.files:
                if file.state is not FileState.WHOLE or file.path.name not in names:
                    continue
                look = self.incoming.look(file.path)
                if look is None or (look.size, look.mtime_ns) == (file.size, file.mtime_ns):
                    continue
                if not file.was_looked_at:  # spawned by a command
                    changes.append(_changed(file, look, FileState.WHOLE, "", now, now))
                    continue
                reason = f"changed after the group was closed: {file.size} to {look.size} bytes"
                changes.append(
                    _changed(file, look, FileState.CHANGED, reason, now, file.first_seen)
                )
                _log.warning(
                    "group %s: %s %s; contimg reopen %s would process it again",
                    group.group_id, file.path.name, reason, group.group_id,
                )  # fmt: skip
        self.store.note_files(changes)

    def _close_groups(
        self, names: set[str], now: float, left: set[str], *, may_end_waits: bool
    ) -> None:
        for group in self.store.groups([IngestState.COLLECTING]):
            if group.group_id in left:
                continue
            after = next_seen(group, self.store)
            decision = decide(
                collecting_group(group, after, names, self.closing), self.closing, now
            )
            if decision.state is IngestState.COLLECTING:
                continue
            if not (may_end_waits or decision.is_complete or self._was_over(group, decision)):
                continue
            if self.store.close_group(self._closure(group, decision, names, now)):
                level = logging.INFO if decision.state is IngestState.CLOSED else logging.WARNING
                _log.log(
                    level, "group %s is %s: %s", group.group_id, decision.state, decision.reason
                )

    def _was_over(self, group: IngestGroup, decision: Decision) -> bool:
        """Whether another process that polls once has found this wait over for the same reason."""
        if not self.polls_once or group.group_id in self._over:
            return False
        if group.closed_reason == decision.reason:
            return True
        self._over.add(group.group_id)
        self.store.note_wait_over(group.group_id, decision.reason)
        return False

    def _closure(
        self, group: IngestGroup, decision: Decision, names: set[str], now: float
    ) -> Closure:
        accepted: dict[int, Path] = {}
        others: list[tuple[Path, FileState, str]] = []
        for file in sorted(group.files, key=lambda file: (file.timestamp_seconds, file.path)):
            if file.path.name not in names:
                others.append((file.path, FileState.GONE, "was gone when the group was closed"))
            elif file.state is FileState.ARRIVING:
                reason = "was not whole when the group was closed"
                others.append((file.path, FileState.LATE, reason))
            elif file.state is not FileState.WHOLE:
                others.append((file.path, file.state, file.reason))
            elif file.subband in accepted:
                reason = f"{accepted[file.subband].name} has the same sub-band"
                others.append((file.path, FileState.REFUSED, reason))
                _log.warning("group %s: %s: %s", group.group_id, file.path.name, reason)
            else:
                accepted[file.subband] = file.path
        pointing = self._pointing(accepted.values())
        return Closure(
            group_id=group.group_id,
            state=decision.state,
            reason=decision.reason,
            accepted=tuple(path for _, path in sorted(accepted.items())),
            others=tuple(others),
            mid_mjd=None if pointing is None else pointing.mid_mjd,
            declination_deg=None if pointing is None else pointing.declination_deg,
            closed_at=now,
        )

    def _pointing(self, paths: Iterable[Path]) -> Pointing | None:
        """Of the first file that can be read: the files of a group agree."""
        for path in paths:
            try:
                return self.incoming.pointing(path)
            except (InputError, OSError) as error:
                self._log_once(str(path), f"{path} cannot be read now: {error}")
        return None


def _changed(
    file: IngestFile,
    look: FileLook,
    state: FileState,
    reason: str,
    unchanged_since: float,
    first_seen: float,
) -> FileChange:
    return FileChange(
        file.path, file.state, look.size, look.mtime_ns, state, reason, unchanged_since, first_seen
    )


def next_seen(group: IngestGroup, store: IngestStore) -> float | None:
    """When the first file of the next group was seen."""
    timestamp = max((file.timestamp_seconds for file in group.files), default=0)
    return store.next_seen(group.group_id, timestamp)


def collecting_group(
    group: IngestGroup, next_seen: float | None, names: set[str], rules: ClosingRules
) -> CollectingGroup:
    """A group as the closing rules see it; files that are absent do not count."""
    present = [file for file in group.files if file.path.name in names]
    whole = frozenset(file.subband for file in present if file.state is FileState.WHOLE)
    arriving = {
        file.subband: rules.waits_until(file.first_seen, file.unchanged_since)
        for file in present
        if file.state is FileState.ARRIVING and file.subband not in whole
    }
    return CollectingGroup(
        group_id=group.group_id,
        first_seen=min((file.first_seen for file in group.files), default=0.0),
        whole=whole,
        arriving=arriving,
        next_seen=next_seen,
    )


def describe_files(group: IngestGroup) -> str:
    """The files of a group that are not accepted, in one line."""
    states = [state for state in FileState if state is not FileState.WHOLE]
    parts = []
    for state in states:
        subbands = [file.subband for file in group.files if file.state is state]
        if subbands:
            parts.append(f"{state}: {name_subbands(subbands)}")
    return "; ".join(parts)
