"""The logs of a stage process: their paths, what they say of a failure, how they stay short."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from absurd_contimg.execution.scratch import safe_name

_TAIL_BYTES = 64_000
_MESSAGES_MAX = 20
_MESSAGE_LENGTH = 500

_FATAL_WORDS = (
    "terminate called", "what():", "bad_alloc", "MemoryError", "Fatal Python error",
    "No space left on device", "Segmentation fault", "double free", "Aborted",
    "out of memory", "emory allocation",
    "Thread creation failed", "pthread_create failed", "OMP thread", "start new thread",
)  # fmt: skip
"""What the C++ runtime, glibc, LLVM, OpenMP, OpenBLAS and Python's faulthandler print last."""

_CASA_SUFFIX, _OUTPUT_SUFFIX = ".casa.log", ".out.log"


@dataclass(frozen=True, slots=True)
class LoggedStart:
    """A start of a stage, by its logs."""

    name: str
    """Stage and start, as in the names of its files."""
    written_at: float
    """When one of its files changed last, in seconds since 1970."""
    size_bytes: int
    """Of both files; 0 if the stage has written nothing."""


def log_folder(state_dir: Path, group_id: str) -> Path:
    """The folder with the logs of a group's stages."""
    return state_dir / "logs" / safe_name(group_id)


def log_paths(folder: Path, stage: str, attempt: str) -> tuple[Path, Path]:
    """The files for one start of a stage: CASA's log, and what the process printed."""
    name = safe_name(f"{stage}-{attempt}")
    return folder / f"{name}{_CASA_SUFFIX}", folder / f"{name}{_OUTPUT_SUFFIX}"


def newest_logs(folder: Path, stage: str | None = None) -> list[Path]:
    """The logs of the latest start (of this stage) that wrote anything; none if none did."""
    pattern = "*.log" if stage is None else f"{safe_name(stage)}-*.log"
    written = [path for path in folder.glob(pattern) if path.stat().st_size > 0]
    newest = max(written, key=lambda path: path.stat().st_mtime_ns, default=None)
    return [] if newest is None else sorted(p for p in written if _start(p) == _start(newest))


def logged_starts(folder: Path, stage: str | None = None) -> list[LoggedStart]:
    """The starts (of this stage) that have a log, the newest first."""
    pattern = "*.log" if stage is None else f"{safe_name(stage)}-*.log"
    starts: dict[str, list[os.stat_result]] = {}
    for path in folder.glob(pattern):
        starts.setdefault(_start(path), []).append(path.stat())
    logged = [
        LoggedStart(name, max(each.st_mtime for each in files), sum(each.st_size for each in files))
        for name, files in starts.items()
    ]
    return sorted(logged, key=lambda start: (start.written_at, start.name), reverse=True)


def _start(path: Path) -> str:
    return path.name.removesuffix(_CASA_SUFFIX).removesuffix(_OUTPUT_SUFFIX)


def logged_groups(state_dir: Path) -> list[str]:
    """The names of the groups that have a folder of logs."""
    return sorted(path.name for path in (state_dir / "logs").glob("*/"))


def logged_stages(folder: Path) -> list[str]:
    """The stages that have a log in a group's folder."""
    return sorted({path.name.partition("-")[0] for path in folder.glob("*.log")})


def severe_messages(casa_log: Path) -> tuple[str, ...]:
    """The last messages that CASA logged as SEVERE, oldest first, without their times."""
    messages = []
    for line in tail(casa_log):
        columns = line.split("\t", 2)
        if len(columns) > 1 and columns[1].strip() == "SEVERE":
            messages.append(" ".join(columns[-1].split())[:_MESSAGE_LENGTH])
    return tuple(messages[-_MESSAGES_MAX:])


def death_messages(output_log: Path) -> tuple[str, ...]:
    """The last lines of a process's output that report its abnormal end."""
    messages = [
        line.strip()[:_MESSAGE_LENGTH]
        for line in tail(output_log)
        if any(word in line for word in _FATAL_WORDS)
    ]
    return tuple(messages[-_MESSAGES_MAX:])


def last_line(output_log: Path) -> str | None:
    """The last line of a process's output that is not empty: of a traceback, the error."""
    lines = [line.strip() for line in tail(output_log) if line.strip()]
    return lines[-1][:_MESSAGE_LENGTH] if lines else None


def trim_log(path: Path, bytes_max: int) -> None:
    """Cut the middle out of a long log in place: a running process may append to it."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return
    if size <= bytes_max:
        return
    keep = bytes_max // 4
    with path.open("r+b") as file:
        head = file.read(keep)
        file.seek(size - keep)
        tail = file.read(keep)
        file.seek(0)
        file.truncate()
        file.write(head + f"\n[... {size - 2 * keep} bytes cut out ...]\n".encode() + tail)


def tail(path: Path, lines: int | None = None) -> list[str]:
    """The last lines of a log, of its last 64 kB; none where there is no log."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            content = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []  # the process has logged nothing
    return content if lines is None else content[-lines:]
