"""What the pages are shown over: production, a finished simulation, a file of histories."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.errors import MissingInputError
from absurd_contimg.history.history_file import HistoryFile
from absurd_contimg.operations.dashboard.charts import FaultMark
from absurd_contimg.operations.overview import Site, open_site
from absurd_contimg.operations.services import (
    Actions,
    SiteTables,
    operator_name,
    require_own_state,
)
from absurd_contimg.settings import Settings
from absurd_contimg.simulation.campaign.stored_runs import StoredRun, list_stored_runs
from absurd_contimg.simulation.model.faults import TimedFault
from absurd_contimg.simulation.model.world import EPOCH


@dataclass(frozen=True, slots=True)
class Source:
    """A site with what is known of it beside its database."""

    site: Site
    actions: Actions | None = None
    """None: nothing can be changed."""
    faults: Sequence[FaultMark] = ()
    live: bool = True


@asynccontextmanager
async def production_source(settings: Settings) -> AsyncIterator[Source]:
    """The site of the settings; `SettingError` for a state folder that is not its own."""
    require_own_state(settings)
    async with open_site(settings) as site:
        actions, tables = None, SiteTables(settings)
        if isinstance(site.inspection, PostgresBackend):
            actions = Actions(site.inspection, tables, operator_name(), "dashboard")
        try:
            yield Source(site, actions)
        finally:
            tables.close()


def simulation_source(folder: Path, number: int = 1) -> Source:
    """A run of a simulation by its output folder; raises `MissingInputError` if there is none."""
    runs = list_stored_runs(folder)
    chosen = next((run for run in runs if run.number == number), None)
    if chosen is None:
        known = "; ".join(f"{run.number}: {run.label}, seed {run.seed}" for run in runs)
        raise MissingInputError(f"There is no run {number} in {folder}.", f"There are {known}.")
    file = HistoryFile(folder / chosen.histories)
    return Source(Site(_name(chosen), file), faults=_marks(chosen.timed_faults), live=False)


def _name(run: StoredRun) -> str:
    violations = f", {len(run.violations)} violations" if run.violations else ""
    return f"simulation {run.label}, seed {run.seed}{violations}"


def _marks(faults: Sequence[TimedFault]) -> tuple[FaultMark, ...]:
    marks = []
    for fault in faults:
        at = EPOCH + timedelta(seconds=fault.at_seconds)
        until = at + timedelta(seconds=fault.seconds) if fault.seconds else None
        marks.append(FaultMark(at, until, f"{fault.kind.value} of {fault.target}"))
    return tuple(marks)


def history_source(path: Path) -> Source:
    """A file of histories; raises what `HistoryFile` raises."""
    return Source(Site(f"history file {path.name}", HistoryFile(path)), live=False)
