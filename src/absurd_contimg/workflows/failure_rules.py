"""The failure table of stages: what is recognised, its kind, and what an operator does.

Messages are those observed with the versions named; the first rule that matches counts.
"""

from __future__ import annotations

import errno
import re
import signal

from absurd_contimg import errors
from absurd_contimg.core.failures import (
    LEASE_EXPIRED_RULE,
    POISON_RULE,
    UNRECOGNISED,
    Classifier,
    FailureKind,
    FailureRule,
)
from absurd_contimg.core.generic_rules import (
    GENERIC_RULES,
)
from absurd_contimg.execution.executor import StageTimeout
from absurd_contimg.execution.fallback import GENTLER_FLAGS, ONE_THREAD, OTHER_CALIBRATION
from absurd_contimg.execution.stage_process import EXIT_DISK_FULL
from absurd_contimg.workflows.failure_causes import (
    CASA,
    DESCRIPTORS,
    DISK_FULL,
    LOCKED,
    MEMORY,
    NO_LOCKS,
    OURS,
    PROCESSES,
    READ_ONLY,
    REFUSED,
    in_message,
    names_of,
    own_error,
)

_DATA_QUALITY, _SOLUTIONS_REFUSED = "data-quality", "solutions-refused"
_OVER_FLAGGED = "over-flagged"
QUARANTINE_RULES = frozenset({_DATA_QUALITY, _SOLUTIONS_REFUSED, _OVER_FLAGGED})
"""A task that fails by one of these rules puts its group into quarantine."""

_UVH5 = "observed, pyuvdata 3.2.8 and h5py"

_WORDS_OF_THE_SYSTEM = (
    "A stage meets such a disk at its first write; CASA repeats the words of the system in the end."
)
_RESPAWN = (
    "Move the damaged product's folder away, then: contimg spawn --group GROUP --respawn (it makes "
    "that product again and takes the others as they are; a retry would not, for its stage is "
    "done). Of a group that has completed: contimg reprocess plan, then start."
)
_CORRECT_SETTING = "Correct the named setting, restart the worker, then: contimg retry TASK"
_UNFINISHED_WAITS_MAX = 30
"""Half an hour at a minute each: a copy that takes longer is not made in one piece."""
_DAMAGED_TABLE = f"A Measurement Set or caltable is damaged. {_RESPAWN}"

_VAGUE = names_of(
    *(errors.OutputError, errors.DataQualityError),
    *(errors.SolutionsRefusedError, errors.OverFlaggedError),
    *(ValueError, RuntimeError, AssertionError),
)
"""Errors that may have any cause: those of post-conditions, and those that CASA's tasks raise for
everything. The log may name the cause."""

