"""The memory that work can have: of the machine, or of a control group (container, unit)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from absurd_contimg.operations.doctor.software import Finding

MEMORY_GIB_MIN = 4.0
"""As the health check of the previous pipeline (docs/telescope.md)."""

_GIB = 1024**3
_GROUPS = Path("/sys/fs/cgroup")


def memory(
    meminfo: str | None = None, limit_bytes: int | None = None, kernel: Path = Path("/proc/meminfo")
) -> Finding:
    """Whether enough memory is available; by the files of the kernel unless others are given."""
    if meminfo is None:
        try:
            meminfo, limit_bytes = kernel.read_text(), memory_limit_bytes()
        except OSError as error:
            text = f"{kernel} cannot be read ({error.strerror}): the memory is not known."
            return Finding(False, "memory", text, "Mount it: mount -t proc proc /proc")
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in meminfo.splitlines() if line}
    total = kilobytes["MemTotal"] / 1024**2
    free = kilobytes["MemAvailable"] / 1024**2
    note = raised = ""
    if limit_bytes is not None and limit_bytes / _GIB < total:
        total = limit_bytes / _GIB
        note = " (a limit of this container, unit or session)"
        raised = " Or raise the limit: MemoryMax of the unit, --memory of the container."
        free = min(free, total)
    return Finding(
        free >= MEMORY_GIB_MIN,
        "memory",
        f"{free:.1f} GiB available of {total:.1f} GiB{note}.",
        "Stop other programs (ps aux --sort=-rss | head), or run one worker with "
        f"--concurrency 1. A stage needs up to {MEMORY_GIB_MIN:.0f} GiB.{raised}",
    )


def memory_limit_bytes(groups: Path = _GROUPS, own: Path = Path("/proc/self/cgroup")) -> int | None:
    """The smallest limit of this process's control group and those that it lies in; None: no limit.

    Of both versions. In a container without a namespace of groups the own one is not visible, and
    that of the container is the root.
    """
    limits = [int(text) for text in _limits(groups, own) if text.isdecimal()]
    return min(limits, default=None)


def _limits(groups: Path, own: Path) -> Iterator[str]:
    try:
        lines = own.read_text().splitlines()
    except OSError:  # a kernel without them
        return
    for line in lines:
        number, controllers, name = line.split(":", 2)
        if number == "0":
            root, file = groups, "memory.max"
        elif "memory" in controllers.split(","):
            root, file = groups / "memory", "memory.limit_in_bytes"
        else:
            continue
        place = root / name.lstrip("/")
        for folder in (place, *place.parents):
            if folder.is_relative_to(root) and (folder / file).is_file():
                yield (folder / file).read_text().strip()
