"""Which products were made from others, at any distance, by what their manifests say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from absurd_contimg.errors import BrokenProductError
from absurd_contimg.products.manifest import Manifest, read_manifest


def made_from(
    products: Iterable[Path], folders: Iterable[Path]
) -> dict[Path, dict[Path, Manifest]]:
    """By each of the products that has some, those in the folders that were made from it.

    A folder whose manifest cannot be read counts for nothing.
    """
    dependents: dict[str, dict[Path, Manifest]] = defaultdict(dict)
    for folder in folders:
        with suppress(OSError, BrokenProductError):
            manifest = read_manifest(folder)
            for entry in manifest.inputs:
                if entry.kind == "product":
                    dependents[entry.digest.partition("/")[0]][folder] = manifest
    made: dict[Path, dict[Path, Manifest]] = {}
    for product in products:
        with suppress(OSError, BrokenProductError):
            keys, after = [read_manifest(product).key], dict[Path, Manifest]()
            while keys:
                new = {p: m for p, m in dependents[keys.pop()].items() if p not in after}
                after |= new
                keys += [manifest.key for manifest in new.values()]
            if after:
                made[product] = after
    return made
