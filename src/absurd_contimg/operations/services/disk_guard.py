"""The disk guard: a worker claims nothing while one of its file systems is nearly full.

Full is a file system without space, or without inodes for new files; one that can only be read
counts as full.

It is asked before each claim; ``contimg status`` reads its notes in ``<state>/workers``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from absurd_contimg.core.records import Json
from absurd_contimg.core.repeated_lines import RepeatedLines
from absurd_contimg.execution.disk_marks import Watermarks
from absurd_contimg.execution.disk_usage import (
    MOUNT_FOR_WRITING,
    DiskUsage,
    disk_usage,
    size_text,
)
from absurd_contimg.file_owners import can_use, explain_refusal
from absurd_contimg.owned_folders import ForeignFolderError, make_private
from absurd_contimg.products.filesystem import LOCAL

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class DiskGuard:
    """Decides from the free space of a worker's folders whether it may claim.

    No trouble of a file system ends its worker: a folder that cannot be looked at counts as full,
    and a note that cannot be written is written later.
    """

    worker_id: str
    folders: Sequence[Path]
    state_dir: Path
    watermarks: Watermarks = field(default_factory=Watermarks)
    make_room: Callable[[], None] | None = None
    """Called below the warning mark, before the decision: dead workers leave files in scratch."""
    remove_left: Callable[[], str] | None = None
    """Removes from scratch what could not be removed before; says what still cannot.

    `OSError` and `ForeignFolderError` say that this worker's part of scratch cannot be used."""
    host: str = ""
    """Where the worker runs: the state folder may be shared."""
    _lines: RepeatedLines = field(default_factory=RepeatedLines, init=False)
    _noted: tuple[bool, str] | None = field(default=None, init=False)
    _reason: str = field(default="", init=False)
    _is_written: bool = field(default=True, init=False)

    def problem(self) -> str:
        """Why nothing is claimed, as of the last look; empty if there is enough space."""
        return "" if self._noted is None or self._noted[0] else self._reason

    async def ready_to_claim(self) -> bool:
        """For `Worker.ready_to_claim`; notes and logs each change."""
        ready, reason = await asyncio.to_thread(self.check)
        self._reason = reason
        # Without the free space, which changes all the time and needs no new note.
        noted = (ready, reason.partition(":")[0])
        if noted != self._noted:
            self._noted = noted
            _log.log(
                logging.WARNING if reason else logging.INFO,
                "%s",
                reason or f"worker {self.worker_id}: there is enough disk space",
            )
            self._is_written = False
        if not self._is_written:
            self._is_written = await asyncio.to_thread(self._write, ready, reason)
        return ready

    def check(self) -> tuple[bool, str]:
        """Whether there is enough space, and the warning, empty if there is none."""
        warning = ""
        for folder in self.folders:
            try:
                ready, reason = self._check_folder(folder)
            except OSError as error:
                return False, (
                    f"{folder} cannot be used: workers claim nothing until it is back "
                    f"({error.strerror}). Mount or create it."
                )
            if not ready:
                return False, reason
            warning = reason or warning
        if not can_use(self.state_dir):
            refusal = explain_refusal(self.state_dir)
            return False, f"{self.state_dir} cannot be used: workers claim nothing. {refusal}"
        try:
            left = "" if self.remove_left is None else self.remove_left()
        except OSError as error:
            place = error.filename or "scratch"
            return False, (
                f"{place} cannot be used: this worker claims nothing until it is back "
                f"({error.strerror}). Look with: findmnt {place}"
            )
        except ForeignFolderError as error:
            return False, f"{error.problem} This worker claims nothing. {error.remedy}"
        return True, warning or left

    def _check_folder(self, folder: Path) -> tuple[bool, str]:
        usage = disk_usage(folder)
        if usage.read_only:
            return False, f"{folder} can only be read: workers claim nothing. {MOUNT_FOR_WRITING}"
        if self._is_below_warning(usage) and self.make_room is not None:
            try:
                self.make_room()
            except (OSError, ForeignFolderError) as error:
                text = f"worker {self.worker_id}: cannot make room: {error}"
                _log.log(self._lines.level("room", text, time.monotonic()), "%s", text)
            else:
                self._lines.ended("room")
            usage = disk_usage(folder)
        marks, free = self.watermarks, size_text(usage.free_bytes)
        critical, warn = (
            marks.critical_bytes(usage.total_bytes),
            marks.warn_bytes(usage.total_bytes),
        )
        if usage.free_bytes < critical:
            return False, (
                f"{folder} is nearly full: workers claim nothing below {size_text(critical)}, "
                f"{free} are free. Remove old products, or lower "
                "CONTIMG_DISK_CRITICAL_GB."
            )
        inodes = usage.free_inodes_share
        if inodes is not None and inodes < marks.critical_inodes_share:
            return False, (
                f"{folder} has nearly no inodes left for new files: workers claim nothing below "
                f"{marks.critical_inodes_share:.0%}, {inodes:.1%} are free. Remove small files "
                f"(most inodes: du --inodes -xS {folder} | sort -n | tail)."
            )
        if usage.free_bytes < warn:
            return True, (
                f"{folder} is filling up: below the {size_text(warn)} of "
                f"CONTIMG_DISK_WARN_GB, {free} are free."
            )
        if inodes is not None and inodes < marks.warn_inodes_share:
            return True, f"{folder} runs out of inodes for new files: {inodes:.1%} are free."
        return True, ""

    def _is_below_warning(self, usage: DiskUsage) -> bool:
        inodes = usage.free_inodes_share
        return usage.free_bytes < self.watermarks.warn_bytes(usage.total_bytes) or (
            inodes is not None and inodes < self.watermarks.warn_inodes_share
        )

    def close(self) -> None:
        """Remove the note: the worker has ended."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("worker %s: its note stays: %s", self.worker_id, error)

    @property
    def _path(self) -> Path:
        name = f"{self.worker_id}.{self.host}" if self.host else self.worker_id
        return self.state_dir / "workers" / f"{name}.json"

    def _write(self, ready: bool, reason: str) -> bool:
        """Whether the note is written; a full disk has no room for it."""
        since = datetime.now(UTC).isoformat(timespec="seconds")
        note: dict[str, Json] = {
            "worker": self.worker_id,
            "claims": ready,
            "reason": reason,
            "since": since,
        }
        if self.host:
            note["host"] = self.host
        try:
            make_private(self._path.parent)
            LOCAL.write_json(self._path, note)
        except OSError as error:
            _log.debug("worker %s: no note for contimg status: %s", self.worker_id, error)
            return False
        return True


def worker_notes(state_dir: Path) -> list[Mapping[str, object]]:
    """The last note of each worker about its disks; a killed worker leaves its note.

    A damaged note says that it is one: `claims` is None.
    """
    paths = sorted((state_dir / "workers").glob("*.json"))
    return [note for path in paths if (note := _read_note(path)) is not None]


def _read_note(path: Path) -> Mapping[str, object] | None:
    """None where the worker has removed its note in the meantime."""
    try:
        note = LOCAL.read_json(path)
        problem = "it is no note" if not _is_note(note) else ""
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        problem = str(error)
    if not problem:
        return dict(note)
    reason = f"The note {path} of its disks cannot be read ({problem}): remove it."
    return {"worker": path.stem, "claims": None, "reason": reason, "since": "an unknown time"}


def _is_note(note: object) -> bool:
    kinds = {"worker": str, "claims": bool, "reason": str, "since": str}
    return isinstance(note, Mapping) and all(
        isinstance(note.get(name), kind) for name, kind in kinds.items()
    )
