"""Runs of a campaign on disk: their histories and faults, for whatever shows histories.

``runs.json`` lists the runs; the histories of each are a file that `history.history_file` reads.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from absurd_contimg.errors import CorruptInputError, MissingInputError
from absurd_contimg.history.history_file import write_histories
from absurd_contimg.regular_files import read_json
from absurd_contimg.simulation.campaign.campaign import Run
from absurd_contimg.simulation.campaign.summary import RunSummary
from absurd_contimg.simulation.model.faults import TimedFault, parse_timed_faults
from absurd_contimg.simulation.model.world import EPOCH

_LIST = "runs.json"


@dataclass(frozen=True, slots=True)
class StoredRun:
    """One run; `number` is from 1, in the order of the campaign's last runs."""

    number: int
    scenario: str
    label: str
    seed: int
    histories: str
    """The name of the file beside ``runs.json``."""
    faults: str
    """As `parse_timed_faults` reads them; their times are seconds after `EPOCH`."""
    violations: tuple[str, ...] = ()

    @property
    def timed_faults(self) -> list[TimedFault]:
        """The faults in order of time; raises `ValueError`."""
        return parse_timed_faults(self.faults)


def store_runs(folder: Path, runs: Sequence[tuple[RunSummary, Run]]) -> None:
    """Write the runs into a folder, instead of those that were there."""
    stored = []
    for number, (summary, run) in enumerate(runs, 1):
        name = f"run-{number}.histories.gz"
        read_at = EPOCH + timedelta(seconds=run.ended_at_seconds)
        write_histories(folder / name, run.histories, read_at=read_at)
        faults = ",".join(map(str, run.faults))
        stored.append(
            StoredRun(
                number, run.scenario.name, summary.label, run.seed, name, faults, summary.violations
            )
        )
    partial = folder / f".{_LIST}.partial"
    partial.write_text(json.dumps([asdict(run) for run in stored], indent=1), encoding="utf-8")
    partial.replace(folder / _LIST)


def list_stored_runs(folder: Path) -> list[StoredRun]:
    """The runs in the output folder of a simulation.

    Raises `MissingInputError` if there are none, `CorruptInputError` if the list cannot be read.
    """
    path = folder / _LIST
    try:
        values: Any = read_json(path)
        runs = TypeAdapter(list[StoredRun]).validate_python(values)
        for run in runs:
            if Path(run.histories).name != run.histories:
                raise ValueError(f"{run.histories} is no name of a file")
            parse_timed_faults(run.faults)
    except FileNotFoundError as error:
        raise MissingInputError(
            f"There is no finished simulation in {folder}.",
            f"Make one: contimg simulate bad_night --seeds 1 --output {folder}",
        ) from error
    except (OSError, ValueError, ValidationError) as error:
        raise CorruptInputError(f"{path} cannot be read: {error}.", "Simulate again.") from error
    return runs
