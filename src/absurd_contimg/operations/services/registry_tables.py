"""The registry's tables for commands that need no more of it: pauses, slots, batches, schedules."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Protocol

from absurd_contimg.errors import AwayError, SettingError
from absurd_contimg.registry.database import Database, exists
from absurd_contimg.registry.operator_actions import maintenance_problem
from absurd_contimg.registry.queue_pauses import QueuePause, QueuePauses
from absurd_contimg.registry.resource_slots import ResourceSlot, ResourceSlots
from absurd_contimg.registry.stop_notes import StopNotes
from absurd_contimg.settings import Settings


def has_registry(settings: Settings) -> bool:
    """Whether a registry may be there; raises `AwayError` where that of the site is gone."""
    return exists(settings.registry_url, output_dir=settings.pipeline.paths.output_dir)


@contextmanager
def open_tables(settings: Settings) -> Iterator[Database]:
    """The tables, made if the site never had any; raises `AwayError` where they are gone."""
    has_registry(settings)  # before it makes a folder
    output_dir = settings.pipeline.paths.output_dir
    with closing(Database(settings.registry_url, output_dir=output_dir)) as database:
        yield database


@dataclass(frozen=True, slots=True)
class Hindrances:
    """What keeps tasks from going on that can be claimed."""

    pauses: tuple[QueuePause, ...] = ()
    slots: tuple[ResourceSlot, ...] = ()
    problem: str | None = None
    """Why the registry cannot be asked."""
    maintenance: str = ""
    """Why maintenance makes no room: what its last run has skipped."""


def read_hindrances(settings: Settings) -> Hindrances:
    """The pauses and slots; none where there is no registry yet."""
    stops = StopNotes(settings.pipeline.paths.output_dir).stops()
    try:
        if not has_registry(settings):
            return Hindrances(tuple(stops))
        with open_tables(settings) as database:
            pauses, slots = QueuePauses(database).pauses(), ResourceSlots(database).slots()
            maintenance = maintenance_problem(database)
    except AwayError as error:
        return Hindrances(tuple(stops), problem=str(error))
    noted = {stop.queue for stop in stops}
    pauses = [*stops, *(pause for pause in pauses if pause.queue not in noted)]
    return Hindrances(tuple(pauses), tuple(slots), maintenance=maintenance)


def enter_stop_notes(settings: Settings) -> None:
    """Enter the stops that the registry could not hold; raises `AwayError` where it still cannot.

    What holds or ends stops then knows them.
    """
    notes = StopNotes(settings.pipeline.paths.output_dir)
    stops = notes.stops()
    if not stops:
        return
    with open_tables(settings) as database:
        for stop in stops:
            try:
                notes.enter(QueuePauses(database), stop)
            except OSError as error:
                raise AwayError(
                    str(notes.folder),
                    f"The stop in {notes.folder} cannot be removed: {error.strerror}.",
                    "Make it writable for this user.",
                ) from error


class Tables(Protocol):
    """The registry's tables of something that may run for long; both calls block for a moment."""

    def existing(self) -> Database | None:
        """The tables, None where there are none yet; raises `AwayError`."""

    def made(self) -> Database:
        """The tables, made where there are none; raises `AwayError` or `SettingError`."""


@dataclass(frozen=True, slots=True)
class GivenTables:
    """Tables that are open, or none."""

    database: Database | None = None

    def existing(self) -> Database | None:
        """The tables."""
        return self.database

    def made(self) -> Database:
        """The tables; `SettingError` where there are none."""
        if self.database is None:
            raise SettingError("This site has no registry.", "Check --output-dir and --state-dir.")
        return self.database


class SiteTables:
    """The tables of these settings, opened when they are first needed and can be reached."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database: Database | None = None
        self._lock = threading.Lock()

    def existing(self) -> Database | None:
        """The tables, None where there are none yet."""
        if self._database is None and not has_registry(self._settings):
            return None
        return self.made()

    def made(self) -> Database:
        """The tables, made where there are none."""
        with self._lock:
            if self._database is None:
                has_registry(self._settings)  # before it makes a folder
                output_dir = self._settings.pipeline.paths.output_dir
                self._database = Database(self._settings.registry_url, output_dir=output_dir)
            return self._database

    def close(self) -> None:
        """Close the tables if they are open."""
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None
