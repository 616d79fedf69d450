"""The version that a task of each name is spawned for now."""

from __future__ import annotations

from absurd_contimg.core.records import Json
from absurd_contimg.history.stage_tasks import COORDINATOR
from absurd_contimg.workflows import (
    group,
    hybrid,
    mosaic,
    photometry,
    publication,
    stage_tasks,
    transit_mosaics,
)
from absurd_contimg.workflows.versions import version_headers

_VERSIONS = {
    group.TASK_NAME: group.VERSION,
    COORDINATOR: stage_tasks.VERSION,
    hybrid.TASK_NAME: hybrid.VERSION,
    mosaic.TASK_NAME: mosaic.VERSION,
    photometry.TASK_NAME: photometry.VERSION,
    publication.TASK_NAME: publication.VERSION,
    transit_mosaics.CREATE_TASK: transit_mosaics.VERSION,
    transit_mosaics.BATCH_TASK: transit_mosaics.VERSION,
}


def headers_of(task_name: str) -> dict[str, Json]:
    """The headers of a new task; none for one that is no workflow of ours."""
    version = _VERSIONS.get(task_name)
    return {} if version is None else version_headers(version)
