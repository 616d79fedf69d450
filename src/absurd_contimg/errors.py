"""What a stage raises. Each error names the thing, what is wrong with it, and what to do.

The class tells the kind of the failure (see ``core/failures.py``): retrying can never help with
an `InputError`, a `SettingError` or a `DataQualityError`; it may help with an `OutputError`,
because CASA fails in silence for passing reasons too (memory, a lock, a killed child).
"""

from __future__ import annotations


class UserError(Exception):
    """A stage could not do its work.

    `remedy` says what an operator should do; it is part of the text.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem} {remedy}".strip())
        self.problem = problem
        self.remedy = remedy


class InputError(UserError):
    """An input is missing, unreadable, corrupt or not what it should be."""


class MissingInputError(InputError):
    """A file or folder that the stage needs is not there."""


class CorruptInputError(InputError):
    """A file is there but its content is damaged or contradicts itself."""


class IncompleteGroupError(InputError):
    """Too few sub-bands of an observation group are present."""


class SettingError(UserError):
    """A setting has a value that the stage cannot work with."""


class DataQualityError(UserError):
    """The data are readable but not good enough: all flagged, too noisy, solutions rejected."""


class SolutionsRefusedError(DataQualityError):
    """The calibrator that transits in this group gave no solutions that are good enough.

    Only where any calibration may serve the group, so that another's can be used instead.
    """


class OverFlaggedError(DataQualityError):
    """Our own search for outliers has flagged more than can be spared, not what came before it."""


class NoCalibratorError(DataQualityError):
    """No calibrator bright enough crosses the field of this group."""


class NoCalibrationError(DataQualityError):
    """No calibration is valid at the time of this group."""


class OutputError(UserError):
    """The stage ended, but what it made fails its post-conditions."""
