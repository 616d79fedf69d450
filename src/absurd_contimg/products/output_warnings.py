"""What an operator should know of a group whose stages have succeeded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_NAMES_MAX = 8


def output_warnings(outputs: Mapping[str, Any]) -> list[str]:
    """One short text for each warning in the outputs of a group's stages, of whatever version."""
    return list(_warnings(outputs))


def _warnings(outputs: Mapping[str, Any]) -> Iterator[str]:
    converted = _section(outputs, "measurement_set")
    # Versions up to 0.1 write the second key.
    missing = converted.get("placeholder_subbands", converted.get("stand_ins"))
    if isinstance(missing, list) and missing:
        yield f"{len(missing)} sub-bands missing"
    empty = converted.get("empty_subbands")
    if isinstance(empty, list) and empty:
        yield f"files without data (contimg inspect --data): sub-bands {_numbers(empty)}"
    if text := _section(outputs, "flagged_ms").get("flagging_warning"):
        yield str(text)
    quality = _section(_section(outputs, "caltables"), "quality")
    unsolved = quality.get("unsolved_antennas")
    if isinstance(unsolved, list) and unsolved:
        yield f"{len(unsolved)} antennas with data but without solutions: {_listed(unsolved)}"
    selected = _section(outputs, "calibration")
    if text := selected.get("warning"):
        yield f"{text}, beyond the limit" if selected.get("beyond_reach") else str(text)
    calibrated = _section(outputs, "calibrated_ms")
    flagged = calibrated.get("uncalibrated_antennas")
    if isinstance(flagged, list) and flagged and flagged != unsolved:
        yield (
            f"{len(flagged)} antennas flagged, as the selected tables have no solutions for them: "
            f"{_listed(flagged)}"
        )
    if n_channels := calibrated.get("uncalibrated_channels"):
        whole = calibrated.get("uncalibrated_subbands")
        among = f", among them all of sub-bands {_numbers(whole)}" if whole else ""
        yield (
            f"{n_channels} channels flagged, as the selected tables have no solutions for them"
            f"{among}"
        )
    if _section(outputs, "validation").get("n_expected") == 0:
        yield "not checked: the image shows no catalogue source that can be compared"


def _listed(antennas: Sequence[object]) -> str:
    more = f" and {len(antennas) - _NAMES_MAX} more" if len(antennas) > _NAMES_MAX else ""
    return ", ".join(map(str, antennas[:_NAMES_MAX])) + more


def _numbers(subbands: Sequence[object]) -> str:
    return ", ".join(f"{i:02d}" if isinstance(i, int) else str(i) for i in subbands)


def _section(outputs: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = outputs.get(name)
    return value if isinstance(value, Mapping) else {}
