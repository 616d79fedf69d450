"""Which files belong to one observation: named within a minute, one observation each 309 s."""

from __future__ import annotations

from datetime import UTC, datetime

from absurd_contimg.products.subband_files import format_group_id

TOLERANCE_SECONDS = 60
"""The telescope's cluster tolerance (CONTIMG_CLUSTER_TOLERANCE_S); well below 309 s."""

GROUP_WAIT_SECONDS = 300.0
"""An incomplete group waits this long after its first file arrived."""


def group_name(timestamp_seconds: int) -> str:
    """The id of a group with this earliest timestamp (Unix time)."""
    return format_group_id(datetime.fromtimestamp(timestamp_seconds, UTC))
