"""The parameters of a pipeline task: one JSON form, checked when the task runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from absurd_contimg.core.records import Json
from absurd_contimg.errors import SettingError
from absurd_contimg.execution.context import GroupInputs
from absurd_contimg.workflows.group import parse_params

PARAMS: dict[str, Json] = {
    "group_id": "2026-01-01T00:00:00",
    "input_files": ["/in/2026-01-01T00:00:00_sb00.hdf5"],
    "catalog_path": "/in/catalog.csv",
    "calibrator": "auto",
}


def test_parameters_keep_their_json_form() -> None:
    """Tasks that earlier versions spawned are read, and new ones look the same."""
    inputs = parse_params(PARAMS)
    assert inputs.input_files == (Path("/in/2026-01-01T00:00:00_sb00.hdf5"),)
    assert inputs.model_dump(mode="json") == PARAMS
    assert GroupInputs.model_validate(PARAMS) == inputs


@pytest.mark.parametrize(
    ("change", "problem"),
    [({"input_files": []}, "input_files"), ({"group_id": ""}, "group_id"), ({"x": 1}, "x: ")],
)
def test_wrong_parameter_is_named(change: dict[str, Json], problem: str) -> None:
    with pytest.raises(SettingError, match=problem):
        parse_params({**PARAMS, **change})