_OWN_ERRORS: tuple[FailureRule, ...] = (
    own_error(
        "bad-input",
        errors.InputError,
        "Replace the named file, then: contimg retry TASK. A retry takes the same files: to go on "
        "without one, remove it, and where missing ones have come, too: contimg spawn --group "
        "GROUP --respawn --now.",
    ),
    own_error(
        "unfinished-input",
        errors.UnfinishedInputError,
        "Nothing: the named file is still being written or copied; it is looked at again.",
        kind=FailureKind.RESOURCE,
        resource_waits_max=_UNFINISHED_WAITS_MAX,
    ),
    own_error(
        "broken-product",
        errors.BrokenProductError,
        "Restore owner, mode and content of the named file, then: contimg retry TASK. Or: "
        f"{_RESPAWN}",
    ),
    own_error(
        "storage-away",
        errors.StorageAwayError,
        "Mount the disk of the named folder; waiting work then goes on. If products have moved: "
        "contimg registry rebuild.",
        kind=FailureKind.RESOURCE,
    ),
    own_error(
        "scratch-replaced",
        errors.ScratchReplacedError,
        "Leave scratch alone while workers run. Put the named folder back, or remove it and "
        "restart the worker; the stage is tried again.",
        "found by the worker when a stage fails",
        kind=FailureKind.TRANSIENT,
    ),
    own_error(
        "destination-away",
        errors.DestinationAwayError,
        "Mount or make the named folder, free its disk, or make it writable for this user; waiting "
        "work then goes on. A folder that is new in the place of one that is lost: contimg publish "
        "accept-folder",
        "the folder of publications: full, read-only or away",
        kind=FailureKind.RESOURCE,
    ),
    own_error(
        "too-few-tiles",
        errors.TooFewTilesError,
        "Process the named groups again. contimg mosaic make WINDOW --again then makes it.",
    ),
    own_error(
        "mosaic-not-made",
        errors.MosaicNotMadeError,
        "Remove the cause that the message names; then spawn the task again, or: contimg retry "
        "TASK, which goes on where it stopped.",
    ),
    own_error(
        "publication-failed",
        errors.PublicationFailedError,
        "Remove the cause that contimg publish list shows, then: contimg publish retry KEY",
    ),
    own_error(
        "publication-busy",
        errors.PublicationBusyError,
        "Nothing: another process publishes the same product; it is looked at again.",
        kind=FailureKind.RESOURCE,
    ),
    own_error(
        "registry-away",
        errors.RegistryAwayError,
        "Free the disk of the named registry, end what locks it, start its server, or give its "
        "files back to the user of the services; waiting work then goes on.",
        kind=FailureKind.RESOURCE,
    ),
    own_error(
        "registry-damaged",
        errors.RegistryDamagedError,
        "Move away what is left of the named registry, restart the workers, then: contimg registry "
        "rebuild. Waiting work then goes on.",
        kind=FailureKind.RESOURCE,
    ),
    own_error("bad-setting", errors.SettingError, _CORRECT_SETTING),
    own_error(
        "input-elsewhere",
        errors.InputElsewhereError,
        "Correct PIPELINE_INPUT_DIR or PIPELINE_CATALOG of the worker that says so; another worker "
        "takes the task. If the named file was moved: contimg spawn --group GROUP --respawn --now.",
        kind=FailureKind.RESOURCE,
        resource_waits_max=_UNFINISHED_WAITS_MAX,
    ),
    DISK_FULL.in_log(
        "silent-disk-full",
        f"{CASA}: exportfits ends without an error; only its log says it",
        exceptions=_VAGUE,
    ),
    DESCRIPTORS.in_log(
        "silent-descriptors",
        f"{CASA}: flagdata raises a ValueError; the error is only in the log",
        exceptions=_VAGUE,
    ),
    MEMORY.in_log(
        "silent-memory",
        f"{CASA}: the error is only in the log",
        exceptions=_VAGUE,
        not_produced="CASA's tasks abort where memory is short; for those that catch it.",
    ),
    own_error(
        _SOLUTIONS_REFUSED,
        errors.SolutionsRefusedError,
        "Nothing: the nearest calibration of another group is used. Look at this calibrator.",
        f"{OURS}; docs/telescope.md, rows 19 and 20",
        fallback=OTHER_CALIBRATION,
    ),
    own_error(
        _OVER_FLAGGED,
        errors.OverFlaggedError,
        "Nothing: it is flagged again with twice the cut-off. If that fails, it is quarantined.",
        f"{OURS}; docs/telescope.md, row 17",
        fallback=GENTLER_FLAGS,
    ),
    own_error(
        _DATA_QUALITY,
        errors.DataQualityError,
        "The same data fail again. After another setting: contimg quarantine release GROUP. With "
        "other files: contimg spawn --group GROUP --respawn.",
    ),
    own_error(
        "no-calibration",
        errors.NoCalibrationError,
        "Process a group of its strip in which a calibrator transits, then: contimg retry GROUP. "
        "To go on with an older one: --set execution.calibration_wait_policy=degraded.",
    ),
    own_error(
        "stage-cancelled",
        errors.StageTaskCancelledError,
        "Nothing, if it was meant. To go on with the group: contimg retry GROUP",
    ),
    own_error(
        "stage-lost",
        errors.StageTaskLostError,
        "Find what removes tasks from the named queue, then: contimg retry GROUP",
    ),
    own_error(
        "workflow-version",
        errors.WorkflowVersionError,
        "Retry it with a worker of the release that spawned it, or: contimg spawn --group GROUP "
        "--respawn, which takes the finished products as they are.",
    ),
    own_error(
        "workflow-newer",
        errors.NewerWorkflowError,
        "Update this worker, or start one of the newer release; the task then goes on.",
        kind=FailureKind.RESOURCE,
    ),
    own_error(
        "bad-output",
        errors.OutputError,
        "contimg logs GROUP: CASA ended without an error, but without a good product.",
        kind=FailureKind.TRANSIENT,
    ),
    own_error(
        "stage-deadline",
        StageTimeout,
        "Look for a hung file system or a lock; raise ABSURD_TASK_TIMEOUT if it was only slow.",
        "the stage's deadline",
        FailureKind.TRANSIENT,
    ),
)

