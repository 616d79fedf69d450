"""`Fault`: one thing that goes wrong at one time, and its text, which can be typed again."""

from __future__ import annotations

import re
from typing import NamedTuple

KINDS = ("kill", "pause", "term", "reboot", "partition", "outage", "stop", "fill")
"""A worker is killed, stopped for a while, told to end; a host goes down, or loses the database;
the database is away; all workers are down; somebody else's files fill the disk."""

_TEXT = re.compile(r"([a-z]+)-(\d+)@(\d+(?:\.\d+)?)(?:/(\d+(?:\.\d+)?))?")


class Fault(NamedTuple):
    """One fault. `target` is a worker's or a host's number, 0 for the database and the disk."""

    at_seconds: float
    kind: str
    """One of `KINDS`."""
    target: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        lasting = f"/{_plain(self.seconds)}" if self.seconds else ""
        return f"{self.kind}-{self.target}@{_plain(self.at_seconds)}{lasting}"


def parse_faults(text: str) -> list[Fault]:
    """What `str` wrote, with commas: ``kill-3@4212.5,partition-0@100/24``, in order of time.

    Raises `ValueError` that names what it does not understand.
    """
    found = []
    for one in filter(None, (part.strip() for part in text.split(","))):
        match = _TEXT.fullmatch(one)
        if match is None or match[1] not in KINDS:
            raise ValueError(
                f"no fault is written {one!r}; write KIND-NUMBER@SECONDS or "
                f"KIND-NUMBER@SECONDS/FOR_SECONDS, with a kind of {', '.join(KINDS)}"
            )
        found.append(Fault(float(match[3]), match[1], int(match[2]), float(match[4] or 0.0)))
    return sorted(found)


def _plain(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".")
