"""The warnings of stages that have succeeded."""

from __future__ import annotations

from typing import Any

import pytest

from absurd_contimg.products.output_warnings import output_warnings


@pytest.mark.parametrize(
    ("outputs", "warning"),
    [
        ({"measurement_set": {"placeholder_subbands": [3, 4]}}, "2 sub-bands missing"),
        ({"measurement_set": {"stand_ins": [3]}}, "1 sub-bands missing"),
        ({"flagged_ms": {"flagging_warning": "nothing is flagged"}}, "nothing is flagged"),
        (
            {"caltables": {"quality": {"unsolved_antennas": ["DSA104", "DSA105"]}}},
            "2 antennas with data but without solutions: DSA104, DSA105",
        ),
        (
            {"calibrated_ms": {"uncalibrated_antennas": ["DSA104"]}},
            "1 antennas flagged, as the selected tables have no solutions for them: DSA104",
        ),
        (
            {"calibrated_ms": {"uncalibrated_channels": 9, "uncalibrated_subbands": [0, 12]}},
            "9 channels flagged, as the selected tables have no solutions for them, among them all "
            "of sub-bands 00, 12",
        ),
        (
            {"calibrated_ms": {"uncalibrated_channels": 1, "uncalibrated_subbands": []}},
            "1 channels flagged, as the selected tables have no solutions for them",
        ),
        (
            {"validation": {"verdict": "clean", "n_expected": 0}},
            "not checked: the image shows no catalogue source that can be compared",
        ),
        ({"calibration": {"warning": "solutions are 8.0 h away"}}, "solutions are 8.0 h away"),
    ],
)
def test_each_warning_is_one_text(outputs: dict[str, Any], warning: str) -> None:
    assert output_warnings(outputs) == [warning]


def test_antennas_that_its_own_calibrator_did_not_solve_are_named_once() -> None:
    outputs = {
        "caltables": {"quality": {"unsolved_antennas": ["DSA104"]}},
        "calibrated_ms": {"uncalibrated_antennas": ["DSA104"]},
    }
    assert len(output_warnings(outputs)) == 1


@pytest.mark.parametrize("outputs", [{}, {"caltables": {"quality": None}}, {"flagged_ms": "x"}])
def test_outputs_without_warnings_or_of_other_shapes_have_none(outputs: dict[str, Any]) -> None:
    assert output_warnings(outputs) == []
