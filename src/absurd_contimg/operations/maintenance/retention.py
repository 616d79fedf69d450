"""Retention: which products are old enough to go, which of them stay and why, and their removal.

Mosaics, fluxes, solutions and published copies stay by default. What is removed is noted in the
registry, so that nothing counts as missing afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from absurd_contimg.config.retention import REMOVED, RetentionConfig
from absurd_contimg.errors import BrokenProductError
from absurd_contimg.operations.maintenance.needs import Needs
from absurd_contimg.products.filesystem import LOCAL, FileSystem
from absurd_contimg.products.mosaic_outputs import MosaicOutputs
from absurd_contimg.products.outputs import (
    CalibrateApplyOutputs,
    CalibrateSolveOutputs,
    ConvertOutputs,
    FlagOutputs,
    ImageOutputs,
    PhotometryOutputs,
    ValidateOutputs,
    names,
)
from absurd_contimg.products.removal import TakenOut, interrupted, noting_refusals, take_out
from absurd_contimg.products.store import link_above, why_not_removable
from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.registry.models import CaltableSetRow, ObservationGroup, Product
from absurd_contimg.registry.removed_products import RemovedProduct

_DAY_SECONDS = 86_400.0
_GROUPS_AT_ONCE = 20
_MEASUREMENT_SETS = (ConvertOutputs, FlagOutputs, CalibrateApplyOutputs)
_IMAGES = (ImageOutputs, ValidateOutputs)
_FAILED = (GroupStatus.FAILED.value, GroupStatus.QUARANTINED.value)


@dataclass(frozen=True, slots=True)
class OldProduct:
    """A product that is older than its type is kept."""

    key: str
    stage: str
    group_id: str
    folder: Path
    size_bytes: int
    age_days: float
    rule: str
    """The type and the limit, as ``science_ms_days 30``."""
    kept: str | None = None
    """Why it stays all the same."""


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """What would go, and what is old and stays."""

    old: tuple[OldProduct, ...] = ()
    younger: int = 0
    """Products that are not old enough, or whose type is always kept."""

    @property
    def removed(self) -> list[OldProduct]:
        """The products that would go."""
        return [product for product in self.old if product.kept is None]

    @property
    def kept(self) -> list[OldProduct]:
        """The products that are old and stay."""
        return [product for product in self.old if product.kept is not None]

    @property
    def removed_bytes(self) -> int:
        """What would be free afterwards."""
        return sum(product.size_bytes for product in self.removed)


@dataclass(frozen=True, slots=True)
class RetentionReport:
    """What a run has done."""

    removed: tuple[OldProduct, ...]
    kept: tuple[OldProduct, ...]
    finished: int
    """Removals of an interrupted run that were finished."""
    refused: tuple[str, ...] = ()
    """Sentences on what could not be removed, why, and what to do."""


def plan_retention(
    registry: Registry, config: RetentionConfig, needs: Needs, now: datetime
) -> RetentionPlan:
    """What retention would remove now; changes nothing."""
    status = {row["group_id"]: row["status"] for row in registry.rows(ObservationGroup)}
    calibrators = {row["group_id"] for row in registry.rows(CaltableSetRow)}
    old: list[OldProduct] = []
    younger = 0
    for row in registry.rows(Product):
        kind = _kind(row["outputs"].keys(), row["group_id"] in calibrators)
        limits = [] if kind is None else [(f"{kind}_days", getattr(config, f"{kind}_days"))]
        is_of_failed = status.get(row["group_id"]) in _FAILED
        if is_of_failed and kind not in ("caltables", "mosaics", "photometry"):
            limits.append(("failed_days", config.failed_days))
        days = _age_days(row["created_at"], now)
        passed = [(limit, name) for name, limit in limits if limit is not None and days > limit]
        if not passed:
            younger += 1
            continue
        limit, name = min(passed)
        folder = Path(row["folder"])
        kept = needs.reason(row["key"], row["group_id"], folder)
        if kept is None and not _is_at_its_place(folder, registry.database.output_dir):
            kept = "it is a link, behind one, or not there: contimg registry check"
        if kept is None:
            kept = why_not_removable(folder)
        old.append(
            OldProduct(
                *(row["key"], row["stage"], row["group_id"], folder),
                *(row["size_bytes"], days, f"{name} {limit:g}", kept),
            )
        )
    # What was made last goes first: what is left at any moment is the beginning of a chain.
    old.sort(key=lambda product: (product.group_id, product.age_days))
    return RetentionPlan(tuple(old), younger)


def run_retention(
    registry: Registry,
    output_dir: Path,
    plan: RetentionPlan,
    read_needs_again: Callable[[], Needs],
    now: datetime,
    files: FileSystem = LOCAL,
) -> RetentionReport:
    """Remove what the plan says, except for what is needed or holds other files by now.

    Products are taken out of their places first; what is needed then is put back. Two runs at
    once: the second one does nothing.
    """
    if not files.is_folder(output_dir):
        return RetentionReport((), (), 0)
    if (output_dir / REMOVED).is_symlink():
        raise BrokenProductError(
            f"{output_dir / REMOVED} is a link.", "Remove it: products are held there meanwhile."
        )
    if not plan.removed and not files.is_folder(output_dir / REMOVED):
        return RetentionReport((), tuple(plan.kept), 0)  # an empty mount point gets no folder
    files.ensure_folder(output_dir / REMOVED)
    lock = files.try_lock(output_dir / REMOVED / ".lock")
    if lock is None:
        return RetentionReport((), (), 0)
    try:
        refused: list[str] = []
        left = list(interrupted(output_dir, files, refused))
        finished = sum(_finish(registry, each, files, refused) for each in left)
        removed: list[OldProduct] = []
        kept: list[OldProduct] = list(plan.kept)
        for part in _parts(plan.removed):
            mixed = _with_other_files(part, files)
            kept += mixed
            mixed_keys = {product.key for product in mixed}
            clean = [product for product in part if product.key not in mixed_keys]
            taken = _take_out(output_dir, clean, now, files, refused)
            needs = read_needs_again()
            for product, out in taken:
                if needs.reason(product.key, product.group_id, product.folder) is not None:
                    with noting_refusals(product.folder, refused):
                        out.put_back(files)
                elif _finish(registry, out, files, refused):
                    removed.append(product)
    finally:
        files.unlock(lock)
    return RetentionReport(tuple(removed), tuple(kept), finished, tuple(refused))


def _is_at_its_place(folder: Path, output_dir: str | None) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return False
    return output_dir is None or link_above(folder, Path(output_dir)) is None


def _with_other_files(products: Iterable[OldProduct], files: FileSystem) -> list[OldProduct]:
    """The products that stay because of what is in their folders by now."""
    reasons = ((each, why_not_removable(each.folder, files)) for each in products)
    return [
        replace(product, kept=reason)
        for product, reason in reasons
        if reason is not None and files.is_folder(product.folder)
    ]


def _take_out(
    output_dir: Path,
    products: Iterable[OldProduct],
    now: datetime,
    files: FileSystem,
    refused: list[str],
) -> list[tuple[OldProduct, TakenOut]]:
    removed_at = now.astimezone(UTC).isoformat(timespec="seconds")
    taken = []
    for product in products:
        # Another run was faster, or it was made again.
        with suppress(BrokenProductError), noting_refusals(product.folder, refused):
            out = take_out(
                *(output_dir, product.folder, product.key),
                size_bytes=product.size_bytes,
                removed_at=removed_at,
                reason=product.rule,
                files=files,
            )
            taken.append((product, out))
    return taken


def _finish(registry: Registry, out: TakenOut, files: FileSystem, refused: list[str]) -> bool:
    """Let the registry forget a product, then remove its files; whether it has gone."""
    was_out = out.is_out(files)
    if was_out:
        registry.note_removed(
            RemovedProduct(
                product_key=out.key,
                stage=out.stage,
                group_id=out.group_id,
                folder=out.folder,
                size_bytes=out.size_bytes,
                removed_at=out.removed_at,
                reason=out.reason,
            )
        )
    count = len(refused)
    with noting_refusals(out.holding, refused):
        out.remove(files)
    return was_out and len(refused) == count


def _parts(products: Sequence[OldProduct]) -> list[list[OldProduct]]:
    """The products of some groups at a time."""
    by_group: dict[str, list[OldProduct]] = {}
    for product in products:
        by_group.setdefault(product.group_id, []).append(product)
    groups = list(by_group.values())
    return [
        [product for group in groups[first : first + _GROUPS_AT_ONCE] for product in group]
        for first in range(0, len(groups), _GROUPS_AT_ONCE)
    ]


def _kind(outputs: Iterable[str], is_calibrator: bool) -> str | None:
    """The type of a product, as in the names of the settings, by its outputs."""
    members = set(outputs)
    kinds: Mapping[str, tuple[type[object], ...]] = {
        "calibrator_ms" if is_calibrator else "science_ms": _MEASUREMENT_SETS,
        "images": _IMAGES,
        "mosaics": (MosaicOutputs,),
        "photometry": (PhotometryOutputs,),
        "caltables": (CalibrateSolveOutputs,),
    }
    for kind, types in kinds.items():
        if any(names(each) == members for each in types):
            return kind
    return None


def _age_days(created_at: str, now: datetime) -> float:
    made = datetime.fromisoformat(created_at)
    aware = made if made.tzinfo is not None else made.replace(tzinfo=UTC)
    return (now - aware).total_seconds() / _DAY_SECONDS
