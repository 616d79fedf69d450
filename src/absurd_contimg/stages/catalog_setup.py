"""Stage ``catalog_setup``: the part of the sky catalogue that belongs to a declination strip."""

from __future__ import annotations

import math
from pathlib import Path

from typing_extensions import override

from absurd_contimg.errors import DataQualityError, OutputError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.stage import Parameters, PipelineStage, Workspace
from absurd_contimg.products.outputs import CatalogSetupOutputs, StripCatalogue, names
from absurd_contimg.science.catalogue import read_catalogue, write_catalogue
from absurd_contimg.science.raw_file import read_raw_header
from absurd_contimg.science.raw_group import read_raw_group


class CatalogSetupStage(PipelineStage[CatalogSetupOutputs]):
    """Reads the strip's declination from the data and keeps the sources around it."""

    name = "catalog_setup"
    requires = frozenset({"input_files", "catalog_path"})
    provides = names(CatalogSetupOutputs)
    product_folder = "catalogs"

    @override
    def parameters(self, context: PipelineContext) -> Parameters:
        return {"strip_half_width_deg": context.config.catalog.strip_half_width_deg}

    @override
    def input_paths(self, context: PipelineContext) -> list[Path]:
        # One header has the declination; all 16 files would take 4 s to digest.
        return [_first_file(context), context.group_inputs.catalog_path]

    @override
    def validate(self, context: PipelineContext) -> None:
        # All headers are checked here, so that a group with a bad file fails in its first second.
        config = context.config
        read_raw_group(context.group_inputs.input_files, config.conversion, config.site)
        read_catalogue(context.group_inputs.catalog_path)

    @override
    def execute(self, context: PipelineContext, workspace: Workspace) -> CatalogSetupOutputs:
        inputs = context.group_inputs
        declination = math.degrees(read_raw_header(_first_file(context)).declination_rad)
        half_width = context.config.catalog.strip_half_width_deg
        catalogue = read_catalogue(inputs.catalog_path)
        strip = [s for s in catalogue if abs(s.dec_deg - declination) <= half_width]
        if not strip:
            raise DataQualityError(
                f"the sky catalogue {inputs.catalog_path} has no source within "
                f"{half_width} deg of declination {declination:.2f} deg.",
                "Give a catalogue that covers this strip.",
            )
        path = workspace.product / "catalog.csv"
        write_catalogue(path, strip)
        catalog = StripCatalogue(workspace.final_path(path), round(declination, 6), len(strip))
        return CatalogSetupOutputs(catalog)

    @override
    def validate_outputs(
        self, context: PipelineContext, workspace: Workspace, outputs: CatalogSetupOutputs
    ) -> None:
        n_written = len(read_catalogue(workspace.product / "catalog.csv"))
        if n_written != (n_chosen := outputs.catalog.n_sources):
            raise OutputError(f"the strip catalogue has {n_written} sources, not {n_chosen}.")


def _first_file(context: PipelineContext) -> Path:
    """The same whatever the order in which the files are given."""
    return min(context.group_inputs.input_files)
