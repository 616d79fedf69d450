"""The parameters of a pipeline task: one JSON form, checked when the task runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast
from unittest.mock import create_autospec

import pytest

from absurd_contimg.config import PathsConfig
from absurd_contimg.core.failure_handling import RetryDecision
from absurd_contimg.core.records import ClaimedTask, Json
from absurd_contimg.errors import InputElsewhereError, SettingError
from absurd_contimg.execution.context import GroupInputs
from absurd_contimg.registry import Registry
from absurd_contimg.workflows.group import note_group_failure, parse_params

PARAMS: dict[str, Json] = {
    "group_id": "2026-01-01T00:00:00",
    "input_files": ["/in/2026-01-01T00:00:00_sb00.hdf5"],
    "catalog_path": "/in/catalog.csv",
    "calibrator": "auto",
}

PATHS = PathsConfig(
    input_dir=Path("/in"),
    output_dir=Path("/out"),
    scratch_dir=Path("/out/scratch"),
    state_dir=Path("/out/state"),
)


def test_parameters_keep_their_json_form() -> None:
    """Tasks that earlier versions spawned are read, and new ones look the same."""
    inputs = parse_params(PARAMS, PATHS)
    assert inputs.input_files == (Path("/in/2026-01-01T00:00:00_sb00.hdf5"),)
    assert inputs.model_dump(mode="json") == PARAMS
    assert GroupInputs.model_validate(PARAMS) == inputs


@pytest.mark.parametrize(
    ("change", "problem"),
    [({"input_files": []}, "input_files"), ({"group_id": ""}, "group_id"), ({"x": 1}, "x: ")],
)
def test_wrong_parameter_is_named(change: dict[str, Json], problem: str) -> None:
    with pytest.raises(SettingError, match=problem):
        parse_params({**PARAMS, **change}, PATHS)


def test_files_of_a_folder_that_has_moved_are_taken_by_their_names(tmp_path: Path) -> None:
    """A site that was renamed, or is mounted elsewhere on another host."""
    paths = PathsConfig.below(tmp_path / "here")
    paths.input_dir.mkdir(parents=True)
    for name in ("2026-01-01T00:00:00_sb00.hdf5", "catalog.csv"):
        (paths.input_dir / name).touch()
    moved = {
        "input_files": [f"{tmp_path}/earlier/incoming/2026-01-01T00:00:00_sb00.hdf5"],
        "catalog_path": f"{tmp_path}/earlier/incoming/catalog.csv",
    }
    inputs = parse_params({**PARAMS, **moved}, paths)
    assert inputs.input_files == (paths.input_dir / "2026-01-01T00:00:00_sb00.hdf5",)
    assert inputs.catalog_path == paths.input_dir / "catalog.csv"
    (tmp_path / "earlier/incoming").mkdir(parents=True)  # then this worker is a wrong one
    with pytest.raises(InputElsewhereError, match="of this worker"):
        parse_params({**PARAMS, **moved}, paths)


HOSTILE = ("/etc/shadow", "/in/../etc/shadow", "/input/a.hdf5", "a.hdf5", "/proc/self/environ")


@pytest.mark.parametrize("path", [*HOSTILE, "/out/images/a.fits", "/in2/a"])
def test_no_other_files_than_inputs_are_named(path: str) -> None:
    """A spawner must not have any file of the worker's user read and quoted."""
    with pytest.raises(SettingError, match="PIPELINE_INPUT_DIR"):
        parse_params({**PARAMS, "input_files": [path]}, PATHS)
    with pytest.raises(SettingError, match="PIPELINE_CATALOG"):
        parse_params({**PARAMS, "catalog_path": path}, PATHS)


def test_links_and_the_configured_catalogue_are_inputs(tmp_path: Path) -> None:
    """Sub-bands on other disks are linked; both spellings of a linked input folder are right."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a.hdf5").write_text("x")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.hdf5").symlink_to(tmp_path / "disk" / "a.hdf5")
    (tmp_path / "in2").symlink_to("in")
    catalog = tmp_path / "elsewhere.csv"
    for name, other in (("in", "in2"), ("in2", "in")):
        given = {"input_dir": tmp_path / name, "catalog": catalog}
        paths = PATHS.model_copy(update=given)
        for file in (tmp_path / name / "a.hdf5", tmp_path / other / "b.hdf5"):
            params = {**PARAMS, "input_files": [str(file)], "catalog_path": str(catalog)}
            assert parse_params(params, paths).input_files == (file,)


@pytest.mark.parametrize(
    "params",
    [None, [], {}, *({"group_id": name} for name in (None, 5, {"a": 1}, "", "x" * 200_000))],
)
async def test_a_task_that_names_no_group_makes_none(params: Json) -> None:
    """Groups called ``None`` and ``{'a': 1}`` were in the registry, and on its pages."""
    registry = create_autospec(Registry, instance=True)
    claimed = cast("ClaimedTask", SimpleNamespace(params=params))
    decision = cast("RetryDecision", SimpleNamespace(verdict=SimpleNamespace(rule_id="x")))
    await note_group_failure(registry, claimed, decision, {})
    registry.set_group_status.assert_not_called()
