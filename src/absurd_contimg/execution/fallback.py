"""Fallbacks: what a later start does differently after a failure whose rule names one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from absurd_contimg.execution.context import PipelineContext

ONE_THREAD = "one-thread"
OTHER_CALIBRATION = "other-calibration"
GENTLER_FLAGS = "gentler-flags"
DISTANT_CALIBRATION = "distant-calibration"

FALLBACKS: Mapping[str, str] = {
    ONE_THREAD: "The stage's process has one thread. Each thread of tclean costs 40 MB and more of "
    "WSClean's; the image is the same to the bit (measured with tclean, 1, 2 and 4 threads).",
    OTHER_CALIBRATION: "The stage does not solve for the group's own calibrator; the group waits "
    "for the nearest valid calibration of another group and uses it.",
    GENTLER_FLAGS: "Outliers in time and frequency are flagged from twice the usual cut-off on. "
    "The group ends degraded, however good its image.",
    DISTANT_CALIBRATION: "No calibration came until the deadline, and the settings allow it: the "
    "nearest one of the strip is used, however old. The group ends degraded, however good its "
    "image.",
}
"""The meaning of each, for operators."""

_KEY = "fallbacks"


def with_fallbacks(context: PipelineContext, fallbacks: Sequence[str]) -> PipelineContext:
    """The context of a start that uses these fallbacks."""
    if not fallbacks:
        return context
    return replace(context, metadata={**context.metadata, _KEY: list(fallbacks)})


def fallbacks_of(context: PipelineContext) -> tuple[str, ...]:
    """The fallbacks of this start, in the order in which failures asked for them."""
    fallbacks = context.metadata.get(_KEY)
    return tuple(map(str, fallbacks)) if isinstance(fallbacks, list | tuple) else ()
