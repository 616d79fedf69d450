"""Groups, Measurement Sets, calibration tables, images, validations: what exists."""

from absurd_contimg.registry.calibrations import CaltableSet
from absurd_contimg.registry.groups import Group
from absurd_contimg.registry.models import GroupStatus
from absurd_contimg.registry.registry import ABSENT, CheckReport, RebuildReport, Registry

__all__ = [
    "ABSENT",
    "CaltableSet",
    "CheckReport",
    "Group",
    "GroupStatus",
    "RebuildReport",
    "Registry",
]
