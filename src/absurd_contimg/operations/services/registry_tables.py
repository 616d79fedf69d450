"""The registry's tables for commands that need no more of it: pauses, slots, batches, schedules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from absurd_contimg.errors import AwayError
from absurd_contimg.registry.database import Database, exists
from absurd_contimg.registry.queue_pauses import QueuePause, QueuePauses
from absurd_contimg.registry.resource_slots import ResourceSlot, ResourceSlots
from absurd_contimg.settings import Settings


@contextmanager
def open_tables(settings: Settings) -> Iterator[Database]:
    """The tables, which are made if they are missing."""
    settings.pipeline.paths.state_dir.mkdir(parents=True, exist_ok=True)
    with closing(Database(settings.registry_url)) as database:
        yield database


@dataclass(frozen=True, slots=True)
class Hindrances:
    """What keeps tasks from going on that can be claimed."""

    pauses: tuple[QueuePause, ...] = ()
    slots: tuple[ResourceSlot, ...] = ()
    problem: str | None = None
    """Why the registry cannot be asked."""


def read_hindrances(settings: Settings) -> Hindrances:
    """The pauses and slots; none where there is no registry yet."""
    if not exists(settings.registry_url):
        return Hindrances()
    try:
        with open_tables(settings) as database:
            pauses, slots = QueuePauses(database).pauses(), ResourceSlots(database).slots()
    except AwayError as error:
        return Hindrances(problem=str(error))
    return Hindrances(tuple(pauses), tuple(slots))
