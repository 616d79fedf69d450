"""Files that are there whole or not at all, and errors of writing that name them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file by way of a partial one beside it, of which nothing is left after a failure.

    Raises `OSError` with the name of the file.
    """
    partial = path.with_name(f".{path.name}.partial")
    with failures_of(path):
        try:
            partial.write_bytes(content)
            partial.replace(path)
        except OSError:
            with suppress(OSError):
                partial.unlink()
            raise


@contextmanager
def failures_of(path: Path) -> Iterator[None]:
    """Name a file in errors that name none: a write to a full disk does not say which one."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        reason = error.strerror or os.strerror(error.errno)
        raise OSError(error.errno, reason, str(path)) from error
