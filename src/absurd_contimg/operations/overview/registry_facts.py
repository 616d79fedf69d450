"""What the registry knows of a site, read at once, and what follows of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

from absurd_contimg.config import CalibrationConfig
from absurd_contimg.errors import UserError
from absurd_contimg.ingest.closing import ClosingRules
from absurd_contimg.ingest.group_notes import group_note, present_subbands, window_note
from absurd_contimg.ingest.windows import used_members
from absurd_contimg.operations.overview.disks import TREND_SECONDS
from absurd_contimg.operations.overview.records import DataOverview, GroupOverview, ImageQuality
from absurd_contimg.operations.overview.site import Site
from absurd_contimg.operations.services import closing_rules
from absurd_contimg.registry.calibration_sources import CalibrationSource, calibration_sources
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.disk_samples import DiskSample, thinned_samples
from absurd_contimg.registry.ingestion_records import IngestGroup
from absurd_contimg.registry.models import GroupStatus, IngestState
from absurd_contimg.registry.operator_actions import maintenance_problem
from absurd_contimg.registry.queue_pauses import QueuePause, QueuePauses
from absurd_contimg.registry.resource_slots import ResourceSlot, ResourceSlots
from absurd_contimg.registry.service_records import ServiceRecord, list_services
from absurd_contimg.registry.site_summary import SiteSummary, read_summary
from absurd_contimg.registry.windows import Window, WindowState, list_windows

GROUPS_MAX = 100
IMAGES_MAX = 20
_CLOSED_SECONDS = 86_400.0
_MJD_OF_UNIX_EPOCH = 40_587.0


@dataclass(frozen=True, slots=True)
class RegistryFacts:
    """What is read of the registry."""

    services: Sequence[ServiceRecord] = ()
    samples: Sequence[DiskSample] = ()
    pauses: Mapping[str, QueuePause] | None = None
    """By queue; None where the registry cannot be asked."""
    slots: Sequence[ResourceSlot] = ()
    windows: Sequence[Window] = ()
    summary: SiteSummary | None = None
    calibration_sources: Mapping[str, Sequence[CalibrationSource]] = field(default_factory=dict)
    """By group that waits for a calibration, the groups that may bring it or have failed to."""
    maintenance_problem: str = ""
    """See `SiteOverview`."""
    problem: str = ""
    """Why the registry cannot be asked, with what to do."""

    @property
    def slot_waits(self) -> dict[str, str]:
        """Who waits for a slot (``image of GROUP``), and who holds them."""
        waits = {}
        for slot in self.slots:
            if not slot.taken:
                holders = [
                    each.holder
                    for each in self.slots
                    if each.taken and each.resource == slot.resource
                ]
                taken = ", ".join(holders[:3]) or "those who came before"
                waits[slot.holder.partition(" on ")[0]] = (
                    f"waits for a slot of {slot.resource} for {slot.seconds:.0f} s: {taken} "
                    f"{'has' if len(holders) == 1 else 'have'} them"
                )
        return waits


def read_registry(site: Site, now: float) -> RegistryFacts:
    """The facts, or why there are none; nothing where the site has no registry. Blocks."""
    try:
        database = site.registry()
        if database is None:
            return RegistryFacts(pauses={})
        summary = read_summary(database, now - _CLOSED_SECONDS, GROUPS_MAX, IMAGES_MAX)
        return RegistryFacts(
            services=list_services(database),
            samples=thinned_samples(database, now - TREND_SECONDS),
            pauses={pause.queue: pause for pause in QueuePauses(database).pauses()},
            slots=ResourceSlots(database).slots(),
            windows=list_windows(database, WindowState.OPEN),
            summary=summary,
            calibration_sources=_calibration_sources(site, database, summary),
            maintenance_problem=maintenance_problem(database),
        )
    except UserError as error:
        return RegistryFacts(problem=f"{error}")


def _calibration_sources(
    site: Site, database: Database, summary: SiteSummary
) -> Mapping[str, Sequence[CalibrationSource]]:
    waiting = [
        group.group_id
        for group in summary.groups
        if group.status is GroupStatus.WAITING_FOR_CALIBRATION
    ]
    limits = CalibrationConfig() if site.settings is None else site.settings.pipeline.calibration
    return calibration_sources(
        database, waiting, limits.declination_tolerance_deg, limits.reach_hours
    )


def rules_of(site: Site) -> ClosingRules:
    """When the groups of the site are closed."""
    return ClosingRules() if site.settings is None else closing_rules(site.settings)


def group_overviews(
    facts: RegistryFacts, rules: ClosingRules, tasks: Mapping[UUID, str], now: float
) -> list[GroupOverview]:
    """The groups and windows that have not ended, the oldest first.

    `tasks` has a sentence on the tasks that are known.
    """
    if facts.summary is None:
        return []
    summary = facts.summary
    groups = [
        GroupOverview(
            name=group.group_id,
            kind="group",
            state=group.state,
            present=present_subbands(group),
            expected=rules.expected_subbands,
            waits_for=_waits_for(group, summary.next_seen.get(group.group_id), rules, tasks, now),
            task_id=_uuid(group.task_id),
        )
        for group in summary.groups
    ]
    windows = [
        GroupOverview(
            name=window.window_id,
            kind="window",
            state=window.state.value,
            present=len(used_members(window)),
            expected=int(window.settings.get("size", 0)) or len(window.members),
            waits_for=window_note(window),
            task_id=_uuid(window.task_id),
        )
        for window in facts.windows
    ]
    return [*groups, *windows][:GROUPS_MAX]


def _waits_for(
    group: IngestGroup,
    next_seen: float | None,
    rules: ClosingRules,
    tasks: Mapping[UUID, str],
    now: float,
) -> str:
    if group.state == IngestState.COLLECTING:
        return group_note(group, next_seen, rules, now)
    if group.task_id is None:
        return "waits for the daemon to spawn its task"
    task_id = _uuid(group.task_id)
    return "" if task_id is None else tasks.get(task_id, "")


def _uuid(text: str | None) -> UUID | None:
    try:
        return None if text is None else UUID(text)
    except ValueError:
        return None


def data_overview(facts: RegistryFacts, rules: ClosingRules, now: float) -> DataOverview | None:
    """How new the data are; None without a registry."""
    summary = facts.summary
    if summary is None:
        return None

    def age(at: float | None) -> float | None:
        return None if at is None else max(now - at, 0.0)

    return DataOverview(
        newest_file_seconds_ago=age(summary.newest_file_at),
        newest_group=summary.newest_group,
        newest_image_seconds_ago=age(summary.newest_image_at),
        newest_mosaic_seconds_ago=age(summary.newest_mosaic_at),
        groups_by_state=summary.groups_by_state,
        subbands_missing=sum(
            max(rules.expected_subbands - accepted, 0) * number
            for accepted, number in summary.accepted_subbands.items()
        ),
    )


def image_qualities(facts: RegistryFacts) -> list[ImageQuality]:
    """What the newest images measured, the newest first."""
    images = () if facts.summary is None else facts.summary.images
    return [
        ImageQuality(
            group=image.group_id,
            observed_at=_observed_at(image.group_id, image.mid_mjd),
            noise_jy=image.rms_jy,
            flux_ratio=image.flux_ratio,
            flagged_share=image.flagged_share,
        )
        for image in images
    ]


def _observed_at(group_id: str, mid_mjd: float | None) -> datetime:
    """The middle of the observation, or else the time that is the group's name."""
    if mid_mjd is not None:
        return datetime.fromtimestamp((mid_mjd - _MJD_OF_UNIX_EPOCH) * 86_400.0, UTC)
    try:
        return datetime.fromisoformat(group_id).replace(tzinfo=UTC)
    except ValueError:
        return datetime.fromtimestamp(0, UTC) + timedelta()
