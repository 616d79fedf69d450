"""The rows of photometry products, which are read from their tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from sky_products import commit_photometry

from absurd_contimg.errors import BrokenProductError, MissingInputError
from absurd_contimg.products.photometry_table import SourceFlux
from absurd_contimg.registry import Registry
from absurd_contimg.registry.photometry import image_outputs, list_measurements

GROUP, WINDOW = "2025-01-02T03:04:05", "window-1"
ROWS = [
    SourceFlux("A", 10.0, 16.0, 60000.0, 1.0, 0.01, 1.1, 0.01, 0.9, 0),
    SourceFlux("B", 11.0, 16.0, 60000.0, None, None, 0.5, None, 0.4, 1, ("blended", "edge")),
    SourceFlux("C", 12.0, 16.0, 60000.0, -0.02, 0.01, 0.5, 0.01, 0.4, 1, ("blended", "edge")),
]


def test_measured_sources_have_rows_and_a_window_is_no_group(
    registry: Registry, tmp_path: Path
) -> None:
    """Entering a product again changes nothing, nor does a rebuild."""
    output_dir = tmp_path / "products"
    products = [
        commit_photometry(output_dir, GROUP, ROWS),
        commit_photometry(output_dir, WINDOW, ROWS, measured_in="mosaic"),
    ]
    for product in [*products, products[1]]:
        registry.register(product.folder, product.manifest)
    before = list_measurements(registry.database)
    assert sorted((m.group_id, m.source, m.flux_jy, m.flags) for m in before) == [
        (GROUP, "A", 1.0, ""),
        (GROUP, "C", -0.02, "blended edge"),
        (WINDOW, "A", 1.0, ""),
        (WINDOW, "C", -0.02, "blended edge"),
    ]
    assert [group.group_id for group in registry.groups()] == [GROUP]
    assert registry.rebuild(output_dir).entered == 2
    assert list_measurements(registry.database) == before
    assert [group.group_id for group in registry.groups()] == [GROUP]


def test_a_product_with_a_broken_table_is_named(registry: Registry, tmp_path: Path) -> None:
    """A rebuild leaves it out and enters the others."""
    output_dir = tmp_path / "products"
    broken = commit_photometry(output_dir, GROUP, ROWS)
    commit_photometry(output_dir, WINDOW, ROWS, measured_in="mosaic")
    table = broken.folder / "table.ecsv"
    table.write_text(table.read_text().replace("60000.0", "soon", 1))
    with pytest.raises(BrokenProductError, match=r"table\.ecsv.*line 18.*soon"):
        registry.register(broken.folder, broken.manifest)
    report = registry.rebuild(output_dir)
    assert [folder for folder, _ in report.broken] == [broken.folder]
    assert {m.group_id for m in list_measurements(registry.database)} == {WINDOW}


def test_nothing_to_measure_is_named(registry: Registry) -> None:
    """A group without an image, or a name of nothing."""
    with pytest.raises(MissingInputError, match=GROUP):
        image_outputs(registry.database, GROUP)
