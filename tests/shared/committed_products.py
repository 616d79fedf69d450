"""All committed products of an output folder, for tests that look at each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from absurd_contimg.products.manifest import Manifest
from absurd_contimg.products.store import load_committed, product_folders


def committed_products(output_dir: Path) -> Iterator[tuple[Path, Manifest]]:
    """Folder and manifest of each; a broken manifest raises `BrokenProductError`."""
    for folder in product_folders(output_dir):
        yield folder, load_committed(folder)
