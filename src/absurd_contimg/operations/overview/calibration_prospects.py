"""What groups that wait for a calibration can hope for: who may bring it, who has failed to."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from absurd_contimg.history.wait_explanation import CalibrationProspect
from absurd_contimg.operations.console import cut
from absurd_contimg.registry.calibration_sources import CalibrationSource

_NAMES_MAX = 3
_REASON_LENGTH = 120
_ATTEMPT = re.compile(r"^Stage '(\w+)' of attempt \S+ failed: ")


def calibration_prospects(
    sources: Mapping[str, Sequence[CalibrationSource]], live_groups: Collection[str]
) -> dict[str, CalibrationProspect]:
    """By waiting group what it can hope for; groups of `live_groups` have a task that goes on."""
    return {group_id: _prospect(near, live_groups) for group_id, near in sources.items()}


def _prospect(
    sources: Sequence[CalibrationSource], live_groups: Collection[str]
) -> CalibrationProspect:
    failed = [each for each in sources if each.has_failed and each.group_id not in live_groups]
    coming = [each.group_id for each in sources if each not in failed]
    failures = ", ".join(
        f"{each.group_id} has failed ({_short(each.reason)})" for each in failed[:_NAMES_MAX]
    )
    if coming:
        text = f"it may come from {', '.join(coming[:_NAMES_MAX])}"
        return CalibrationProspect(f"{text}; {failures}" if failures else text)
    if not failed:
        return CalibrationProspect(
            "no other group of its strip is known that could bring one",
            "Process a group of its strip in which a calibrator transits.",
        )
    first = failed[0].group_id
    return CalibrationProspect(
        f"no group under way can bring one: {failures}",
        f"Remove what made it fail (contimg history {first}), then: contimg retry {first}. Or "
        "process another group of the strip in which a calibrator transits.",
    )


def _short(reason: str) -> str:
    """The first sentence of a reason; of a stage's failure without the name of the attempt."""
    line = _ATTEMPT.sub(r"\1: ", reason.strip()).partition("\n")[0].partition(". ")[0].rstrip(".")
    if not line:
        return "no reason is known"
    return cut(line, _REASON_LENGTH)
