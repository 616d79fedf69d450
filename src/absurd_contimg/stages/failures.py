"""The failures of stages: our own errors, CASA, pyuvdata, and how a stage's process ends.

Part of the failure table that operators read; messages are those observed with the versions
named. Order matters only between rules that match the same evidence: the first one wins.
"""

from __future__ import annotations

import re
import signal

from absurd_contimg.core.failures import FailureKind, FailureRule
from absurd_contimg.stages import errors, executor

_CASA = "observed, casatasks 6.7.0.31"
_OURS = "raised by a stage's own checks"


def _names(*classes: type[BaseException]) -> frozenset[str]:
    return frozenset(f"{one.__module__}.{one.__qualname__}" for one in classes)


_FREE_SPACE = "Free space on the scratch file system; parked work then goes on."
_DISK_FULL = re.compile(
    r"No space left on device|Failed AlwaysAssert tracePWRITE|write error for file|"
    r"Error writing record"
)

STAGE_RULES: tuple[FailureRule, ...] = (
    FailureRule(
        "bad-input",
        FailureKind.PERMANENT,
        "Replace or remove the named input file, then: contimg retry TASK",
        _OURS,
        exceptions=_names(errors.InputError),
        decisive=True,
    ),
    FailureRule(
        "bad-setting",
        FailureKind.PERMANENT,
        "Correct the named setting, restart the worker, then: contimg retry TASK",
        _OURS,
        exceptions=_names(errors.SettingError),
        decisive=True,
    ),
    FailureRule(
        "data-quality",
        FailureKind.PERMANENT,
        "Look at the data; the same data will fail again.",
        _OURS,
        exceptions=_names(errors.DataQualityError),
        decisive=True,
    ),
    FailureRule(
        "bad-output",
        FailureKind.TRANSIENT,
        "Read the stage's CASA log: CASA ended without an error, but without a good product.",
        _OURS,
        exceptions=_names(errors.OutputError),
        decisive=True,
    ),
    FailureRule(
        "stage-deadline",
        FailureKind.TRANSIENT,
        "Look for a hung file system or a lock; raise ABSURD_TASK_TIMEOUT if it was only slow.",
        "the stage's deadline",
        exceptions=_names(executor.StageTimeout),
        decisive=True,
    ),
    FailureRule(
        "abort-disk-full",
        FailureKind.RESOURCE,
        _FREE_SPACE,
        _CASA,
        signals=frozenset({signal.SIGABRT}),
        casa=_DISK_FULL,
    ),
    FailureRule(
        "abort-memory",
        FailureKind.RESOURCE,
        "Run fewer workers on this host, or image fewer pixels.",
        _CASA,
        signals=frozenset({signal.SIGABRT}),
        casa=re.compile(r"std::bad_alloc"),
    ),
    FailureRule("casa-disk-full", FailureKind.RESOURCE, _FREE_SPACE, _CASA, casa=_DISK_FULL),
    FailureRule(
        "casa-descriptors",
        FailureKind.RESOURCE,
        "Raise the limit of open files (LimitNOFILE, at least 65536).",
        _CASA,
        casa=re.compile(r"Too many open files"),
    ),
    FailureRule(
        "killed",
        FailureKind.TRANSIENT,
        "Look into the kernel's log: the out-of-memory killer ends processes so.",
        "observed: the kernel, or an operator",
        signals=frozenset({signal.SIGKILL, signal.SIGTERM}),
    ),
    FailureRule(
        "crashed",
        FailureKind.TRANSIENT,
        "If it comes again with the same data, quarantine them; keep the stage's output log.",
        "observed: CASA and shared libraries",
        signals=frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE}),
    ),
    FailureRule(
        "casa-table-lock",
        FailureKind.TRANSIENT,
        "Nothing: another process holds the table; it is tried again.",
        _CASA,
        casa=re.compile(r"acquiring lock on|Resource deadlock avoided"),
    ),
    FailureRule(
        "casa-bad-table",
        FailureKind.PERMANENT,
        "Convert the group anew: its Measurement Set is damaged.",
        _CASA,
        casa=re.compile(r"no magic value found|incorrect number of bytes read"),
    ),
    FailureRule(
        "casa-selection",
        FailureKind.PERMANENT,
        "Correct the selection (field, spectral window, antenna) in the settings.",
        _CASA,
        text=re.compile(r"No match found for|MSSelectionNullSelection"),
    ),
)
