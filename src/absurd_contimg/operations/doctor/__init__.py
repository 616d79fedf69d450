"""Checks of this machine for ``contimg doctor``."""

from absurd_contimg.operations.doctor.doctor import diagnose
from absurd_contimg.operations.doctor.software import Finding

__all__ = ["Finding", "diagnose"]
