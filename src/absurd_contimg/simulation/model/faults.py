"""Faults and their text, which reports print and a user can type again.

They come at a numbered crash point of a workflow (`InjectedFault`), or at a time of a campaign
(`TimedFault`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple


class FaultKind(StrEnum):
    """What happens to a process, its host or the database."""

    KILL = "kill"
    """SIGKILL; the process is restarted under its own name before its lease has expired."""
    KILL_LATE = "kill-late"
    """SIGKILL; the process is restarted under its own name after its lease has expired."""
    KILL_OTHER = "kill-other"
    """SIGKILL; a worker of another name takes over when the lease has expired."""
    PAUSE = "pause"
    """SIGSTOP for longer than the lease; SIGCONT while another worker does the work."""
    PAUSE_LATE = "pause-late"
    """SIGSTOP; SIGCONT when all work is done."""
    PARTITION = "partition"
    """The host loses the database for longer than a lease, but goes on working."""
    REFUSED = "refused"
    """The database refuses one call."""
    REPLY_LOST = "reply-lost"
    """One call takes effect, but the connection breaks before the reply."""
    TERM = "term"
    """SIGTERM: the process ends after its grace period and is restarted under its own name."""
    TERM_NOW = "term-now"
    """The same with a grace period of 0 s: what runs is cancelled and released at once."""
    CANCEL = "cancel"
    """An operator cancels every task; the worker gets no notice."""
    REBOOT = "reboot"
    """Every worker of a host is killed."""
    OUTAGE = "outage"
    """The database is away; at a crash point three times, each time for longer than the lease."""
    STOP = "stop"
    """All workers are down."""
    FILL = "fill"
    """Files of others take all the space that is left."""


KILLS = (FaultKind.KILL, FaultKind.KILL_LATE, FaultKind.KILL_OTHER)
NETWORK = (FaultKind.REFUSED, FaultKind.REPLY_LOST)
TERMS = (FaultKind.TERM, FaultKind.TERM_NOW)
RESTARTS = (FaultKind.KILL, *TERMS)
"""The same name goes on before its lease has expired."""
GRACEFUL = (*TERMS, FaultKind.CANCEL, *NETWORK)
"""The process still does all its cleanup."""
_LEASE_LOSSES = (FaultKind.PAUSE, FaultKind.PAUSE_LATE, FaultKind.PARTITION)
ALL_FAULTS = (*KILLS, *TERMS, *_LEASE_LOSSES, *NETWORK)
"""After each of these every task must end as in the baseline; after `CANCEL` it need not."""
SAME_PROCESS = (FaultKind.CANCEL, FaultKind.OUTAGE)
"""The process works on, and no other one is started."""
CRASH_POINT_KINDS = (*ALL_FAULTS, *SAME_PROCESS)
TIMED_KINDS = tuple(
    map(FaultKind, ["kill", "pause", "term", "reboot", "partition", "outage", "stop", "fill"])
)


class InjectedFault(NamedTuple):
    """A fault at a crash point of one process: ``kill@17``."""

    kind: FaultKind
    crash_point: int | str
    """Its number from 1, or a part of its line in a trace: then the first such one counts."""

    def __str__(self) -> str:
        return f"{self.kind.value}@{self.crash_point}"


_NEXT_FAULT = re.compile(r",(?=[^,@]*@)")

FaultSchedule = tuple[InjectedFault, ...]
"""The first fault hits the first process, each later one the process that goes on after it."""


def parse_schedule(text: str) -> FaultSchedule:
    """Read a schedule as reports print it, ``kill@17,pause@4``, or with what happens there.

    ``kill@checkpoint_state 'charge', committed`` is at the first crash point of the process whose
    line in a trace has this text. Raises `ValueError` that names the part that cannot be read.
    """
    faults = []
    for part in filter(None, _NEXT_FAULT.split(text)):
        kind, _, point = (each.strip() for each in part.partition("@"))
        is_number = point.lstrip("+-").isdecimal()
        if not point or (is_number and not (point.isdecimal() and int(point) > 0)):
            raise ValueError(
                f"{part!r} is no fault: write a kind and a crash point from 1, or a part of its "
                "line in a trace, as kill@17 or \"kill@checkpoint_state 'charge', committed\""
            )
        faults.append(InjectedFault(parse_kind(kind), int(point) if is_number else point))
    return tuple(faults)


def parse_kind(text: str) -> FaultKind:
    """Read a kind of fault that a crash point can have.

    Raises `ValueError` that lists these kinds for any other text.
    """
    for kind in CRASH_POINT_KINDS:
        if kind.value == text:
            return kind
    raise ValueError(f"{text!r} is no kind of fault; there are {', '.join(CRASH_POINT_KINDS)}")


class TimedFault(NamedTuple):
    """A fault at a time of a campaign: ``kill-3@4212.5``, ``partition-0@100/24``."""

    at_seconds: float
    kind: FaultKind
    """One of `TIMED_KINDS`."""
    target: int = 0
    """The number of a worker or of a host; 0 for the database and the disk."""
    seconds: float = 0.0
    """How long it lasts."""

    def __str__(self) -> str:
        duration = f"/{_decimal(self.seconds)}" if self.seconds else ""
        return f"{self.kind.value}-{self.target}@{_decimal(self.at_seconds)}{duration}"


_TIMED = re.compile(r"([a-z]+)-(\d+)@(\d+(?:\.\d+)?)(?:/(\d+(?:\.\d+)?))?")


def parse_timed_faults(text: str) -> list[TimedFault]:
    """Read what `str` writes, with commas; the faults in order of time.

    Raises `ValueError` that names the part that cannot be read.
    """
    faults = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _TIMED.fullmatch(part)
        if match is None or match[1] not in TIMED_KINDS:
            raise ValueError(
                f"no fault is written {part!r}; write KIND-NUMBER@SECONDS or "
                f"KIND-NUMBER@SECONDS/FOR_SECONDS, with a kind of {', '.join(TIMED_KINDS)}"
            )
        kind, target, at_seconds, seconds = match.groups()
        fault = TimedFault(float(at_seconds), FaultKind(kind), int(target), float(seconds or 0.0))
        faults.append(fault)
    return sorted(faults)


def only_of(schedule: FaultSchedule, kinds: Sequence[FaultKind]) -> bool:
    """Whether every fault of a schedule is of one of these kinds."""
    return all(fault.kind in kinds for fault in schedule)


def _decimal(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".")
