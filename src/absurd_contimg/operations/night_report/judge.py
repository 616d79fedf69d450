"""All rows of a night, from its facts and the gates alone: no clock, no file, no chance."""

from __future__ import annotations

from absurd_contimg.config import PipelineConfig
from absurd_contimg.operations.night_report.facts import NightFacts
from absurd_contimg.operations.night_report.judge_calibration import calibration_rows
from absurd_contimg.operations.night_report.judge_data import data_rows
from absurd_contimg.operations.night_report.judge_images import image_rows
from absurd_contimg.operations.night_report.judge_results import result_rows
from absurd_contimg.operations.night_report.rows import Row


def judge(facts: NightFacts, config: PipelineConfig) -> tuple[Row, ...]:
    """The rows in the order of the page."""
    gates = config.night_report
    return (
        *data_rows(facts, gates),
        *calibration_rows(facts, gates),
        *image_rows(facts, gates),
        *result_rows(facts, gates, config.variability),
    )
