"""Which calibration a group gets, and what happens when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from absurd_contimg.config import CalibrationConfig, PathsConfig, PipelineConfig
from absurd_contimg.core.evidence import Evidence
from absurd_contimg.core.failures import FailureKind
from absurd_contimg.core.records import Json
from absurd_contimg.errors import NoCalibrationError, StorageAwayError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.fallback import DISTANT_CALIBRATION, with_fallbacks
from absurd_contimg.execution.stage import Workspace
from absurd_contimg.products.manifest import InputEntry, Manifest
from absurd_contimg.products.output_warnings import output_warnings
from absurd_contimg.products.outputs import (
    FlaggedMeasurementSet,
    FlagOutputs,
    SelectedCalibration,
    to_json,
)
from absurd_contimg.registry import Registry
from absurd_contimg.stages import select_calibration
from absurd_contimg.stages.select_calibration import SelectCalibrationStage
from absurd_contimg.workflows.failure_rules import CLASSIFIER

MJD = 61065.9


@pytest.fixture(autouse=True)
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second look is without a pause, except where a test says what happens in it."""
    monkeypatch.setattr(select_calibration, "SECOND_LOOK_SECONDS", 0.0)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry.sqlite3")


def add_set(
    registry: Registry, root: Path, name: str, hours: float, *, window_hours: float = 12.0
) -> Path:
    """A registered set, its tables on disk, observed so many hours from the group."""
    mjd = MJD + hours / 24.0
    folder = root / name
    tables: list[Json] = []
    for kind, order in (("GA", 40), ("BP", 30)):
        table = folder / f"x_{kind}"
        table.mkdir(parents=True)
        (table / "table.dat").touch()
        tables.append({"path": str(table), "type": kind, "apply_order": order, "interp": "linear"})
    described: dict[str, Json] = {
        "solved": True, "set_name": name, "tables": tables, "calibrator": "3C286",
        "refant": "DSA103", "mid_mjd": mjd, "declination_deg": 16.0,
        "valid_start_mjd": mjd - window_hours / 24, "valid_end_mjd": mjd + window_hours / 24,
    }  # fmt: skip
    manifest = Manifest(
        *("calibrate_solve", 1, name, f"calibration/{name}", str(root), name, {}),
        *((InputEntry("/in.ms", "product", "k"),), {"caltables": described}, (), {}),
        *("2026-01-26T00:00:00+00:00", "1", "host"),
    )
    registry.register(folder, manifest)
    return folder


def select(
    registry: Registry,
    root: Path,
    group_id: str = "G",
    calibration: CalibrationConfig = CalibrationConfig(),  # noqa: B008 - it is frozen
    fallbacks: tuple[str, ...] = (),
) -> SelectedCalibration:
    flagged = FlaggedMeasurementSet(
        *(root / "products/flagged.ms", root / "products/beam_centres.json"),
        *(100, 48, 244e3, 20),
        *(MJD - 0.001, MJD + 0.001, MJD, 10.0, 16.2, 16.1),
    )
    context = PipelineContext(
        PipelineConfig(paths=PathsConfig.below(root), calibration=calibration),
        {"group_id": group_id},
        to_json(FlagOutputs(flagged)),
    )
    workspace = Workspace(root, root, root / "casa.log", root)
    context = with_fallbacks(context, fallbacks)
    return SelectCalibrationStage(registry).execute(context, workspace).calibration


def test_set_beyond_the_reach_is_taken_only_where_it_is_allowed(
    registry: Registry, tmp_path: Path
) -> None:
    """And marked, so that the group ends degraded; one of another strip never is."""
    add_set(registry, tmp_path, "days ago", -70.0)
    with pytest.raises(NoCalibrationError):
        select(registry, tmp_path)
    chosen = select(registry, tmp_path, fallbacks=(DISTANT_CALIBRATION,))
    assert (chosen.set_name, chosen.beyond_reach) == ("days ago", True)
    assert chosen.warning == "solutions are 70.0 h away"
    outputs = {"calibration": to_json(chosen)}
    assert output_warnings(outputs) == ["solutions are 70.0 h away, beyond the limit"]
    add_set(registry, tmp_path, "near", -8.0, window_hours=1.0)
    chosen = select(registry, tmp_path, fallbacks=(DISTANT_CALIBRATION,))
    assert (chosen.set_name, chosen.beyond_reach) == ("near", False)
    assert chosen.warning is not None


