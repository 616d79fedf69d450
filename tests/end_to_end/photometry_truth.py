"""Forced photometry in the images and mosaics of a synthetic sky, against its catalogue.

    python tests/end_to_end/field_fluxes.py --work DIR      # or mosaic_truth.py: makes the images
    python tests/end_to_end/photometry_truth.py --work DIR  # measures in them, seconds each

Exit code 1 if the mean flux of sources above 50 sigma errs by more than 1 % in an image, or more
than one source outside the catalogue is found.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.stage import Workspace
from absurd_contimg.products.photometry_table import read_photometry
from absurd_contimg.products.store import load_committed, product_folders
from absurd_contimg.stages.photometry import PhotometryStage

SNR_MIN = 50.0
FLUX_ERROR_MAX = 0.01
UNCATALOGUED_MAX = 1


def measure(folder: Path, config: PipelineConfig) -> bool:
    """Measure in one image or mosaic, print the figures, and tell whether they are good."""
    manifest = load_committed(folder)
    catalogue = config.paths.input_dir / "catalog.csv"
    inputs = {"group_id": manifest.group_id, "catalog_path": str(catalogue)}
    with TemporaryDirectory() as temporary:
        place = Path(temporary)
        workspace = Workspace(place, place, place / "log", place)
        context = PipelineContext(config, inputs, manifest.outputs)
        figures = PhotometryStage().execute(context, workspace).photometry
        rows = read_photometry(figures.table)
    ratios, pulls = [], []
    for row in rows:
        if row.flux_jy is None or row.error_jy is None or row.catalogue_jy is None:
            continue
        pulls.append((row.flux_jy - row.catalogue_jy) / row.error_jy)
        if row.flux_jy >= SNR_MIN * row.error_jy and not row.flags:
            ratios.append(row.flux_jy / row.catalogue_jy)
    mean, scatter = float(np.mean(ratios)), float(np.std(ratios))
    print(
        f"{figures.measured_in:6} {manifest.group_id}  {len(ratios)} sources: {mean:.4f} +- "
        f"{scatter:.4f}, {min(ratios):.3f} to {max(ratios):.3f}; pulls {np.mean(pulls):+.2f} +- "
        f"{np.std(pulls):.2f}; {figures.n_uncatalogued} outside the catalogue"
    )
    return abs(mean - 1.0) <= FLUX_ERROR_MAX and figures.n_uncatalogued <= UNCATALOGUED_MAX


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the run before")
    arguments = parser.parse_args()
    config = PipelineConfig(paths=PathsConfig.below(arguments.work))
    output_dir = config.paths.output_dir
    folders = [f for f in product_folders(output_dir) if f.parent.name in ("images", "mosaics")]
    if not folders:
        parser.error(f"there is no image below {output_dir}")
    verdicts = [measure(folder, config) for folder in sorted(folders)]  # prints every image
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
