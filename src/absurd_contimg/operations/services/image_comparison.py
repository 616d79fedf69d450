"""Two images of one group side by side: what was changed, and what came of it.

From the registry, the manifests and the tables of sources: no image is read.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from absurd_contimg.core.records import Json
from absurd_contimg.errors import MissingInputError, UserError
from absurd_contimg.products.manifest import InputEntry, Manifest, read_manifest
from absurd_contimg.products.outputs import (
    ImageOutputs,
    SourceCheck,
    SourceTable,
    ValidateOutputs,
    from_json,
)
from absurd_contimg.registry import Registry
from absurd_contimg.registry.models import MeasurementSetRow
from absurd_contimg.registry.newest_products import RegisteredProduct, products_of
from absurd_contimg.regular_files import read_json
from absurd_contimg.science.noise import robust_rms
from absurd_contimg.similar_names import did_you_mean

_KEY_DIGITS = 10
"""Of a product's key, in the name of its folder."""


@dataclass(frozen=True, slots=True)
class Change:
    """What differs between what the two are made from; None: one of them does not have it."""

    name: str
    """A setting with its stage, ``image: robust``; or a version, input files, a fallback."""
    old: Json
    new: Json


@dataclass(frozen=True, slots=True)
class ImageVersion:
    """One of the two images and its figures; None: not known."""

    key: str
    created_at: str
    folder: Path
    noise_jy: float
    dynamic_range: float
    bmaj_arcsec: float
    bmin_arcsec: float
    bpa_deg: float
    flagged_fraction: float | None = None
    """Of the calibrated Measurement Set."""
    verdict: str | None = None
    n_matched: int | None = None
    """Sources of the catalogue that were detected."""
    flux_ratio_median: float | None = None
    """To the catalogue."""
    position_error_median_arcsec: float | None = None
    """To the catalogue."""


@dataclass(frozen=True, slots=True)
class SourceComparison:
    """The isolated sources of the catalogue that were detected in both; the new over the old."""

    n_common: int
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]
    flux_ratio_median: float | None
    flux_ratio_scatter: float | None
    """1.4826 times the median deviation from the median."""
    position_median_arcsec: float | None
    position_max_arcsec: float | None


@dataclass(frozen=True, slots=True)
class ImageComparison:
    """Two images of one group, the older one first."""

    group_id: str
    old: ImageVersion
    new: ImageVersion
    changes: tuple[Change, ...]
    sources: SourceComparison | None
    """None: there is no table of sources of one of them."""
    problems: tuple[str, ...] = ()
    """What could not be read."""


def compare_images(
    registry: Registry, group_id: str, with_key: str | None = None
) -> ImageComparison:
    """The newest image of a group beside the one before it, or the one whose key begins so.

    Raises `MissingInputError` where there are not two.
    """
    products = products_of(registry.database, group_id)
    images = [product for product in products if product.stage == "image"]
    if not images:
        known = [group.group_id for group in registry.groups()]
        raise MissingInputError(
            f"There is no image of a group {group_id!r}.",
            did_you_mean(group_id, known, "contimg groups lists the groups."),
        )
    earlier = [each for each in images[:-1] if each.key.startswith(with_key or "")]
    if not earlier:
        raise _no_other(group_id, images, with_key)
    problems: list[str] = []
    flagged = {
        row["product_key"]: row["flagged_fraction"]
        for row in registry.rows(MeasurementSetRow)
        if row["group_id"] == group_id and row["kind"] == "calibrated"
    }
    old, new = (_Lineage(product, products, problems) for product in (earlier[-1], images[-1]))
    before, after = old.sources(), new.sources()
    return ImageComparison(
        group_id,
        old.version(flagged),
        new.version(flagged),
        tuple(_changes(old.made_from(), new.made_from())),
        None if before is None or after is None else compare_sources(before, after),
        tuple(dict.fromkeys(problems)),
    )


def _no_other(
    group_id: str, images: Sequence[RegisteredProduct], with_key: str | None
) -> MissingInputError:
    if len(images) == 1:
        return MissingInputError(
            f"There is one image of {group_id} only: nothing to compare it with.",
            "Make another: contimg reprocess start. Retention may have removed an earlier one.",
        )
    keys = ", ".join(image.key[:_KEY_DIGITS] for image in images[:-1])
    return MissingInputError(
        f"No earlier image of {group_id} has a key that begins with {with_key!r}.",
        f"There are {keys}.",
    )


