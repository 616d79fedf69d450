"""Limits by resource, for all workers of one registry together."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from absurd_contimg.config.section import Section


class LimitsConfig(Section):
    """How many stages of a resource run at once, on all hosts together; None: no limit.

    All workers need the same limits. They are off by default: a host's own limit is the
    concurrency of its workers.
    """

    calibration: int | None = Field(None, ge=1)
    """Flagging, solving, applying: passes over a Measurement Set."""
    imaging: int | None = Field(None, ge=1)
    """Imaging: cores and memory."""
    io: int | None = Field(None, ge=1)
    """Conversion, mosaics, checks: disks."""

    @property
    def by_resource(self) -> Mapping[str, int]:
        """The limits that are set."""
        return {name: limit for name, limit in self.model_dump().items() if limit is not None}
