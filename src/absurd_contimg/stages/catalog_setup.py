"""Stage ``catalog_setup``: the part of the sky catalogue that belongs to a declination strip."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from absurd_contimg.core.records import Json
from absurd_contimg.errors import DataQualityError, InputError, OutputError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.stage import PipelineStage, Workspace
from absurd_contimg.science.catalogue import read_catalogue, write_catalogue
from absurd_contimg.science.uvh5 import input_files, read_header


class CatalogSetupStage(PipelineStage):
    """Reads the strip's declination from the data and keeps the sources around it."""

    name = "catalog_setup"
    requires = frozenset({"input_files", "catalog_path"})
    provides = frozenset({"catalog"})
    product_folder: ClassVar[str | None] = "catalogs"

    @override
    def parameters(self, context: PipelineContext) -> Mapping[str, Json]:
        return {"strip_half_width_deg": context.config.catalog.strip_half_width_deg}

    @override
    def input_paths(self, context: PipelineContext) -> list[Path]:
        return [*input_files(context.inputs), _catalogue_path(context)]

    @override
    def validate(self, context: PipelineContext) -> None:
        # Every file is looked at, so that a group with a bad one fails in its first second.
        for path in input_files(context.inputs):
            read_header(path)
        read_catalogue(_catalogue_path(context))

    @override
    def execute(self, context: PipelineContext, workspace: Workspace) -> dict[str, Json]:
        declination = read_header(input_files(context.inputs)[0]).declination_deg
        half_width = context.config.catalog.strip_half_width_deg
        strip = [
            source
            for source in read_catalogue(_catalogue_path(context))
            if abs(source.dec_deg - declination) <= half_width
        ]
        if not strip:
            raise DataQualityError(
                f"the sky catalogue {_catalogue_path(context)} has no source within "
                f"{half_width} deg of declination {declination:.2f} deg.",
                "Give a catalogue that covers this strip.",
            )
        path = workspace.product / "catalog.csv"
        write_catalogue(path, strip)
        return {
            "catalog": {
                "path": workspace.final_path(path),
                "declination_deg": round(declination, 6),
                "n_sources": len(strip),
            }
        }

    @override
    def validate_outputs(
        self, context: PipelineContext, workspace: Workspace, outputs: Mapping[str, Json]
    ) -> None:
        written = len(read_catalogue(workspace.product / "catalog.csv"))
        expected = outputs["catalog"]
        if not isinstance(expected, Mapping) or written != expected["n_sources"]:
            raise OutputError(f"the strip catalogue has {written} sources, not as many as chosen.")


def _catalogue_path(context: PipelineContext) -> Path:
    path = context.inputs.get("catalog_path")
    if not isinstance(path, str):
        raise InputError(
            f"the input catalog_path is not a path but {path!r}.",
            "Name the sky catalogue's CSV file.",
        )
    return Path(path)
