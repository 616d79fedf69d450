"""What the file system of a folder has to offer: files on the disk on demand, locks, links."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from absurd_contimg.config.variables import other_folder
from absurd_contimg.file_locks import advice_without_locks, missing_locks
from absurd_contimg.operations.doctor.software import Finding

_LOCKS = {
    "output_dir": ("flock",),
    "scratch_dir": ("flock", "fcntl"),
    "state_dir": ("flock", "fcntl"),
}
"""CASA locks its tables in scratch by fcntl, SQLite the registry; all other locks are flock's."""
_WITH_LINKS = "scratch_dir"
"""CASA's data are linked into it."""


def file_system(name: str, folder: Path) -> Finding:
    """Try it in a folder that is there and can be written to; nothing is left in it."""
    check = f"file system of {name}"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.fsync(file.fileno())
        missing = [lock for lock in missing_locks(folder) if lock in _LOCKS[name]]
    except OSError as error:
        text = f"{folder}: a file cannot be written to the disk, by fsync ({error.strerror})."
        return Finding(False, check, text, other_folder(name))
    if missing:
        text = f"{folder}: it has no file locks ({', '.join(missing)})."
        other = f"use another disk. {other_folder(name)}".removesuffix(".")
        return Finding(False, check, text, advice_without_locks(folder, other))
    if name == _WITH_LINKS and (reason := _refusal_of_links(folder)):
        text = f"{folder}: it has no symbolic links ({reason}), and CASA's data are linked there."
        return Finding(False, check, text, other_folder(name))
    text = "Files can be written to the disk (fsync) and locked"
    if (reason := _refusal_of_sync(folder)) is not None:
        return Finding(
            True,
            check,
            f"{text}; folders cannot be written to the disk ({reason}): after a crash of the "
            "machine, new names may be missing.",
        )
    return Finding(True, check, f"{text}, folders too.")


def _refusal_of_sync(folder: Path) -> str | None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        return error.strerror
    finally:
        os.close(descriptor)
    return None


def _refusal_of_links(folder: Path) -> str | None:
    link = folder / f".contimg-doctor-{uuid4().hex}"
    try:
        link.symlink_to("nothing")
    except OSError as error:
        return error.strerror
    with suppress(FileNotFoundError):
        link.unlink()
    return None