class _Lineage:
    """An image with the products that it was made from, and its validation."""

    def __init__(
        self,
        image: RegisteredProduct,
        products: Sequence[RegisteredProduct],
        problems: list[str],
    ) -> None:
        self._image, self._problems = image, problems
        by_key = {product.key: product for product in products}
        self._manifests: dict[str, Manifest] = {}
        """By stage: the image's, and those of what it was made from."""
        self._keys: set[str] = set()
        todo = [image]
        while todo:
            product = todo.pop()
            self._keys.add(product.key)
            manifest = self._manifest(product)
            if manifest is None:
                continue
            self._manifests[product.stage] = manifest
            keys = {_key_of(entry) for entry in manifest.inputs}
            todo += [by_key[key] for key in sorted(keys - self._keys) if key in by_key]
        validations = [product for product in products if product.stage == "validate"]
        self._validation = next(
            (each for each in reversed(validations) if self._is_made_from(each, image.key)), None
        )

    def _manifest(self, product: RegisteredProduct) -> Manifest | None:
        try:
            return read_manifest(product.folder)
        except (UserError, OSError) as error:
            self._problems.append(str(error))
            return None

    def _is_made_from(self, product: RegisteredProduct, key: str) -> bool:
        manifest = self._manifest(product)
        inputs = () if manifest is None else manifest.inputs
        return any(entry.digest.startswith(f"{key}/") for entry in inputs)

    def version(self, flagged: Mapping[str, float]) -> ImageVersion:
        """Its figures."""
        image = from_json(ImageOutputs, self._image.outputs).image
        known: dict[str, Any] = {}
        if self._validation is not None:
            validation = from_json(ValidateOutputs, self._validation.outputs).validation
            names = (
                *("verdict", "n_matched", "flux_ratio_median"),
                "position_error_median_arcsec",
            )
            known = {name: getattr(validation, name) for name in names}
        return ImageVersion(
            self._image.key,
            self._image.created_at,
            self._image.folder,
            image.rms_jy,
            image.dynamic_range,
            image.bmaj_arcsec,
            image.bmin_arcsec,
            image.bpa_deg,
            next((flagged[key] for key in sorted(self._keys) if key in flagged), None),
            **known,
        )

    def sources(self) -> list[SourceCheck] | None:
        """The rows of its validation."""
        if self._validation is None:
            return None
        report = from_json(ValidateOutputs, self._validation.outputs).validation.report
        try:
            return list(from_json(SourceTable, read_json(report)).sources)
        except (UserError, OSError, ValueError) as error:
            self._problems.append(f"{report} cannot be read: {error}.")
            return None

    def made_from(self) -> dict[str, Json]:
        """Everything that decides what it is, by a name for people."""
        values: dict[str, Json] = {}
        software: dict[str, set[str]] = {}
        for stage, manifest in self._manifests.items():
            values[f"{stage}: version"] = manifest.stage_version
            values[f"{stage}: fallbacks"] = ", ".join(manifest.fallbacks) or None
            values[f"{stage}: files"] = _files(manifest)
            values[f"{stage}: of other groups"] = _of_other_groups(manifest)
            values |= {f"{stage}: {name}": value for name, value in _flat(manifest.parameters)}
            for name, version in manifest.software.items():
                software.setdefault(name, set()).add(version)
        of_all = {f"software: {name}": ", ".join(sorted(known)) for name, known in software.items()}
        return {**values, **of_all}


def _key_of(entry: InputEntry) -> str:
    return entry.digest.partition("/")[0]


def _of_other_groups(manifest: Manifest) -> str | None:
    """The products of other groups, such as calibrations, by the names of their folders."""
    folders = {
        part
        for entry in manifest.inputs
        for part in Path(entry.path).parts
        if entry.kind == "product" and part.endswith(f"-{_key_of(entry)[:_KEY_DIGITS]}")
    }
    other = sorted(name for name in folders if not name.startswith(f"{manifest.group_id}-"))
    return ", ".join(other) or None


def _files(manifest: Manifest) -> str | None:
    digests = [entry.digest for entry in manifest.inputs if entry.kind != "product"]
    if not digests:
        return None
    content = hashlib.blake2b("".join(digests).encode(), digest_size=4).hexdigest()
    return f"{len(digests)}, content {content}"


def _flat(values: Mapping[str, Json], prefix: str = "") -> Iterator[tuple[str, Json]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _changes(old: Mapping[str, Json], new: Mapping[str, Json]) -> Iterator[Change]:
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            yield Change(name, old.get(name), new.get(name))


def compare_sources(old: Sequence[SourceCheck], new: Sequence[SourceCheck]) -> SourceComparison:
    """The sources of one catalogue in two images, by their names."""
    before, after = _detected(old), _detected(new)
    common = sorted(before.keys() & after.keys())
    ratios = [after[name][0] / before[name][0] for name in common if before[name][0]]
    shifts = [
        math.hypot(after[name][1] - before[name][1], after[name][2] - before[name][2])
        for name in common
    ]
    middle = median(ratios) if ratios else None
    return SourceComparison(
        len(common),
        tuple(sorted(before.keys() - after.keys())),
        tuple(sorted(after.keys() - before.keys())),
        middle,
        robust_rms(np.array(ratios)) if ratios else None,
        median(shifts) if shifts else None,
        max(shifts, default=None),
    )


def _detected(rows: Sequence[SourceCheck]) -> dict[str, tuple[float, float, float]]:
    """Flux in Jy, and the offset from the catalogue's position in arc seconds, east and north."""
    return {
        row.name: (row.measured_jy, row.east_arcsec, row.north_arcsec)
        for row in rows
        if row.isolated
        and row.measured_jy is not None
        and row.east_arcsec is not None
        and row.north_arcsec is not None
    }