def test_tables_are_given_in_their_order(registry: Registry, tmp_path: Path) -> None:
    """What the apply stage reads: paths, types, order and interpolation."""
    folder = add_set(registry, tmp_path, "set", 1.0)
    chosen = select(registry, tmp_path)
    assert [table.path for table in chosen.tables] == [folder / "x_BP", folder / "x_GA"]
    assert (chosen.hours_away, chosen.inside_window, chosen.warning) == (1.0, True, None)


def test_newest_set_in_its_window_wins(registry: Registry, tmp_path: Path) -> None:
    """Also over a nearer one that was observed earlier (the telescope's rule)."""
    add_set(registry, tmp_path, "near", -1.0)
    add_set(registry, tmp_path, "newest", 3.0)
    assert select(registry, tmp_path).set_name == "newest"


def test_own_solutions_of_a_group_come_first(registry: Registry, tmp_path: Path) -> None:
    """The result of a calibrator's group does not depend on what was processed before it."""
    add_set(registry, tmp_path, "own", 0.0)
    add_set(registry, tmp_path, "newer", 3.0)
    assert select(registry, tmp_path, "own").set_name == "own"


def test_set_far_outside_its_window_carries_a_warning(registry: Registry, tmp_path: Path) -> None:
    """Better old solutions than none, but it is said."""
    add_set(registry, tmp_path, "old", -9.0, window_hours=1.0)
    chosen = select(registry, tmp_path)
    assert (chosen.inside_window, chosen.warning) == (False, "solutions are 9.0 h away")


def test_set_without_its_tables_is_retired_and_the_next_is_selected(
    registry: Registry, tmp_path: Path
) -> None:
    """A registry that promises what is not on disk is corrected, once."""
    add_set(registry, tmp_path, "whole", -1.0)
    (add_set(registry, tmp_path, "gone", 3.0) / "x_BP" / "table.dat").unlink()
    assert select(registry, tmp_path).set_name == "whole"
    assert [s.set_name for s in registry.caltable_sets_valid_at(MJD, 16.0)] == ["whole"]


def test_set_that_is_back_after_a_moment_is_selected(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder is renamed while another group selects; it is not believed to be gone."""
    folder = add_set(registry, tmp_path, "renamed", 1.0)
    folder.rename(tmp_path / "for a moment")
    sleep = lambda _seconds: (tmp_path / "for a moment").rename(folder)  # noqa: E731
    monkeypatch.setattr(select_calibration.time, "sleep", sleep)
    assert select(registry, tmp_path).set_name == "renamed"


def test_sets_on_a_disk_that_is_away_are_not_retired(registry: Registry, tmp_path: Path) -> None:
    """The step waits, as for any resource, and says for which folder."""
    disk = tmp_path / "disk"
    add_set(registry, disk, "away", 1.0)
    disk.rename(tmp_path / "elsewhere")
    with pytest.raises(StorageAwayError) as caught:
        select(registry, tmp_path)
    verdict = CLASSIFIER.classify(Evidence.of(caught.value))
    assert (verdict.kind, verdict.rule_id) == (FailureKind.RESOURCE, "storage-away")
    assert verdict.path == str(disk)
    (tmp_path / "elsewhere").rename(disk)
    assert select(registry, tmp_path).set_name == "away"


def test_no_calibration_says_what_to_do(registry: Registry, tmp_path: Path) -> None:
    """Time, declination and the way out are in the error."""
    add_set(registry, tmp_path, "too far", 13.0, window_hours=1.0)
    with pytest.raises(NoCalibrationError, match=r"61065\.9000.*16\.1.*calibrator transits"):
        select(registry, tmp_path)


def test_reach_and_warning_are_settings(tmp_path: Path) -> None:
    """A set 13 h away serves with a reach of 20 h, and carries no warning below 14 h."""
    registry = Registry(tmp_path / "registry.sqlite3", reach_hours=20.0)
    add_set(registry, tmp_path, "far", 13.0, window_hours=1.0)
    calibration = CalibrationConfig(reach_hours=20.0, warn_hours=14.0)
    chosen = select(registry, tmp_path, calibration=calibration)
    assert (chosen.hours_away, chosen.warning) == (13.0, None)
    assert calibration.of_solutions == CalibrationConfig().of_solutions
