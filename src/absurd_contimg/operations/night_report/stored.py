"""The JSON file of a night's report: the same numbers as the page, and what need not be read again.

Earlier nights' files are the trends of later ones. A file that cannot be read is as good as none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from absurd_contimg.operations.night_report.facts import (
    AntennaGain,
    DataFigures,
    EarlierNight,
    ImageFigures,
    NightFacts,
    Number,
)
from absurd_contimg.operations.night_report.rows import Row, Verdict
from absurd_contimg.regular_files import read_json

FORMAT = 1
"""Of the JSON; a file of another format is not read."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class NightReport:
    """A night with its rows and verdict."""

    facts: NightFacts
    rows: tuple[Row, ...]
    verdict: Verdict
    reasons: tuple[str, ...]
    fingerprint: str = ""
    """Of all states that the report depends on, without the time."""
    image_figures: Mapping[str, ImageFigures] = field(default_factory=dict)
    data_figures: Mapping[str, DataFigures] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredNight:
    """What is read of an earlier report."""

    night: date
    fingerprint: str
    declination_deg: Number
    numbers: Mapping[str, Number]
    gains: Mapping[str, AntennaGain]
    refant: str
    image_figures: Mapping[str, ImageFigures]
    data_figures: Mapping[str, DataFigures]

    def as_earlier(self) -> EarlierNight:
        """As a point of the trends."""
        return EarlierNight(self.night, self.numbers, self.gains, self.refant)


def to_json(report: NightReport) -> dict[str, Any]:
    """The file's content; a number that is not finite is null."""
    facts = report.facts
    solved = next((each for each in reversed(facts.sets) if each.gains), None)
    content: dict[str, Any] = finite(
        to_jsonable_python(
            {
                "format": FORMAT,
                "night": facts.night,
                "verdict": report.verdict,
                "reasons": report.reasons,
                "declination_deg": facts.declination_deg,
                "read_at": facts.read_at,
                "fingerprint": report.fingerprint,
                "rows": [row_json(row, facts) for row in report.rows],
                "unprocessed": facts.unprocessed,
                "problems": facts.problems,
                "groups_by_state": facts.groups_by_state,
                "groups": facts.groups,
                "sets": facts.sets,
                "mosaics": facts.mosaics,
                "variability": facts.variability,
                "operations": facts.operations,
                "gains": {} if solved is None else solved.gains,
                "refant": "" if solved is None else solved.refant,
                "image_figures": report.image_figures,
                "data_figures": report.data_figures,
            },
            inf_nan_mode="constants",
            fallback=str,
        )
    )
    return content


def row_json(row: Row, facts: NightFacts) -> dict[str, Any]:
    """A row with its trend, oldest night first."""
    return {
        "key": row.key,
        "title": row.title,
        "status": row.status,
        "number": row.number,
        "unit": row.unit,
        "value": row.value,
        "gate": row.gate,
        "reason": row.reason,
        "expected": row.expected,
        "numbers": row.numbers,
        "details": row.details,
        "tasks": [{"name": name, "task_id": task_id} for name, task_id in row.tasks],
        "trend": [{"night": night, "number": number} for night, number in trend_of(row, facts)],
    }


def trend_of(row: Row, facts: NightFacts) -> list[tuple[date, Number]]:
    """The main figure of a row over the earlier nights and this one, the oldest first."""
    earlier = [(night.night, night.numbers.get(row.key)) for night in facts.earlier]
    return [*sorted(earlier, key=lambda item: item[0]), (facts.night, row.number)]


def finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return value


def read_stored(path: Path) -> StoredNight | None:
    """The report in a file; None if there is none, or one of another format or damaged."""
    try:
        content = read_json(path)
        if content["format"] != FORMAT:
            return None
        return StoredNight(
            night=date.fromisoformat(content["night"]),
            fingerprint=str(content["fingerprint"]),
            declination_deg=_read(Number, content["declination_deg"]),
            numbers={str(row["key"]): _read(Number, row["number"]) for row in content["rows"]},
            gains=_read(dict[str, AntennaGain], content["gains"]),
            refant=str(content["refant"]),
            image_figures=_read(dict[str, ImageFigures], content["image_figures"]),
            data_figures=_read(dict[str, DataFigures], content["data_figures"]),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _read(kind: Any, value: object) -> Any:
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise ValueError(str(error)) from error
