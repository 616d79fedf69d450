"""Escalations: what a later start of a stage does differently after what the last one met.

A failure rule names one (``failures.py``); the worker keeps it in the history and gives it to the
next start; here stand the names, what each means, and how a stage asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from absurd_contimg.execution.context import PipelineContext

ONE_THREAD = "one-thread"
OTHER_CALIBRATION = "other-calibration"
GENTLER_FLAGS = "gentler-flags"

ESCALATIONS: Mapping[str, str] = {
    ONE_THREAD: "The stage's process has one thread. Each thread of tclean costs 40 MB and more of "
    "WSClean's; the image is the same to the bit (measured with tclean, 1, 2 and 4 threads).",
    OTHER_CALIBRATION: "The group's own calibrator is left alone, and the nearest valid "
    "calibration of another group is waited for and used.",
    GENTLER_FLAGS: "Outliers in time and frequency are flagged from twice the usual cut-off on. "
    "The group ends degraded, however good its image.",
}
"""What each does, for operators."""

_KEY = "escalations"


def with_escalations(context: PipelineContext, escalations: Sequence[str]) -> PipelineContext:
    """The context of a start that is made under these escalations."""
    return context.with_metadata({_KEY: list(escalations)}) if escalations else context


def escalations_of(context: PipelineContext) -> tuple[str, ...]:
    """The escalations of this start, in the order in which they were found necessary."""
    found = context.metadata.get(_KEY)
    return tuple(str(one) for one in found) if isinstance(found, list | tuple) else ()
