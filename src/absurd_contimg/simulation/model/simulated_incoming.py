"""The incoming folder of the simulated world: what has arrived depends on the time alone.

The telescope is no process: a script says when each file appears, when it is whole and when it
goes. So nothing of it has to be forked, and a future that begins later sees the same files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from absurd_contimg.errors import CorruptInputError, UnfinishedInputError
from absurd_contimg.ingest.incoming_folder import FileLook, IncomingAwayError
from absurd_contimg.science.raw_pointing import Pointing
from absurd_contimg.simulation.model.simulated_config import SIMULATED_CONFIG
from absurd_contimg.simulation.model.world import EPOCH

EPOCH_SECONDS = EPOCH.timestamp()
_WHOLE_BYTES = 100_000_000


@dataclass(frozen=True, slots=True)
class ArrivingFile:
    """One sub-band file on its way. Times are seconds of the world."""

    name: str
    arrives_at: float
    pointing: Pointing
    whole_at: float = 0.0
    """Until then it grows; infinity for a transfer that is never finished."""
    damaged: bool = False
    """Its header cannot be read, however often it is tried."""
    gone_at: float = inf
    rewritten_at: float = inf
    """When it is transferred once more, and is larger then."""

    def size_at(self, seconds: float) -> int:
        """How large it is then."""
        if seconds >= self.rewritten_at:
            return _WHOLE_BYTES + 1
        if seconds >= self.whole_at:
            return _WHOLE_BYTES
        return min(_WHOLE_BYTES - 1, int(1e5 * (1.0 + self._growth(seconds))))

    def changed_at(self, seconds: float) -> float:
        """When it was written last, as far as is known then."""
        if seconds >= self.rewritten_at:
            return self.rewritten_at
        if seconds >= self.whole_at:
            return max(self.arrives_at, self.whole_at)
        return self.arrives_at + self._growth(seconds)

    def _growth(self, seconds: float) -> float:
        """For how long it has grown: a transfer that is never finished stops after a minute."""
        grown = seconds - self.arrives_at
        return min(grown, 60.0) if self.whole_at == inf else grown


@dataclass(frozen=True, slots=True)
class NightScript:
    """All files of a night, and when their disk is not mounted."""

    files: Sequence[ArrivingFile]
    away: Sequence[tuple[float, float]] = ()
    """Begin and end."""
    by_name: dict[str, ArrivingFile] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {file.name: file for file in self.files})

    @property
    def ends_at(self) -> float:
        """When the last file has arrived."""
        times = [max(file.arrives_at, file.whole_at) for file in self.files]
        return max((time for time in times if time < inf), default=0.0)


@dataclass(frozen=True, slots=True)
class SimulatedIncoming:
    """An `ingest.incoming_folder.Incoming`."""

    script: NightScript
    now: Callable[[], float]
    """The time of the world, in seconds."""

    @property
    def folder(self) -> Path:
        """Where files arrive."""
        return SIMULATED_CONFIG.paths.input_dir

    def names(self) -> set[str]:
        """The names of the files that are there."""
        now = self.now()
        if any(begin <= now < end for begin, end in self.script.away):
            raise IncomingAwayError(
                str(self.folder), f"The incoming folder {self.folder} is not mounted.", "Mount it."
            )
        return {file.name for file in self.script.files if file.arrives_at <= now < file.gone_at}

    def look(self, path: Path) -> FileLook | None:
        """A look at one file."""
        now, file = self.now(), self.script.by_name.get(path.name)
        if file is None or not file.arrives_at <= now < file.gone_at:
            return None
        mtime_ns = round((EPOCH_SECONDS + file.changed_at(now)) * 1e9)
        return FileLook(file.size_at(now), mtime_ns, is_regular=True)

    def pointing(self, path: Path) -> Pointing:
        """The pointing of a whole file; raises as `read_pointing`."""
        file = self.script.by_name[path.name]
        if file.damaged:
            raise CorruptInputError(f"{path}: no header can be read.", "Transfer it again.")
        if self.now() < file.whole_at:
            raise UnfinishedInputError(f"{path} is truncated.", "Wait for its end.")
        return file.pointing
