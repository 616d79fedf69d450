"""Which groups are to be processed again: chosen by what the registry and the manifests say."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from absurd_contimg.errors import BrokenProductError
from absurd_contimg.products.manifest import Manifest, read_manifest
from absurd_contimg.products.store import damage_of
from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.registry.models import (
    CaltableSetRow,
    MeasurementSetRow,
    ObservationGroup,
    Product,
    SubbandFile,
    ValidationRow,
)
from absurd_contimg.registry.removed_products import REMOVED_FILE, removed_products

RAW_FILES = "raw files"
"""In `GroupFacts.removed`."""
_UNIX_EPOCH_MJD = 40587.0
_IN_GROUP = {"whole", "changed"}
"""States of files that belong to their group's data."""


class Selection(BaseModel):
    """The conditions that a group has to meet, all of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    since_mjd: float | None = None
    """It begins then or later, by its name; `until_mjd`: before."""
    until_mjd: float | None = None
    declination_deg: float | None = Field(None, ge=-90, le=90)
    declination_tolerance_deg: float = Field(0.5, gt=0)
    caltables: str | None = None
    """The name or the product key of the set of caltables that was applied."""
    verdict: Literal["clean", "degraded", "none"] | None = None
    """Of its newest image; ``none`` where there is none."""
    status: GroupStatus | None = None
    outdated: bool = False
    """A product of it was made by another version of its stage than the installed one."""
    pipeline_version: str | None = None
    """A product of it was made by this version of the package."""


@dataclass(frozen=True, slots=True)
class GroupProduct:
    """A product in the registry."""

    stage: str
    stage_version: int
    key: str
    folder: Path

    def manifest(self) -> Manifest | None:
        """Its manifest, None if the product is gone or damaged: then nothing is known of it."""
        try:
            return read_manifest(self.folder)
        except BrokenProductError:
            return None

    def damage(self) -> str | None:
        """Why it is not whole, by names and sizes; None if it is, or is gone."""
        return damage_of(self.folder)


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """What the registry knows of a group."""

    group_id: str
    status: GroupStatus
    mid_mjd: float | None
    declination_deg: float | None
    files: tuple[Path, ...]
    products: Mapping[str, Sequence[GroupProduct]] = field(default_factory=dict)
    """By stage, newest first."""
    verdict: str | None = None
    set_names: Mapping[str, str] = field(default_factory=dict)
    """Of all sets of caltables, by product key."""
    removed: Mapping[str, str] = field(default_factory=dict)
    """By stage or file, what retention has removed: when and why."""

    @property
    def start_mjd(self) -> float | None:
        """When it begins, by its name, as people choose it; else its middle."""
        return _first(_mjd_of_name(self.group_id), self.mid_mjd)

    @property
    def caltables(self) -> tuple[str, ...]:
        """Name and key of the set that was applied to its newest data, read from the manifest."""
        for product in self.products.get("calibrate_apply", ())[:1]:
            manifest = product.manifest()
            inputs = () if manifest is None else manifest.inputs
            for key in (entry.digest.partition("/")[0] for entry in inputs):
                if key in self.set_names:
                    return self.set_names[key], key
        return ()


def read_groups(registry: Registry) -> list[GroupFacts]:
    """All groups in the order of time, without what only manifests say."""
    set_names = {row["product_key"]: row["set_name"] for row in registry.rows(CaltableSetRow)}
    measured: dict[str, dict[str, Any]] = {}
    for row in registry.rows(MeasurementSetRow):
        measured.setdefault(row["group_id"], row)
    removed: dict[str, dict[str, str]] = defaultdict(dict)
    for each in removed_products(registry.database):
        removed[each.group_id][each.stage] = str(each)
    files: dict[str, list[Path]] = defaultdict(list)
    for row in sorted(registry.rows(SubbandFile), key=lambda row: (row["subband"], row["path"])):
        if row["state"] in _IN_GROUP:
            files[row["group_id"]].append(Path(row["path"]))
        elif str(row["reason"]).startswith(REMOVED_FILE):
            removed[row["group_id"]][RAW_FILES] = row["reason"]
    products: dict[str, dict[str, list[GroupProduct]]] = defaultdict(lambda: defaultdict(list))
    rows = registry.rows(Product)
    for row in sorted(rows, key=lambda row: row["created_at"], reverse=True):
        product = GroupProduct(row["stage"], row["stage_version"], row["key"], Path(row["folder"]))
        products[row["group_id"]][product.stage].append(product)
    verdicts = {
        row["product_key"]: _verdict(row["details"]) for row in registry.rows(ValidationRow)
    }
    groups = []
    for row in registry.rows(ObservationGroup):
        group_id = row["group_id"]
        ms, own = measured.get(group_id, {}), products[group_id]
        groups.append(
            GroupFacts(
                group_id=group_id,
                status=GroupStatus(row["status"]),
                mid_mjd=_first(row["mid_mjd"], ms.get("mid_mjd"), _mjd_of_name(group_id)),
                declination_deg=_first(row["declination_deg"], ms.get("declination_deg")),
                files=tuple(files[group_id]),
                products=own,
                verdict=next((verdicts.get(p.key) for p in own.get("validate", ())), None),
                set_names=set_names,
                removed=removed[group_id],
            )
        )
    return sorted(groups, key=lambda group: (group.mid_mjd or 0.0, group.group_id))


def select_groups(
    groups: Iterable[GroupFacts], selection: Selection, stage_versions: Mapping[str, int]
) -> list[GroupFacts]:
    """The groups that meet all conditions; a condition on what is not known is not met."""
    return [group for group in groups if _meets(group, selection, stage_versions)]


def _meets(group: GroupFacts, wanted: Selection, stage_versions: Mapping[str, int]) -> bool:
    newest = [products[0] for products in group.products.values()]
    return (
        _lies_between(group.start_mjd, wanted.since_mjd, wanted.until_mjd)
        and _is_near(
            group.declination_deg, wanted.declination_deg, wanted.declination_tolerance_deg
        )
        and wanted.verdict in (None, group.verdict or "none")
        and wanted.status in (None, group.status)
        and (wanted.caltables is None or wanted.caltables in group.caltables)
        and (
            not wanted.outdated
            or any(p.stage_version != stage_versions.get(p.stage, p.stage_version) for p in newest)
        )
        and (
            wanted.pipeline_version is None
            or any(_software(product) == wanted.pipeline_version for product in newest)
        )
    )


def _lies_between(value: float | None, least: float | None, end: float | None) -> bool:
    """The end is excluded."""
    if least is None and end is None:
        return True
    return value is not None and (least or -math.inf) <= value < (math.inf if end is None else end)


def _is_near(value: float | None, wanted: float | None, tolerance: float) -> bool:
    return wanted is None or (value is not None and abs(value - wanted) <= tolerance)


def _software(product: GroupProduct) -> str | None:
    """The version of this package that made it."""
    manifest = product.manifest()
    return None if manifest is None else manifest.software.get("absurd-contimg")


def _verdict(details: Mapping[str, Any]) -> str | None:
    validation = details.get("validation")
    return str(validation.get("verdict")) if isinstance(validation, Mapping) else None


def _mjd_of_name(group_id: str) -> float | None:
    try:
        return mjd_of(datetime.fromisoformat(group_id))
    except ValueError:
        return None


def mjd_of(time: datetime) -> float:
    """The MJD of a time; one without a time zone is in UTC."""
    aware = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    return aware.timestamp() / 86_400.0 + _UNIX_EPOCH_MJD


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)
