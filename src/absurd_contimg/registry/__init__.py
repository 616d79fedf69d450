"""Groups, Measurement Sets, calibration tables, images, validations: what exists.

Imported on use, as SQLAlchemy takes most of a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from absurd_contimg.imports_on_use import imports_on_use

if TYPE_CHECKING:
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

__getattr__ = imports_on_use(__name__)