_ABORTS = frozenset({signal.SIGABRT, signal.SIGBUS, signal.SIGSEGV})

_ENDS_OF_PROCESSES: tuple[FailureRule, ...] = (
    FailureRule(
        "file-too-large",
        FailureKind.PERMANENT,
        "Raise the limit on file sizes (LimitFSIZE, ulimit -f) of the worker.",
        "observed, Python 3.11: it ignores SIGXFSZ, so that RLIMIT_FSIZE is an errno; casacore "
        "aborts with a write error that names another cause",
        errnos=frozenset({errno.EFBIG}),
        signals=frozenset({*_ABORTS, signal.SIGXFSZ}),
        log=re.compile("RLIMIT_FSIZE is reached|File too large"),
        text=re.compile("File too large"),
    ),
    DISK_FULL.in_log(
        "abort-disk-full",
        f"{CASA}: tclean and applycal abort, gaincal without a message",
        signals=_ABORTS,
    ),
    READ_ONLY.in_log(
        "abort-read-only-disk",
        "observed: a kernel that meets errors on a disk makes it read-only, and CASA aborts",
        signals=_ABORTS,
    ),
    NO_LOCKS.in_log(
        "abort-no-locks",
        "observed, python-casacore 3.8.1: of ENOLCK it takes no notice, and the others abort",
        signals=_ABORTS,
    ),
    DESCRIPTORS.in_log(
        "abort-descriptors", "observed, python-casacore 3.8.1: new tables abort", signals=_ABORTS
    ),
    PROCESSES.in_log(
        "abort-processes",
        "the sources of libstdc++ and OpenBLAS, which raises SIGINT",
        signals=_ABORTS | {signal.SIGINT},
        not_produced="CASA starts its threads by libgomp, which exits with a code.",
    ),
    MEMORY.in_log("abort-memory", f"{CASA}: tclean aborts", signals=frozenset({signal.SIGABRT})),
    FailureRule(
        "result-disk-full",
        FailureKind.RESOURCE,
        DISK_FULL.advice,
        "observed: the disk was too full even for the stage's report",
        exit_codes=frozenset({EXIT_DISK_FULL}),
    ),
    FailureRule(
        "killed",
        FailureKind.TRANSIENT,
        "Read the kernel's log: the out-of-memory killer ends processes in this way.",
        "observed: the kernel, or an operator",
        signals=frozenset({signal.SIGKILL, signal.SIGTERM}),
        exit_codes=frozenset({137, 143}),
        fallback=ONE_THREAD,
    ),
    FailureRule(
        "crashed",
        FailureKind.TRANSIENT,
        "If it comes again: contimg logs GROUP shows what it printed last; keep that.",
        "observed: CASA and shared libraries; docs/telescope.md, rows 10 and 11",
        signals=frozenset(
            {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
        ),
        exit_codes=frozenset({134, 135, 136, 139}),
    ),
)

_CASA_RULES: tuple[FailureRule, ...] = (
    DISK_FULL.in_log("casa-disk-full"),
    READ_ONLY.in_log("casa-read-only-disk", not_produced=_WORDS_OF_THE_SYSTEM),
    DESCRIPTORS.in_log("casa-descriptors"),
    PROCESSES.in_log("casa-processes", "observed, libgomp of GCC 12: it ends the process"),
    MEMORY.in_log("casa-memory"),
    LOCKED.in_log("casa-table-lock", f"{CASA}: two tcleans on one image"),
    REFUSED.in_log("casa-permission", f"{CASA}: gaincal reports it in its log only"),
    FailureRule(
        "casa-bad-table",
        FailureKind.PERMANENT,
        _DAMAGED_TABLE,
        CASA,
        log=re.compile(
            r"no magic value found|incorrect number of bytes read|TSM: no array in row|"
            r"FiledesIO::write - .* is not writable|could not be opened: No such file"
        ),
    ),
    in_message(
        "casa-missing-path",
        r"must be a path that exists",
        f"Restore the named path, then: contimg retry TASK. {_RESPAWN}",
        f"{CASA}: an AssertionError",
        AssertionError,
    ),
    in_message(
        "casa-bad-parameter",
        r"unallowed value|must be of \w+ type",
        _CORRECT_SETTING,
        f"{CASA}: an AssertionError",
        AssertionError,
    ),
    in_message(
        "casa-selection",
        r"No match found for|MSSelectionNullSelection",
        "Correct the selection (field, spectral window, antenna) in the settings.",
    ),
    in_message(
        "casa-image-parameters",
        r"Invalid Image Parameter set",
        "Correct imaging.size_px or imaging.cell_arcsec, restart the worker, then retry.",
    ),
    in_message(
        "casa-leftover",
        r"Cannot open existing image|user does not want to remove it|File exists; skipping",
        "Nothing: a new attempt has an empty scratch folder. If it comes again, report it.",
        kind=FailureKind.TRANSIENT,
    ),
    REFUSED.in_message("casa-text-permission", f"{CASA}: in the message alone, without an errno"),
    READ_ONLY.in_message("casa-text-read-only-disk", CASA, not_produced=_WORDS_OF_THE_SYSTEM),
    LOCKED.in_message("casa-text-lock", f"{CASA}: in the message alone"),
    DISK_FULL.in_message(
        "casa-text-disk-full",
        f"{CASA}, pyuvdata 3.2.8: write_ms names another error, write_uvh5 errno = 28",
    ),
    DESCRIPTORS.in_message("casa-text-descriptors", f"{CASA}: in the message alone"),
    in_message(
        "casa-text-bad-table",
        r"no magic value found|incorrect number of bytes read|[Tt]able .* does not exist",
        _DAMAGED_TABLE,
        f"{CASA}: in the message alone",
    ),
    in_message(
        "casa-data",
        r"(?i)measurespath|data_update: path|leap second|IERS|Observatories",
        "Install or update the package casadata; then: contimg doctor",
        "observed, casatasks 6.7.0.31 without its data; docs/telescope.md, row 36",
    ),
)

_UVH5_RULES: tuple[FailureRule, ...] = (
    in_message(
        "hdf5-damaged",
        r"file signature not found|truncated file",
        "Fetch the named sub-band file again (it is damaged or unfinished), then retry.",
        _UVH5,
        OSError,
    ),
    in_message(
        "uvh5-header",
        r"not found in|Unable to synchronously open object",
        "Fetch the sub-band file again: its header is damaged or unfinished.",
        _UVH5,
        *(KeyError, AttributeError),
    ),
)

STAGE_RULES = (*_OWN_ERRORS, *_ENDS_OF_PROCESSES, *_CASA_RULES, *_UVH5_RULES)

NO_SPACE_RULES = frozenset(
    rule.id for rule in (*STAGE_RULES, *GENERIC_RULES) if rule.id.endswith("disk-full")
)
"""Those of a full disk, however it shows."""

CLASSIFIER = Classifier((POISON_RULE, *STAGE_RULES, *GENERIC_RULES))
"""The whole failure table of the pipeline, the first matching rule first."""
RULES_BY_ID = {rule.id: rule for rule in (*CLASSIFIER.rules, UNRECOGNISED, LEASE_EXPIRED_RULE)}
"""Everything by which a failed run may be counted: in the order of the table."""
