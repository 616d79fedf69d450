"""All tables of the registry, which are defined in one module for each subject."""

from __future__ import annotations

from sqlalchemy import MetaData

from absurd_contimg.registry.alerts import AlertRow
from absurd_contimg.registry.batches import BatchItemRow, BatchRow
from absurd_contimg.registry.derived import DERIVED_TABLES
from absurd_contimg.registry.disk_samples import DiskSampleRow
from absurd_contimg.registry.models import Base, ObservationGroup, SchemaVersion, SubbandFile
from absurd_contimg.registry.operator_actions import OperatorActionRow
from absurd_contimg.registry.publications import PublicationRow
from absurd_contimg.registry.queue_pauses import QueuePauseRow
from absurd_contimg.registry.queue_sites import QueueSiteRow
from absurd_contimg.registry.removed_products import RemovedProductRow
from absurd_contimg.registry.resource_slots import ResourceSlotRow
from absurd_contimg.registry.schedules import ScheduleRow
from absurd_contimg.registry.service_records import ServiceRow
from absurd_contimg.registry.windows import WindowRow

METADATA: MetaData = Base.metadata

KEPT_TABLES: tuple[type[Base], ...] = (
    SchemaVersion, ObservationGroup, SubbandFile, WindowRow, PublicationRow, BatchRow,
    BatchItemRow, ResourceSlotRow, QueuePauseRow, ScheduleRow, ServiceRow,
    DiskSampleRow, AlertRow, OperatorActionRow, RemovedProductRow, QueueSiteRow,
)  # fmt: skip
"""The tables that a rebuild leaves as they are."""

ALL_TABLES = (*KEPT_TABLES, *DERIVED_TABLES)
