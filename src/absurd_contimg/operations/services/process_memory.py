"""Resident memory of a process with its descendants (Linux)."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PARENT, _RESIDENT_PAGES = 1, 21
"""Fields of ``/proc/PID/stat`` after the name in parentheses (proc(5): 4 and 24)."""


def resident_bytes(pid: int) -> int:
    """Of the process and its descendants; pages that they share count for each of them."""
    pages: dict[int, int] = {}
    children: defaultdict[int, list[int]] = defaultdict(list)
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            stat = Path("/proc", name, "stat").read_bytes()
        except OSError:  # it has ended
            continue
        fields = stat.rpartition(b")")[2].split()
        pages[int(name)] = int(fields[_RESIDENT_PAGES])
        children[int(fields[_PARENT])].append(int(name))
    total, family = 0, [pid]
    while family:
        member = family.pop()
        total += pages.get(member, 0)
        family += children[member]
    return total * _PAGE_BYTES
