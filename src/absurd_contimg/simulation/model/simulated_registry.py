"""The simulated registry: groups, products, calibrations, and the parts of it.

It survives the death of every process, as the real one does, which is a database of its own.
Whether a group has a calibrator in its field is the world's decision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from absurd_contimg.core.records import Json
from absurd_contimg.errors import MissingInputError
from absurd_contimg.ingest.daemon import accepted_files
from absurd_contimg.products.manifest import Manifest
from absurd_contimg.products.mosaic_outputs import (
    MissingMember,
    MosaicMember,
    MosaicMembers,
    MosaicOutputs,
)
from absurd_contimg.products.outputs import ContinuumImage, ImageOutputs, names
from absurd_contimg.registry import Group, GroupStatus
from absurd_contimg.registry.models import IngestState
from absurd_contimg.registry.publications import PublicationState
from absurd_contimg.registry.transits import GroupObservation
from absurd_contimg.simulation.model.simulated_batches import SimulatedBatches
from absurd_contimg.simulation.model.simulated_ingestion import SimulatedIngestion
from absurd_contimg.simulation.model.simulated_publications import SimulatedPublications


class SimulatedRegistry:
    """A `PipelineRegistry`."""

    def __init__(self, solves: Callable[[str], bool] | None = None) -> None:
        self.solves = solves or (lambda _group_id: True)
        """Whether a calibrator is in this group's field."""
        self._groups: dict[str, Group] = {}
        self._waiting: dict[str, None] = {}
        self.products: dict[str, Mapping[str, Json]] = {}
        self.calibrations: dict[str, None] = {}
        self._images: dict[str, Mapping[str, Json]] = {}
        self._folders: dict[str, Path] = {}
        self.publications = SimulatedPublications(self._folders.__getitem__)
        self.ingestion = SimulatedIngestion(partial(_status_in, self._groups))
        self.batches = SimulatedBatches()

    def fork(self) -> SimulatedRegistry:
        """An independent copy."""
        twin = SimulatedRegistry(self.solves)
        twin._groups = dict(self._groups)
        twin._waiting = dict(self._waiting)
        twin.products = dict(self.products)
        twin.calibrations = dict(self.calibrations)
        twin._images = dict(self._images)
        twin._folders = dict(self._folders)
        twin.publications = self.publications.fork(twin._folders.__getitem__)
        twin.ingestion = self.ingestion.fork(partial(_status_in, twin._groups))
        twin.batches = self.batches.fork()
        return twin

    def contents(self) -> tuple[object, ...]:
        """Everything that it knows."""
        known = (self._groups, self._waiting, self.products, self.calibrations)
        parts = (self.publications, self.ingestion, self.batches)
        return (*map(repr, known), *(part.contents() for part in parts))

    def registered(self) -> Mapping[str, object]:
        """The products and the published copies that it knows, by path."""
        copies = self.publications.all()
        published = {
            str(copy.destination): copy
            for copy in copies
            if copy.state is PublicationState.PUBLISHED
        }
        return {**self.products, **published}

    def register(self, folder: Path, manifest: Manifest) -> None:
        """Enter a committed product; the same one again changes nothing."""
        place, outputs = str(folder), manifest.outputs
        self.products[place] = outputs
        self._folders[manifest.key] = folder
        caltables = outputs.get("caltables")
        if isinstance(caltables, Mapping) and caltables["solved"]:
            self.calibrations[place] = None
        if outputs.keys() in (names(ImageOutputs), names(MosaicOutputs)):
            self._images[manifest.group_id] = outputs
        if outputs.keys() == names(ImageOutputs):
            self.ingestion.note_image(manifest.group_id, manifest.key)

    def set_group_status(
        self, group_id: str, status: GroupStatus, reason: str | None = None
    ) -> None:
        """Set the status of a group; a new group is entered."""
        self._groups[group_id] = Group(group_id, status, reason, ())
        if status is GroupStatus.WAITING_FOR_CALIBRATION:
            self._waiting[group_id] = None
        else:
            self._waiting.pop(group_id, None)

    def status_of(self, group_id: str) -> tuple[GroupStatus, str]:
        """What workers have noted of a group."""
        return _status_in(self._groups, group_id)

    def groups(self, status: GroupStatus | None = None) -> Sequence[Group]:
        """The groups of one status, or all, in the order of their names."""
        if status is GroupStatus.WAITING_FOR_CALIBRATION:
            return [self._groups[group_id] for group_id in sorted(self._waiting)]
        return [
            group
            for _, group in sorted(self._groups.items())
            if status is None or group.status is status
        ]

    def observed_groups(self, start_mjd: float) -> Sequence[GroupObservation]:
        """The closed groups since a time, in the order of time."""
        return [
            GroupObservation(
                group.group_id,
                group.mid_mjd,
                group.declination_deg,
                group.n_subbands or 0,
                has_measurement_set=False,
                status=group.status.value,
            )
            for group in self.ingestion.observations()
            if group.ingest_state is IngestState.CLOSED
            and group.mid_mjd is not None
            and group.declination_deg is not None
            and group.mid_mjd >= start_mjd
        ]

    def group(self, group_id: str) -> Group:
        """One group with its files."""
        status, reason = self.status_of(group_id)
        (group,) = self.ingestion.groups(group_id=group_id)
        return Group(group_id, status, reason or None, accepted_files(group))

    def image_outputs(self, group_id: str) -> Mapping[str, Json]:
        """The outputs of the image of a group, or of the mosaic of a window."""
        if group_id not in self._images:
            raise MissingInputError(f"There is no image of {group_id}.")
        return self._images[group_id]

    def mosaic_members(self, group_ids: Sequence[str]) -> MosaicMembers:
        """The image of each group, and the groups without one."""
        tiles, missing = [], []
        for group_id in group_ids:
            image = self._images.get(group_id, {}).get("image")
            if isinstance(image, Mapping):
                path = Path(str(image["path"]))
                described = ContinuumImage(
                    path, path, path, path, "simulated", *(0.0,) * 6, 0, *(0.0,) * 4
                )
                tiles.append(MosaicMember(group_id, described))
            else:
                missing.append(MissingMember(group_id, "it has no image yet"))
        return MosaicMembers(tuple(tiles), tuple(missing))

    def calibration_exists(self, group_id: str) -> bool:
        """Whether a set is solved: it serves every group of the simulated strip."""
        return bool(self.calibrations)


def _status_in(groups: Mapping[str, Group], group_id: str) -> tuple[GroupStatus, str]:
    """A function of the groups alone: the ingestion that refers to it is part of the registry, and
    would keep a world that has ended in memory."""
    group = groups.get(group_id)
    return (GroupStatus.DISCOVERED, "") if group is None else (group.status, group.reason or "")
