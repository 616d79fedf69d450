"""The incoming folder as ingestion looks at it: names at once, one file at a time.

The folder holds 40,000 files, and a ``stat`` of each hangs for minutes on a network: names come
from one listing, and only files that are new or may still change are looked at. Nothing depends on
notifications of the kernel, which network file systems do not give for what other hosts write.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from absurd_contimg.errors import AwayError
from absurd_contimg.science.raw_pointing import Pointing, read_pointing


class IncomingAwayError(AwayError):
    """The incoming folder cannot be listed, or its disk is not mounted: no file counts as gone."""


@dataclass(frozen=True, slots=True)
class FileLook:
    """What ``stat`` tells of a file, a link followed."""

    size: int
    mtime_ns: int
    is_regular: bool

    @property
    def modified(self) -> float:
        """Unix time of the last change."""
        return self.mtime_ns / 1e9


class Incoming(Protocol):
    """The port to the folder; a simulation has its own."""

    @property
    def folder(self) -> Path:
        """Where files arrive."""

    def names(self) -> set[str]:
        """The names of everything in the folder; raises `IncomingAwayError`."""

    def look(self, path: Path) -> FileLook | None:
        """A look at a file; None if it is not there, or cannot be looked at now."""

    def pointing(self, path: Path) -> Pointing:
        """As `read_pointing`: also tells whether the file is whole."""


@dataclass(frozen=True, slots=True)
class IncomingFolder:
    """A folder of this machine."""

    folder: Path

    def names(self) -> set[str]:
        """The names of everything in the folder, without looking at any file."""
        try:
            with os.scandir(self.folder) as entries:
                return {entry.name for entry in entries}
        except OSError as error:
            raise IncomingAwayError(
                str(self.folder),
                f"The incoming folder {self.folder} cannot be read: {error.strerror}.",
                "Mount its disk, or set --input-dir or PIPELINE_INPUT_DIR.",
            ) from error

    def look(self, path: Path) -> FileLook | None:
        """A look at one file; a link to nothing and an unreadable folder are like no file."""
        try:
            status = path.stat()
        except OSError:
            return None
        return FileLook(status.st_size, status.st_mtime_ns, stat.S_ISREG(status.st_mode))

    def pointing(self, path: Path) -> Pointing:
        """As `read_pointing`."""
        return read_pointing(path)
