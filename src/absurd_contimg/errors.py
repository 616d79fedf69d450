"""User errors. Each names the thing, what is wrong with it, and what to do.

The failure table (`workflows.failure_rules`) goes by these classes: a retry never helps with an
`InputError`, a `SettingError` or a `DataQualityError`; it may help with an `OutputError`, because
CASA also fails in silence for reasons that pass (memory, a lock, a killed process).
"""

from __future__ import annotations

from pathlib import Path


class UserError(Exception):
    """An operator or user has to know: `problem` says what is wrong, `remedy` what to do."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem} {remedy}".strip())
        self.problem = problem
        self.remedy = remedy


class InputError(UserError):
    """An input is missing, unreadable, corrupt or not what it should be."""


class MissingInputError(InputError):
    """A necessary file, folder or record is not there."""


class CorruptInputError(InputError):
    """A file is there but its content is damaged or contradicts itself."""


class UnfinishedInputError(InputError):
    """A file is still being written or copied, or was replaced while it was read."""


class BrokenProductError(CorruptInputError):
    """The folder of a product holds something else, or only a part of the product."""


class IncompleteGroupError(InputError):
    """Too few sub-bands of an observation group are present."""


class SettingError(UserError):
    """A setting, parameter or argument has a value that cannot be used."""


class InputElsewhereError(SettingError):
    """A task names a file that is no input of this worker, though it may be of others."""


class DataQualityError(UserError):
    """The data are readable but not good enough: all flagged, too noisy, solutions rejected."""


class SolutionsRefusedError(DataQualityError):
    """The calibrator that transits in this group gave no solutions that are good enough.

    Raised only where the calibration of another group may serve this one instead.
    """


class OverFlaggedError(DataQualityError):
    """The pipeline's own search for outliers has flagged too much; earlier flags do not count."""


class NoCalibratorError(DataQualityError):
    """No calibrator bright enough crosses the field of this group."""


class NoCalibrationError(DataQualityError):
    """No calibration is valid at the time of this group."""


class StageTaskCancelledError(UserError):
    """The task of one stage of a group was cancelled, so the group cannot go on."""


class StageTaskLostError(UserError):
    """The tasks of one stage of a group vanished from their queue."""


class WorkflowVersionError(UserError):
    """A task belongs to a version of its workflow that this release does not have any more."""


class NewerWorkflowError(WorkflowVersionError):
    """A task belongs to a version of its workflow that a later release has."""


class AwayError(UserError):
    """Something that all work needs cannot be used now; `failed_path` says which file or folder."""

    def __init__(self, failed_path: str, problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy)
        self.failed_path = failed_path


class StorageAwayError(AwayError):
    """The folder that holds products is not there: a disk is not mounted, or it was moved.

    Nothing that should be in it counts as absent.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), f"The folder {folder} is not there.", "Mount its disk.")


class ScratchReplacedError(AwayError):
    """The folder of a stage was moved, removed or replaced while the stage ran."""

    def __init__(self, folder: Path, now: str) -> None:
        super().__init__(
            str(folder),
            f"The folder {folder} was moved, removed or replaced while a stage worked in it: "
            f"{now}.",
            "Put it back, or remove it and restart the worker.",
        )


class DestinationAwayError(AwayError):
    """The folder for publications is not there, full, read-only or does not answer."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(
            str(folder),
            f"Nothing can be published to {folder}: {reason}.",
            "Mount or make it, free its disk, or make it writable for this user.",
        )


class TooFewTilesError(UserError):
    """Too few members of a mosaic have an image that is good enough."""


class MosaicNotMadeError(UserError):
    """There is no mosaic of a transit: no transit, too few groups, or its own task failed."""


class PublicationFailedError(UserError):
    """A product is not published: its quality does not allow it, or all attempts failed."""


class PublicationBusyError(AwayError):
    """Another process publishes the same product now."""

    def __init__(self, lock_file: Path) -> None:
        super().__init__(
            str(lock_file),
            f"Another process holds {lock_file}: it publishes the same product.",
            "Wait for it. If the file has content, it is no lock of ours: move it away.",
        )


class RegistryAwayError(AwayError):
    """The registry does not answer: locked, read-only, its disk full, its server away."""


class RegistryUnconfirmedError(RegistryAwayError):
    """The registry has not confirmed a change, which may be made all the same."""


class RegistryDamagedError(AwayError):
    """The registry's file or tables are gone or damaged."""


class OutputError(UserError):
    """The stage ended, but its products fail the post-conditions."""
