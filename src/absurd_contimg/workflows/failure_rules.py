"""The failures of stages: our own errors, CASA, pyuvdata, and how a stage's process ends.

Part of the failure table that operators read; messages are those observed with the versions
named. Order matters only between rules that match the same evidence: the first one wins.
"""

from __future__ import annotations

import errno
import re
import signal

from absurd_contimg import errors
from absurd_contimg.core.failures import POISON_RULE, Classifier, FailureKind, FailureRule
from absurd_contimg.core.generic_rules import GENERIC_RULES
from absurd_contimg.errors import BrokenProductError
from absurd_contimg.execution.executor import StageTimeout
from absurd_contimg.execution.fallback import GENTLER_FLAGS, ONE_THREAD, OTHER_CALIBRATION
from absurd_contimg.execution.stage_process import EXIT_DISK_FULL

_DATA_QUALITY, _SOLUTIONS_REFUSED = "data-quality", "solutions-refused"
_OVER_FLAGGED = "over-flagged"
QUARANTINE_RULES = frozenset({_DATA_QUALITY, _SOLUTIONS_REFUSED, _OVER_FLAGGED})
"""The rules whose failures end in quarantine, if they end the task."""

_CASA = "observed, casatasks 6.7.0.31"
_UVH5 = "observed, pyuvdata 3.2.8 and h5py"
_OURS = "raised by a stage's own checks"


def _names(*classes: type[BaseException]) -> frozenset[str]:
    return frozenset(f"{one.__module__}.{one.__qualname__}" for one in classes)


_ANEW = (
    "Move the damaged product's folder away, then: contimg spawn --respawn (it makes that product "
    "again and takes the others as they are; a retry would not, for its stage is done)."
)
_FREE_SPACE = "Free space on the scratch file system; waiting work then goes on."
_DESCRIPTORS = "Raise the limit of open files (LimitNOFILE, at least 65536)."
_MEMORY = "Run fewer workers on this host, or image fewer pixels."
_MEMORY_WAITS_MAX = 3
"""As for errno ENOMEM: what still does not fit then never will."""
_DISK_FULL = re.compile(
    r"No space left on device|Failed AlwaysAssert tracePWRITE|write error (for|in) .*file|"
    r"Error writing record|Disk quota exceeded"
)
_TOO_MANY_FILES = re.compile(r"Too many open files")
_NO_MEMORY = re.compile(
    r"std::bad_alloc|MemoryError|[Cc]annot allocate memory|failed to map segment|"
    r"out of memory|[Mm]emory allocation"
)
_LOCKED = re.compile(
    r"acquiring lock on|Resource deadlock avoided|lock on .* could not be acquired"
)
_REFUSED = re.compile(
    r"Permission denied|Operation not permitted|Read-only file system|"
    r"does not exist and cannot be created"
)

_VAGUE = _names(
    *(errors.OutputError, errors.DataQualityError),
    *(errors.SolutionsRefusedError, errors.OverFlaggedError),
    *(ValueError, RuntimeError, AssertionError),
)
"""A check that found a product wanting, or an error of CASA's tasks, which raise the same one
for everything: what CASA logged may say why."""

_OWN_ERRORS: tuple[FailureRule, ...] = (
    FailureRule(
        "bad-input",
        FailureKind.PERMANENT,
        "Replace the named file, then: contimg retry TASK. To go on without it, remove it, then: "
        "contimg spawn --respawn --now.",
        _OURS,
        exceptions=_names(errors.InputError),
        decisive=True,
    ),
    FailureRule(
        "broken-product",
        FailureKind.PERMANENT,
        f"Restore owner, mode and content of the named file, then: contimg retry TASK. Or: {_ANEW}",
        _OURS,
        exceptions=_names(BrokenProductError),
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
        "silent-disk-full",
        FailureKind.RESOURCE,
        _FREE_SPACE,
        f"{_CASA}: exportfits ends without an error; only its log says it",
        exceptions=_VAGUE,
        log=_DISK_FULL,
        decisive=True,
    ),
    FailureRule(
        "silent-descriptors",
        FailureKind.RESOURCE,
        _DESCRIPTORS,
        f"{_CASA}: flagdata raises a ValueError; the error is only in the log",
        exceptions=_VAGUE,
        log=_TOO_MANY_FILES,
        decisive=True,
    ),
    FailureRule(
        "silent-memory",
        FailureKind.RESOURCE,
        _MEMORY,
        f"{_CASA}: the error is only in the log",
        exceptions=_VAGUE,
        log=_NO_MEMORY,
        decisive=True,
        not_produced="CASA's tasks abort where memory is short; for those that catch it.",
        resource_waits_max=_MEMORY_WAITS_MAX,
        fallback=ONE_THREAD,
    ),
    FailureRule(
        _SOLUTIONS_REFUSED,
        FailureKind.PERMANENT,
        "Nothing: the nearest calibration of another group is used. Look at this calibrator.",
        f"{_OURS}; domain notes, rows 19 and 20",
        exceptions=_names(errors.SolutionsRefusedError),
        decisive=True,
        fallback=OTHER_CALIBRATION,
    ),
    FailureRule(
        _OVER_FLAGGED,
        FailureKind.PERMANENT,
        "Nothing: it is flagged again with twice the cut-off. If that fails, it is quarantined.",
        f"{_OURS}; domain notes, row 17",
        exceptions=_names(errors.OverFlaggedError),
        decisive=True,
        fallback=GENTLER_FLAGS,
    ),
    FailureRule(
        _DATA_QUALITY,
        FailureKind.PERMANENT,
        "The same data fail again. After another setting: contimg quarantine release GROUP. With "
        "other files: contimg spawn --respawn.",
        _OURS,
        exceptions=_names(errors.DataQualityError),
        decisive=True,
    ),
    FailureRule(
        "bad-output",
        FailureKind.TRANSIENT,
        "contimg logs GROUP: CASA ended without an error, but without a good product.",
        _OURS,
        exceptions=_names(errors.OutputError),
        decisive=True,
    ),
    FailureRule(
        "stage-deadline",
        FailureKind.TRANSIENT,
        "Look for a hung file system or a lock; raise ABSURD_TASK_TIMEOUT if it was only slow.",
        "the stage's deadline",
        exceptions=_names(StageTimeout),
        decisive=True,
    ),
)

