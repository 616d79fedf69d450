"""The disk guard: a worker claims no new work while one of its file systems is nearly full.

It is asked before each claim; ``contimg status`` reads its notes in ``<state>/workers``.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from absurd_contimg.core.records import Json
from absurd_contimg.products.filesystem import LOCAL

_log = logging.getLogger(__name__)

_GB = 1e9


@dataclass(frozen=True, slots=True)
class Watermarks:
    """Free space, in GB (1e9 bytes), below which to warn and below which to claim nothing.

    A mark of None is the hardening guide's (warn 100 GB, critical 20 GB), but at most 5 % and
    2 % of the file system: a laptop with a 250 GB disk works down to 5 GB. The marks are a last
    protection; each stage also reserves its own space before it starts.
    """

    warn_gb: float | None = None
    critical_gb: float | None = None

    def warn_bytes(self, total: int) -> float:
        """The warning mark on a file system of `total` bytes."""
        return min(100 * _GB, 0.05 * total) if self.warn_gb is None else self.warn_gb * _GB

    def critical_bytes(self, total: int) -> float:
        """The critical mark on a file system of `total` bytes."""
        return min(20 * _GB, 0.02 * total) if self.critical_gb is None else self.critical_gb * _GB


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
    host: str = ""
    """Where the worker runs: the state folder may be shared."""
    _noted: tuple[bool, str] | None = field(default=None, init=False)
    _is_written: bool = field(default=True, init=False)

    async def ready_to_claim(self) -> bool:
        """For `Worker.ready_to_claim`; notes and logs each change."""
        ready, reason = await asyncio.to_thread(self.check)
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
        return True, warning

    def _check_folder(self, folder: Path) -> tuple[bool, str]:
        usage = shutil.disk_usage(folder)
        critical = self.watermarks.critical_bytes(usage.total)
        warn = self.watermarks.warn_bytes(usage.total)
        if usage.free < warn and self.make_room is not None:
            try:
                self.make_room()
            except OSError as error:
                _log.warning("worker %s: cannot make room: %s", self.worker_id, error)
            usage = shutil.disk_usage(folder)
        if usage.free < critical:
            return False, (
                f"{folder} is nearly full: workers claim nothing below {critical / _GB:.1f} "
                f"GB, {usage.free / _GB:.1f} GB are free. Remove old products, or lower "
                "CONTIMG_DISK_CRITICAL_GB."
            )
        if usage.free < warn:
            return True, (
                f"{folder} is filling up: below the {warn / _GB:.1f} GB of "
                f"CONTIMG_DISK_WARN_GB, {usage.free / _GB:.1f} GB are free."
            )
        return True, ""

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
            LOCAL.ensure_folder(self._path.parent)
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
