"""What a process of another user meets: only root can become another user in earnest."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

NOBODY = 65534


def as_user(action: Callable[[], object], number: int = NOBODY) -> str:
    """What it returns, or raises, with the name of the class; "" for no text."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(number)
                os.setuid(number)
            else:
                os.geteuid = lambda: number
            value = action()
            os.write(writer, value.encode() if isinstance(value, str) else b"")
        except BaseException as error:  # noqa: BLE001 - the parent looks at it
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        text = pipe.read()
    os.waitpid(process, 0)
    return text


def open_for_others(folder: Path) -> None:
    """Let other users enter a folder of pytest, which is for its user alone."""
    for path in (folder, *folder.parents):
        mode = path.stat().st_mode
        if mode & 0o755 != 0o755:
            path.chmod(mode | 0o755)
