"""Settings of publication."""

from __future__ import annotations

from pydantic import Field

from absurd_contimg.config.section import Section

PUBLISHED = "published"
"""The default folder for publications, directly in the output folder: it holds copies."""


class PublicationConfig(Section):
    """Copies of products in the folder that others read."""

    degraded: bool = False
    """Publish also what failed a quality gate. What was not checked is never published."""
    attempts_max: int = Field(3, ge=1)
    """Failed copies after which an operator must look (guide: publish_attempts 3). The death of a
    worker and a destination that is full or away are no failed copies."""