_ENDS_OF_PROCESSES: tuple[FailureRule, ...] = (
    FailureRule(
        "abort-disk-full",
        FailureKind.RESOURCE,
        _FREE_SPACE,
        f"{_CASA}: tclean and applycal abort, gaincal without a word",
        signals=frozenset({signal.SIGABRT, signal.SIGBUS, signal.SIGSEGV}),
        log=_DISK_FULL,
    ),
    FailureRule(
        "abort-memory",
        FailureKind.RESOURCE,
        _MEMORY,
        f"{_CASA}: tclean aborts",
        signals=frozenset({signal.SIGABRT}),
        log=_NO_MEMORY,
        resource_waits_max=_MEMORY_WAITS_MAX,
        fallback=ONE_THREAD,
    ),
    FailureRule(
        "result-disk-full",
        FailureKind.RESOURCE,
        _FREE_SPACE,
        "observed: the disk was too full even for the stage's report",
        exit_codes=frozenset({EXIT_DISK_FULL}),
    ),
    FailureRule(
        "killed",
        FailureKind.TRANSIENT,
        "Look into the kernel's log: the out-of-memory killer ends processes so.",
        "observed: the kernel, or an operator",
        signals=frozenset({signal.SIGKILL, signal.SIGTERM}),
        exit_codes=frozenset({137, 143}),
        fallback=ONE_THREAD,
    ),
    FailureRule(
        "crashed",
        FailureKind.TRANSIENT,
        "If it comes again: contimg logs GROUP shows what it printed last; keep that.",
        "observed: CASA and shared libraries; domain notes, rows 10 and 11",
        signals=frozenset(
            {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
        ),
        exit_codes=frozenset({134, 135, 136, 139}),
    ),
    FailureRule(
        "file-too-large",
        FailureKind.PERMANENT,
        "Raise the limit on file sizes (LimitFSIZE, ulimit -f) of the worker.",
        "observed, Python 3.11: it ignores SIGXFSZ, so that RLIMIT_FSIZE is an errno",
        errnos=frozenset({errno.EFBIG}),
    ),
)

_CASA_RULES: tuple[FailureRule, ...] = (
    FailureRule("casa-disk-full", FailureKind.RESOURCE, _FREE_SPACE, _CASA, log=_DISK_FULL),
    FailureRule("casa-descriptors", FailureKind.RESOURCE, _DESCRIPTORS, _CASA, log=_TOO_MANY_FILES),
    FailureRule(
        "casa-memory",
        FailureKind.RESOURCE,
        _MEMORY,
        _CASA,
        log=_NO_MEMORY,
        resource_waits_max=_MEMORY_WAITS_MAX,
        fallback=ONE_THREAD,
    ),
    FailureRule(
        "casa-table-lock",
        FailureKind.TRANSIENT,
        "Nothing: another process holds the table; it is tried again.",
        f"{_CASA}: two tcleans on one image",
        log=_LOCKED,
    ),
    FailureRule(
        "casa-permission",
        FailureKind.PERMANENT,
        "Correct owner or mode of the named path, then: contimg retry TASK",
        f"{_CASA}: gaincal tells only its log",
        log=_REFUSED,
    ),
    FailureRule(
        "casa-bad-table",
        FailureKind.PERMANENT,
        f"A Measurement Set or caltable is damaged. {_ANEW}",
        _CASA,
        log=re.compile(
            r"no magic value found|incorrect number of bytes read|TSM: no array in row|"
            r"FiledesIO::write - .* is not writable|could not be opened: No such file"
        ),
    ),
    FailureRule(
        "casa-missing-path",
        FailureKind.PERMANENT,
        f"Restore the named path, then: contimg retry TASK. {_ANEW}",
        f"{_CASA}: an AssertionError",
        exceptions=frozenset({"builtins.AssertionError"}),
        text=re.compile(r"must be a path that exists"),
    ),
    FailureRule(
        "casa-bad-parameter",
        FailureKind.PERMANENT,
        "Correct the named setting, restart the worker, then: contimg retry TASK",
        f"{_CASA}: an AssertionError",
        exceptions=frozenset({"builtins.AssertionError"}),
        text=re.compile(r"unallowed value|must be of \w+ type"),
    ),
    FailureRule(
        "casa-selection",
        FailureKind.PERMANENT,
        "Correct the selection (field, spectral window, antenna) in the settings.",
        _CASA,
        text=re.compile(r"No match found for|MSSelectionNullSelection"),
    ),
    FailureRule(
        "casa-image-parameters",
        FailureKind.PERMANENT,
        "Correct imaging.size_px or imaging.cell_arcsec, restart the worker, then retry.",
        _CASA,
        text=re.compile(r"Invalid Image Parameter set"),
    ),
    FailureRule(
        "casa-leftover",
        FailureKind.TRANSIENT,
        "Nothing: a new attempt has an empty scratch folder. If it comes again, report it.",
        _CASA,
        text=re.compile(
            r"Cannot open existing image|user does not want to remove it|File exists; skipping"
        ),
    ),
    FailureRule(
        "casa-text-permission",
        FailureKind.PERMANENT,
        "Correct owner or mode of the named path, then: contimg retry TASK",
        f"{_CASA}: in the text alone, without an errno",
        text=_REFUSED,
    ),
    FailureRule(
        "casa-text-lock",
        FailureKind.TRANSIENT,
        "Nothing: another process holds the table; it is tried again.",
        f"{_CASA}: in the text alone",
        text=_LOCKED,
    ),
    FailureRule(
        "casa-text-disk-full",
        FailureKind.RESOURCE,
        _FREE_SPACE,
        f"{_CASA}, pyuvdata 3.2.8: write_ms names another error, write_uvh5 errno = 28",
        text=re.compile(_DISK_FULL.pattern + r"|errno = 28\b"),
    ),
    FailureRule(
        "casa-text-descriptors",
        FailureKind.RESOURCE,
        _DESCRIPTORS,
        f"{_CASA}: in the text alone",
        text=_TOO_MANY_FILES,
    ),
    FailureRule(
        "casa-text-bad-table",
        FailureKind.PERMANENT,
        f"A Measurement Set or caltable is damaged. {_ANEW}",
        f"{_CASA}: in the text alone",
        text=re.compile(
            r"no magic value found|incorrect number of bytes read|[Tt]able .* does not exist"
        ),
    ),
    FailureRule(
        "casa-data",
        FailureKind.PERMANENT,
        "Install or update the package casadata; then: contimg doctor",
        "observed, casatasks 6.7.0.31 without its data; domain notes, row 36",
        text=re.compile(
            r"measurespath|data_update: path|leap second|IERS|Observatories", re.IGNORECASE
        ),
    ),
)

_UVH5_RULES: tuple[FailureRule, ...] = (
    FailureRule(
        "hdf5-damaged",
        FailureKind.PERMANENT,
        "Fetch the named sub-band file again (it is damaged or unfinished), then retry.",
        _UVH5,
        exceptions=frozenset({"builtins.OSError"}),
        text=re.compile(r"file signature not found|truncated file"),
    ),
    FailureRule(
        "uvh5-header",
        FailureKind.PERMANENT,
        "Fetch the sub-band file again: its header is damaged or unfinished.",
        _UVH5,
        exceptions=frozenset({"builtins.KeyError", "builtins.AttributeError"}),
        text=re.compile(r"not found in|Unable to synchronously open object"),
    ),
    FailureRule(
        "uvh5-mismatch",
        FailureKind.PERMANENT,
        "The sub-bands are not of one observation: look at their times and antennas.",
        _UVH5,
        exceptions=frozenset({"builtins.ValueError"}),
        text=re.compile(r"Cannot combine objects|overlapping data|UVParameter .* does not match"),
    ),
)

STAGE_RULES: tuple[FailureRule, ...] = (
    *_OWN_ERRORS,
    *_ENDS_OF_PROCESSES,
    *_CASA_RULES,
    *_UVH5_RULES,
)

CLASSIFIER = Classifier((POISON_RULE, *STAGE_RULES, *GENERIC_RULES))
"""The whole failure table of the pipeline, the first matching rule first."""
