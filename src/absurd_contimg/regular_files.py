"""Reading files that others name or have put there: regular ones only, up to a bound.

A pipe would block for ever, and a device such as /dev/zero never ends.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

SETTINGS_BYTES_MAX = 1_000_000
"""Of a file that an operator writes."""
JSON_BYTES_MAX = 256_000_000
"""Of a manifest, a note or a table that the pipeline writes."""


class UnsuitableFileError(OSError):
    """A file that is not read: a pipe, a device, or too large."""


def open_regular(path: str | Path, bytes_max: int) -> BinaryIO:
    """Open a file for reading; `UnsuitableFileError` at once if it is not regular or larger."""
    file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115
    status = os.fstat(file.fileno())
    if stat.S_ISREG(status.st_mode) and status.st_size <= bytes_max:
        return file
    file.close()
    if stat.S_ISREG(status.st_mode):
        raise UnsuitableFileError(errno.EFBIG, f"it has more than {bytes_max:,} bytes", str(path))
    raise UnsuitableFileError(errno.EINVAL, "it is no regular file", str(path))


def read_regular(path: str | Path, bytes_max: int = JSON_BYTES_MAX) -> bytes:
    """The content of a file that `open_regular` accepts, no more than its bound."""
    with open_regular(path, bytes_max) as file:
        return file.read(bytes_max)


def read_json(path: str | Path, bytes_max: int = JSON_BYTES_MAX) -> Any:
    """The JSON in a file that `open_regular` accepts; `ValueError` for what is none.

    For more levels than Python reads, too, which would be a `RecursionError`.
    """
    try:
        return json.loads(read_regular(path, bytes_max))
    except RecursionError as error:
        raise ValueError(f"{path} has too many levels") from error


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
